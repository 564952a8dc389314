package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

func (a *app) auditEraseCommand() *cobra.Command {
	in := &pb.EraseIdentityRequest{}
	cmd := &cobra.Command{
		Use:   "erase SUBJECT --issuer URL --reason TEXT",
		Short: "Erase what the log knows of a person's identity (for admins)",
		Long: `Erase the identity snapshots of one person: email address, groups and claims, as policies saw them. The records stay, with the
subject and what was asked for, and the log still verifies; decisions about the person can no longer be replayed. The log records
who did it and why.

What was erased cannot be read any more at once. Its bytes are gone from the file after "hallpassd compact". Copies that were taken
before still have it.`,
		Example: "  hallpass audit erase 8f2b41 --issuer https://login.example.com --reason \"request 17 of the data protection officer\"",
		Args:    exactArgs("SUBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Subject = args[0]
			for name, value := range map[string]string{"--issuer": in.GetIssuer(), "--reason": in.GetReason()} {
				if value == "" {
					return usageError(cmd, fmt.Errorf("%s is required", name))
				}
			}
			return a.auditErase(cmd.Context(), in)
		},
	}
	cmd.Flags().StringVar(&in.Issuer, "issuer", "", "issuer of the person's ID tokens (its URL); required")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "who asked for it, for the log; required")
	return cmd
}

func (a *app) auditErase(ctx context.Context, in *pb.EraseIdentityRequest) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := conn.EraseIdentity(ctx, who, in)
	if ca.KindOf(err) == ca.NotFound {
		return &failure{exit: exitFailed, err: err, hint: "hallpass audit list -o json shows issuer and subject of each record"}
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(struct {
			Snapshots uint32 `json:"snapshots"`
			Record    string `json:"record,omitempty"`
		}{answer.GetSnapshots(), recordIndex(answer)})
	}
	if answer.GetSnapshots() == 0 {
		fmt.Fprintf(a.out, "nothing to erase: the log has no snapshot of %s any more\n", plain(in.GetSubject()))
		return nil
	}
	fmt.Fprintf(a.out, "erased %s of %s, see record %d\n", plural(int(answer.GetSnapshots()), "snapshot"), plain(in.GetSubject()), answer.GetIndex())
	return nil
}

func recordIndex(answer *pb.EraseIdentityResponse) string {
	if answer.GetSnapshots() == 0 {
		return ""
	}
	return strconv.FormatUint(answer.GetIndex(), 10)
}
