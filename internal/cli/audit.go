package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Read the log (for auditors and admins; your own records without a role)",
		a.auditListCommand(),
		a.auditShowCommand(),
		a.auditTailCommand(),
		a.auditStatsCommand(),
		a.auditUnusedCommand(),
		a.auditExportCommand(),
	)
}
