package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

// diffOptions are the flags of `hallpass policy diff`.
type diffOptions struct {
	rev      string
	markdown bool
	exitCode bool
}

func (a *app) policyDiffCommand() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff OLD NEW | diff --rev OLD[..NEW] DIR",
		Short: "Say what changes in meaning between two policies",
		Long: `Say which rules, environments, claims, limits and roles were added, removed or changed between two policies, in folders or txtar files.
Order, files, comments and the layout of conditions do not count. It needs neither a daemon nor a sign-in.

With --rev it compares commits of the git repository that DIR is in: OLD with NEW, or with the files in DIR as they are now.
Each is named as in git: a branch, a tag, HEAD~1, a hash.

A change is marked as wider where it can only let more in or give more, and as narrower where it can only do less. What is not
marked may do either. To see what it does to real requests: hallpass policy replay.

The exit code is 0; with --exit-code it is 1 if there is a change. -o json prints, under names that stay, "changes", a list with
part, name, change (added, removed, changed), field, before, after and effect (wider, narrower or empty).`,
		Example: "  hallpass policy diff ./old ./policy\n  hallpass policy diff --rev main ./policy\n  hallpass policy diff --rev v1..v2 ./policy --markdown",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.markdown && a.json() {
				return usageError(cmd, errors.New("--markdown and -o json are two forms of the same: give one"))
			}
			old, new, err := o.readers(cmd, args)
			if err != nil {
				return err
			}
			return a.policyDiff(old, new, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.rev, "rev", "", "compare commits: OLD, or OLD..NEW")
	flags.BoolVar(&o.markdown, "markdown", false, "print Markdown, for a pull request")
	flags.BoolVar(&o.exitCode, "exit-code", false, "exit with 1 if there is a change")
	return cmd
}

// readers return how the two policies are read.
func (o diffOptions) readers(cmd *cobra.Command, args []string) (old, new func() (*policy.Bundle, error), err error) {
	names := []string{"OLD", "NEW"}
	if o.rev != "" {
		names = []string{"DIR"}
	}
	if err := exactArgs(names...)(cmd, args); err != nil {
		return nil, nil, err
	}
	folder := func(dir string) func() (*policy.Bundle, error) {
		return func() (*policy.Bundle, error) { return readBundle(dir) }
	}
	if !cmd.Flags().Changed("rev") {
		return folder(args[0]), folder(args[1]), nil
	}
	first, second, both := strings.Cut(o.rev, "..")
	if first == "" || both && (second == "" || strings.HasPrefix(second, ".")) {
		return nil, nil, usageError(cmd, fmt.Errorf("--rev %q: want a commit, or two with .. between them", o.rev))
	}
	commit := func(rev string) func() (*policy.Bundle, error) {
		return func() (*policy.Bundle, error) { return policy.ReadRevision(args[0], rev) }
	}
	if !both {
		return commit(first), folder(args[0]), nil
	}
	return commit(first), commit(second), nil
}

func (a *app) policyDiff(old, new func() (*policy.Bundle, error), o diffOptions) error {
	var both [2]*policy.Policy
	for i, read := range []func() (*policy.Bundle, error){old, new} {
		bundle, err := read()
		if err != nil {
			return err
		}
		if both[i], err = policy.Compile(bundle); err != nil {
			if !a.json() {
				a.note("%s %s:", []string{"the old policy,", "the new policy,"}[i], bundle.Source)
			}
			return a.mistaken(err)
		}
	}
	changes, err := policy.Diff(both[0], both[1])
	if err != nil {
		return err
	}
	switch {
	case a.json():
		err = a.printJSON(struct {
			Changes []policy.Changed `json:"changes"`
		}{changes})
	case o.markdown:
		_, err = fmt.Fprint(a.out, plain(diffMarkdown(changes)))
	default:
		_, err = fmt.Fprint(a.out, plain(diffText(changes)))
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if o.exitCode && len(changes) > 0 {
		return &failure{exit: exitFailed, err: errShown}
	}
	return nil
}

func diffText(changes []policy.Changed) string {
	if len(changes) == 0 {
		return "nothing changes in meaning\n"
	}
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintln(&b, c)
		if c.Field == "" {
			for _, line := range append(c.Before, c.After...) {
				fmt.Fprintf(&b, "    %s\n", line)
			}
		}
	}
	return b.String()
}

func diffMarkdown(changes []policy.Changed) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Policy diff\n\n")
	if len(changes) == 0 {
		return b.String() + "Nothing changes in meaning.\n"
	}
	fmt.Fprintf(&b, "| what | change | before | after | effect |\n|---|---|---|---|---|\n")
	for _, c := range changes {
		change := c.Field
		if change == "" {
			change = c.Change
		}
		joint := ", "
		if c.Field == "" {
			joint = "; "
		}
		row(&b, strings.TrimSpace(c.Part+" "+c.Name), change, strings.Join(c.Before, joint), strings.Join(c.After, joint), string(c.Effect))
	}
	return b.String()
}
