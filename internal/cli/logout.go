package cli

import (
	"cmp"

	"github.com/spf13/cobra"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the sign-in, its key and its certificates",
		Long: `Forget the sign-in, its key and its certificates on this machine. Sessions that are open stay open, and a certificate that
somebody copied together with its key holds until it expires.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			session, sessionErr := a.session(cmd.Context())
			if err := a.forgetSession(cmd.Context()); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(struct {
					WasSignedIn bool `json:"was_signed_in"`
				}{sessionErr == nil})
			}
			if sessionErr != nil {
				a.note("nobody was signed in")
				return nil
			}
			a.note("%s is signed out on this machine", cmp.Or(session.Email, session.Subject))
			return nil
		},
	}
}
