package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Read the log, prove it and keep it (for auditors and admins; your own records without a role)",
		a.auditListCommand(),
		a.auditShowCommand(),
		a.auditReviewCommand(),
		a.auditTailCommand(),
		a.auditStatsCommand(),
		a.auditUnusedCommand(),
		a.auditExportCommand(),
		a.auditVerifyCommand(),
		a.auditFindCertCommand(),
		a.auditCheckpointCommand(),
		a.auditConsistencyCommand(),
		a.auditProveCommand(),
		a.auditKeyCommand(),
		a.auditEraseCommand(),
	)
}
