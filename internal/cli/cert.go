package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

// wish is what the flags of a request say.
type wish struct {
	ttl          time.Duration
	reason, rule string
	breakGlass   bool
}

func (w *wish) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&w.ttl, "ttl", 0, "lifetime, for example 30m (default: the longest that the rule allows)")
	flags.StringVar(&w.reason, "reason", "", "why access is needed")
	flags.StringVar(&w.rule, "rule", "", "name of the rule to use, if several apply")
	flags.BoolVar(&w.breakGlass, "break-glass", false, "declare an emergency; rules may ask for it, and it is on record")
}

// none tells whether nothing special is wished, so that a certificate that is there will do.
func (w wish) none() bool { return w == wish{} }

func (w wish) request(t target) (ca.Request, error) {
	if w.ttl < 0 || w.ttl%time.Second != 0 {
		return ca.Request{}, &failure{exit: exitUsage, err: fmt.Errorf("--ttl %s: want a positive number of whole seconds", w.ttl)}
	}
	return ca.Request{Login: t.login, Host: t.host, TTL: w.ttl, Reason: w.reason, Rule: w.rule, BreakGlass: w.breakGlass}, nil
}

func (a *app) certCommand() *cobra.Command {
	var wish wish
	cmd := &cobra.Command{
		Use:     "cert LOGIN@HOST",
		Short:   "Get a certificate for a login on a host",
		Example: "  hallpass cert deploy@db1.prod.example.com --ttl 30m --reason 'INC-42: disk full' -o json",
		Args:    exactArgs("LOGIN@HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[0])
			if err != nil {
				return usageError(cmd, err)
			}
			issued, err := a.issue(cmd.Context(), t, wish, cmd.CommandPath())
			if err != nil {
				return err
			}
			return a.showIssued(t, issued)
		},
	}
	wish.flags(cmd)
	return cmd
}

// ensure gets a certificate unless one that is there will do.
func (a *app) ensure(ctx context.Context, t target, w wish, command string) error {
	if w.none() {
		c, err := openCerts()
		if err != nil {
			return err
		}
		keys := c.keys()
		if key, err := keys.Public(); err == nil && c.load(t, key, time.Now()) != nil && keys.Held(ctx, key) == nil {
			return nil
		}
	}
	_, err := a.issue(ctx, t, w, command)
	return err
}

// issue asks for a certificate and puts it where ssh finds it. Its refusals say what was asked.
func (a *app) issue(ctx context.Context, t target, w wish, command string) (*client.Issued, error) {
	issued, err := a.request(ctx, t, w)
	if err != nil {
		return nil, a.refused(err, ask{t, command})
	}
	return issued, nil
}

// request asks for a certificate and puts it where ssh finds it.
func (a *app) request(ctx context.Context, t target, w wish) (*client.Issued, error) {
	r, err := w.request(t)
	if err != nil {
		return nil, err
	}
	conn, who, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	issued, err := conn.Issue(ctx, who, r)
	if err != nil {
		return nil, forked(err)
	}
	a.tellRestored(issued.Restored)
	c, err := openCerts()
	if err != nil {
		return nil, err
	}
	return issued, c.save(t, issued.Certificate)
}

// dial connects as the user who is signed in.
func (a *app) dial(ctx context.Context) (*client.Client, client.SignIn, error) {
	who, address, err := a.signedIn(ctx)
	if err != nil {
		return nil, who, err
	}
	down, err := openUnreachable()
	if err != nil {
		return nil, who, err
	}
	conn, err := client.Dial(ctx, address)
	if err != nil {
		return nil, who, err
	}
	return conn, who, down.forget()
}

// certificateJSON is the form of a certificate in results.
type certificateJSON struct {
	Login           string            `json:"login"`
	Host            string            `json:"host"`
	File            string            `json:"file"`
	Serial          string            `json:"serial"`
	KeyID           string            `json:"key_id"`
	Principals      []string          `json:"principals"`
	ValidAfter      time.Time         `json:"valid_after"`
	ValidBefore     time.Time         `json:"valid_before"`
	CriticalOptions map[string]string `json:"critical_options"`
	Extensions      []string          `json:"extensions"`
	CAKey           string            `json:"ca_key"`
}

func newCertificateJSON(t target, file string, cert *ssh.Certificate) certificateJSON {
	out := certificateJSON{
		Login:           t.login,
		Host:            t.host,
		File:            file,
		Serial:          strconv.FormatUint(cert.Serial, 10),
		KeyID:           cert.KeyId,
		Principals:      cert.ValidPrincipals,
		ValidAfter:      certTime(cert.ValidAfter),
		ValidBefore:     certTime(cert.ValidBefore),
		CriticalOptions: cert.CriticalOptions,
		Extensions:      []string{},
		CAKey:           ssh.FingerprintSHA256(cert.SignatureKey),
	}
	for name := range cert.Extensions {
		out.Extensions = append(out.Extensions, name)
	}
	slices.Sort(out.Extensions)
	return out
}

// certTime is a time of a certificate.
func certTime(seconds uint64) time.Time { return time.Unix(int64(seconds), 0).UTC() }

func (a *app) showIssued(t target, issued *client.Issued) error {
	c, err := openCerts()
	if err != nil {
		return err
	}
	cert := newCertificateJSON(t, c.file(t), issued.Certificate)
	if a.json() {
		return a.printJSON(struct {
			certificateJSON
			Record      string `json:"record"`
			Rule        string `json:"rule"`
			Environment string `json:"environment"`
			Policy      string `json:"policy"`
		}{cert, strconv.FormatUint(issued.Index, 10), issued.Decision.GetRule(), issued.Decision.GetEnvironment(), policyName(issued.Policy)})
	}
	fmt.Fprintf(a.out, "certificate for %s, valid until %s (%s)\n", t, clock(cert.ValidBefore), left(cert.ValidBefore))
	fmt.Fprintf(a.out, "  serial  %s\n  record  %d\n  rule    %s in %s\n  policy  %s\n  file    %s\n", cert.Serial, issued.Index,
		plain(issued.Decision.GetRule()), plain(issued.Decision.GetEnvironment()), plain(short(policyName(issued.Policy))), cert.File)
	return nil
}
