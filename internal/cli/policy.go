package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Work on a policy",
		a.policyCheckCommand(), a.policyTestCommand(), a.policyFormatCommand(), a.policyExplainCommand(), a.policyWhoCanCommand(),
		a.policyReplayCommand(), a.policyDiffCommand(),
		a.policyLogCommand(), a.policyShowCommand(), a.policyReloadCommand(), a.policyAcceptCommand())
}

func (a *app) policyCheckCommand() *cobra.Command {
	strict := false
	cmd := &cobra.Command{
		Use:   "check DIR",
		Short: "Check a policy and print every mistake with its place",
		Long: `Check the policy in a folder and its tests, as the files are now, and print every mistake with file, line and column. It needs
neither a daemon nor a sign-in. Instead of a folder DIR may be a txtar file that holds a policy.

Warnings are about what is allowed and seldom meant: they do not fail the check unless --warnings-as-errors is given. A comment
"# hallpass:ignore NAME why" silences one on its line.`,
		Example: "  hallpass policy check ./policy",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.policyCheck(cmd.Context(), args[0], strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "warnings-as-errors", false, "fail if there are warnings")
	return cmd
}

func (a *app) policyCheck(ctx context.Context, dir string, strict bool) error {
	bundle, p, suite, err := loadPolicy(dir)
	if err != nil {
		return a.mistaken(err)
	}
	warnings, err := p.Warnings(ctx, time.Now(), suite)
	if err != nil {
		return err
	}
	if a.json() {
		if err := a.printJSON(policyCheckJSON(nil, warnings)); err != nil {
			return err
		}
	} else {
		for _, w := range warnings {
			fmt.Fprintln(a.err, bold(a.err, "warning:"), plain(w.String()))
		}
	}
	if strict && len(warnings) > 0 {
		return fmt.Errorf("the policy has %s", plural(len(warnings), "warning"))
	}
	if !a.json() {
		fmt.Fprintf(a.out, "the policy is fine: %s\n", plural(len(bundle.Files), "file"))
	}
	return nil
}

type mistakeJSON struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

type warningJSON struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Name    string `json:"name"`
	Message string `json:"message"`
}

func policyCheckJSON(mistakes policy.Errors, warnings []policy.Warning) any {
	out := struct {
		OK       bool          `json:"ok"`
		Mistakes []mistakeJSON `json:"mistakes"`
		Warnings []warningJSON `json:"warnings"`
	}{len(mistakes) == 0, mistakesJSON(mistakes), []warningJSON{}}
	for _, w := range warnings {
		out.Warnings = append(out.Warnings, warningJSON(w))
	}
	return out
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
