package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show who is signed in, and which certificates there are",
		Long:  "Show who is signed in, and which certificates there are. It asks nobody. The exit code is 4 if nobody is signed in.",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.status(cmd.Context())
		},
	}
}

func (a *app) status(ctx context.Context) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	c, err := openCerts()
	if err != nil {
		return err
	}
	keys := c.keys()
	key, err := keys.Public()
	if err != nil {
		return errSignIn("the key of the sign-in is not where it was put")
	}
	if err := keys.Held(ctx, key); err != nil {
		return err
	}
	if err := c.prune(func(cert *ssh.Certificate) bool { return !holds(cert, time.Now()) }); err != nil {
		return err
	}
	all, err := c.list()
	if err != nil {
		return err
	}
	certificates := []certificateJSON{}
	for _, h := range all {
		certificates = append(certificates, newCertificateJSON(h.target, c.file(h.target), h.cert))
	}
	if a.json() {
		return a.printJSON(struct {
			Server       string            `json:"server"`
			Issuer       string            `json:"issuer"`
			Subject      string            `json:"subject"`
			Email        string            `json:"email"`
			Key          string            `json:"key"`
			KeyHolder    string            `json:"key_holder"`
			Ends         time.Time         `json:"ends"`
			Certificates []certificateJSON `json:"certificates"`
		}{
			s.Server, s.Issuer.Issuer, s.Subject, s.Email, ssh.FingerprintSHA256(key), holder(keys),
			ends(s).UTC().Truncate(time.Second), certificates,
		})
	}
	fmt.Fprintf(a.out, "signed in as %s until %s (%s)\n", plain(userName(s)), clock(ends(s)), left(ends(s)))
	fmt.Fprintf(a.out, "  server  %s\n  issuer  %s\n  key     %s, in the %s\n", s.Server, plain(s.Issuer.Issuer), ssh.FingerprintSHA256(key), holder(keys))
	for _, cert := range certificates {
		fmt.Fprintf(a.out, "  certificate for %s@%s, %s\n", cert.Login, cert.Host, left(cert.ValidBefore))
	}
	return nil
}
