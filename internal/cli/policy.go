package cli

import (
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Work on a policy",
		a.policyCheckCommand(), a.policyTestCommand(), a.policyExplainCommand(), a.policyWhoCanCommand())
}

func (a *app) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR",
		Short: "Check a policy and print every mistake with its place",
		Long: `Check the policy in a folder, as its files are now, and print every mistake with file, line and column. It needs neither a
daemon nor a sign-in.`,
		Example: "  hallpass policy check ./policy",
		Args:    exactArgs("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.policyCheck(args[0])
		},
	}
}

func (a *app) policyCheck(dir string) error {
	bundle, err := policy.ReadDir(dir, true)
	if err != nil {
		return err
	}
	_, err = policy.Compile(bundle)
	mistakes, ok := errors.AsType[policy.Errors](err)
	if err != nil && !ok {
		return err
	}
	if a.json() {
		if err := a.printJSON(policyCheckJSON(mistakes)); err != nil {
			return err
		}
	}
	if len(mistakes) > 0 {
		if !a.json() {
			fmt.Fprintln(a.err, plain(mistakes.Error()))
		}
		return fmt.Errorf("the policy has %s", plural(len(mistakes), "mistake"))
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

func policyCheckJSON(mistakes policy.Errors) any {
	return struct {
		OK       bool          `json:"ok"`
		Mistakes []mistakeJSON `json:"mistakes"`
	}{len(mistakes) == 0, mistakesJSON(mistakes)}
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
