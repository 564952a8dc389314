package cli

import (
	"bytes"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

func (a *app) caCommand() *cobra.Command {
	return group("ca", "The keys of the CA", a.caKeysCommand())
}

func (a *app) caKeysCommand() *cobra.Command {
	var authority string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Print a TrustedUserCAKeys file",
		Long: `Print the user CA keys as a file for TrustedUserCAKeys of sshd_config(5). It needs no sign-in.

A server that trusts the key of an authority lets in whoever that authority certifies: give each server the keys of its own
environment's authority only.`,
		Example: "  hallpass ca keys --authority prod > /etc/ssh/hallpass_user_ca.pub",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			address, err := s.address()
			if err != nil {
				return err
			}
			conn, err := client.Dial(cmd.Context(), address)
			if err != nil {
				return err
			}
			defer conn.Close()
			answer, err := conn.Discover(cmd.Context())
			if err != nil {
				return err
			}
			keys, err := client.CAKeys(answer)
			if err != nil {
				return err
			}
			return a.showCAKeys(keys, authority)
		},
	}
	cmd.Flags().StringVar(&authority, "authority", "", "only the keys of this authority")
	return cmd
}

func (a *app) showCAKeys(keys []client.CAKey, authority string) error {
	type keyJSON struct {
		Authority   string `json:"authority"`
		PublicKey   string `json:"public_key"`
		Fingerprint string `json:"fingerprint"`
	}
	found := []keyJSON{}
	authorities := map[string]bool{}
	for _, k := range keys {
		if authority == "" || k.Authority == authority {
			line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.Key))
			found = append(found, keyJSON{k.Authority, string(line), ssh.FingerprintSHA256(k.Key)})
			authorities[k.Authority] = true
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("the CA has no key of an authority %q", plain(authority))
	}
	if a.json() {
		return a.printJSON(found)
	}
	for _, k := range found {
		fmt.Fprintf(a.out, "%s hallpass-%s\n", k.PublicKey, k.Authority)
	}
	if len(authorities) > 1 {
		a.note("these are the keys of %d authorities: give a server only those of its environment (--authority)", len(authorities))
	}
	return nil
}
