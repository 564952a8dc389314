package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

// testOptions are the flags of `hallpass policy test`.
type testOptions struct {
	run, junit string
	verbose    bool
	cover      bool
	least      float64 // coverage in percent
}

func (a *app) policyTestCommand() *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the tests of a policy",
		Long: `Run the cases in the *_test.yaml files of a policy folder, as its files are now. It needs neither a daemon nor a sign-in. Instead
of a folder DIR may be a txtar file that holds a policy and its tests.

With --cover it also lists the rules and conditions that no case makes true, or false.`,
		Example: "  hallpass policy test ./policy\n  hallpass policy test ./policy --run contractors -v\n  hallpass policy test ./policy --min-coverage 90 --junit report.xml",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.cover = o.cover || o.least > 0
			if o.least < 0 || o.least > 100 {
				return usageError(cmd, fmt.Errorf("--min-coverage %v: want a percentage", o.least))
			}
			only, err := regexp.Compile(o.run)
			if err != nil {
				return usageError(cmd, fmt.Errorf("--run: %w", err))
			}
			return a.policyTest(cmd.Context(), args[0], only, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.run, "run", "", "run only the cases whose FILE/NAME matches this regular expression")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "list the cases that pass too")
	flags.StringVar(&o.junit, "junit", "", "also write the results to this file, as JUnit XML")
	flags.BoolVar(&o.cover, "cover", false, "list the rules and conditions that no case makes true, or false")
	flags.Float64Var(&o.least, "min-coverage", 0, "fail if less than this percentage of the conditions is covered")
	return cmd
}

// testRun is all that a run came to.
type testRun struct {
	report   policy.TestReport
	coverage *policy.Coverage // nil if it was not asked for
	elapsed  time.Duration
}

func (a *app) policyTest(ctx context.Context, dir string, only *regexp.Regexp, o testOptions) error {
	start := time.Now()
	_, p, suite, err := loadPolicy(dir)
	if err != nil {
		return a.mistaken(err)
	}
	suite = suite.Only(only)
	run := testRun{report: p.RunTests(ctx, suite)}
	if o.cover {
		coverage, err := p.Cover(ctx, suite)
		if err != nil {
			return err
		}
		run.coverage = &coverage
	}
	if err := ctx.Err(); err != nil {
		return err // what was not evaluated was refused, which says nothing about the policy
	}
	run.elapsed = time.Since(start)
	if o.junit != "" {
		if err := writeJUnit(o.junit, run); err != nil {
			return err
		}
	}
	if a.json() {
		err = a.printJSON(run.json())
	} else {
		a.printTests(run, o.verbose)
	}
	if err != nil {
		return err
	}
	return run.verdict(o.least)
}

// verdict is the error of a run that failed.
func (r testRun) verdict(least float64) error {
	switch failed := r.report.Failed(); {
	case failed > 0:
		return fmt.Errorf("%s of %d failed", plural(failed, "case"), len(r.report.Results))
	case r.coverage != nil && r.coverage.Percent() < least:
		return fmt.Errorf("the coverage is %s, less than the %v%% that --min-coverage wants", percent(r.coverage), least)
	}
	return nil
}

// percent never rounds up to what is not there.
func percent(c *policy.Coverage) string {
	return fmt.Sprintf("%.1f%%", float64(int(c.Percent()*10))/10)
}

// printTests prints a run in the form of go test.
func (a *app) printTests(r testRun, verbose bool) {
	results := r.report.Results
	if len(results) == 0 {
		fmt.Fprintln(a.out, "no cases to run")
	}
	for len(results) > 0 {
		file := results[0].Case.File
		n := slices.IndexFunc(results, func(t policy.TestResult) bool { return t.Case.File != file })
		if n < 0 {
			n = len(results)
		}
		a.printTestFile(file, results[:n], verbose)
		results = results[n:]
	}
	if r.coverage != nil {
		for _, missing := range r.coverage.Missing {
			fmt.Fprintln(a.out, plain(missing.String()))
		}
		fmt.Fprintf(a.out, "coverage: %s of the conditions\n", percent(r.coverage))
	}
}

func (a *app) printTestFile(file string, results []policy.TestResult, verbose bool) {
	verdict, elapsed := "ok  ", time.Duration(0)
	for _, one := range results {
		elapsed += one.Elapsed
		switch {
		case len(one.Failures) > 0:
			verdict = "FAIL"
			fmt.Fprintf(a.out, "--- FAIL: %s (%.2fs)\n", plain(one.Case.Name), one.Elapsed.Seconds())
			fmt.Fprintln(a.out, plain("    "+strings.ReplaceAll(one.Failures.Error(), "\n", "\n    ")))
		case verbose:
			fmt.Fprintf(a.out, "--- PASS: %s (%.2fs)\n", plain(one.Case.Name), one.Elapsed.Seconds())
		}
	}
	fmt.Fprintf(a.out, "%s\t%s\t%s\t%.3fs\n", verdict, plain(file), plural(len(results), "case"), elapsed.Seconds())
}

// loadPolicy compiles the policy in a folder, as its files are now, or in a txtar file, and reads its tests.
func loadPolicy(dir string) (*policy.Bundle, *policy.Policy, *policy.TestSuite, error) {
	bundle, err := readBundle(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	p, err := policy.Compile(bundle)
	if err != nil {
		return nil, nil, nil, err
	}
	suite, err := p.ReadTests(bundle)
	return bundle, p, suite, err
}

func readBundle(dir string) (*policy.Bundle, error) {
	if info, err := os.Stat(dir); err == nil && info.Mode().IsRegular() {
		return policy.ReadArchive(dir)
	}
	return policy.ReadDir(dir, true)
}

// mistaken prints the mistakes of a policy and returns the error that counts them. Any other error it returns as it is.
func (a *app) mistaken(err error) error {
	mistakes, ok := errors.AsType[policy.Errors](err)
	if !ok {
		return err
	}
	if a.json() {
		if err := a.printJSON(policyCheckJSON(mistakes, nil)); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.err, plain(mistakes.Error()))
	}
	return fmt.Errorf("the policy has %s", plural(len(mistakes), "mistake"))
}
