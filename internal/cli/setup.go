package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) setupCommand() *cobra.Command {
	var (
		dryRun, undo bool
		file         string
	)
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make plain ssh, scp, rsync, git and ansible work",
		Long: `Write a file of hallpass's own beside your ssh configuration, and one Include at the top of it. From then on, ssh asks
hallpass for a certificate whenever you log in to a host that the CA knows; for all other hosts nothing changes.

Your configuration is kept as config.before-hallpass. Running setup again changes nothing.`,
		Example: "  hallpass setup --dry-run\n  hallpass setup\n  hallpass setup --undo",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openSSHConfig(file)
			if err != nil {
				return err
			}
			plan, err := a.planSetup(cmd.Context(), s, undo)
			if err != nil {
				return err
			}
			return a.carryOut(plan, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().BoolVar(&undo, "undo", false, "take it all back")
	cmd.Flags().StringVar(&file, "ssh-config", "", "ssh configuration to change (HALLPASS_SSH_CONFIG; default: ~/.ssh/config)")
	return cmd
}

// change is a file before and after.
type change struct {
	file          string
	before, after content
}

// planSetup works out what setup, or its undoing, changes.
func (a *app) planSetup(ctx context.Context, s sshConfig, undo bool) ([]change, error) {
	main, err := read(s.main)
	if err != nil {
		return nil, err
	}
	own, err := read(s.own)
	if err != nil {
		return nil, err
	}
	if undo {
		backup, err := read(backupOf(s.main))
		if err != nil {
			return nil, err
		}
		rest := content{main.there, s.withoutInclude(main.text)}
		if rest.text == "" && main.text != "" && !backup.there { // nothing was there before, or there would be a copy of it
			rest.there = false
		}
		return []change{{s.main, main, rest}, {s.own, own, content{}}, {backupOf(s.main), backup, content{}}}, nil
	}
	conn, who, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := conn.ListEnvironments(ctx, who)
	if err != nil {
		return nil, fmt.Errorf("ask which hosts the CA knows: %w", err)
	}
	wanted, err := s.wanted(answer.GetEnvironments())
	if err != nil {
		return nil, err
	}
	plan := []change{{s.own, own, content{true, wanted}}, {s.main, main, content{true, s.withInclude(main.text)}}}
	if main.there && s.withoutInclude(main.text) == main.text {
		plan = append([]change{{backupOf(s.main), content{}, main}}, plan...)
	}
	return plan, nil
}

func backupOf(file string) string { return file + ".before-hallpass" }

// carryOut makes the changes, or only shows them.
func (a *app) carryOut(plan []change, dryRun bool) error {
	changed := []string{}
	for _, c := range plan {
		if c.before == c.after {
			continue
		}
		changed = append(changed, c.file)
		if dryRun {
			if !a.json() {
				fmt.Fprint(a.out, c.diff())
			}
			continue
		}
		if err := c.apply(); err != nil {
			return err
		}
	}
	switch {
	case a.json():
		return a.printJSON(struct {
			DryRun bool     `json:"dry_run"`
			Files  []string `json:"changed_files"`
		}{dryRun, changed})
	case len(changed) == 0:
		a.note("nothing to do")
	case !dryRun:
		for _, c := range plan {
			c.announce(a.out)
		}
	}
	return nil
}

// announce says what was done.
func (c change) announce(w io.Writer) {
	switch {
	case c.before == c.after:
	case !c.after.there:
		fmt.Fprintln(w, "removed", c.file)
	default:
		fmt.Fprintln(w, "changed", c.file)
	}
}

func (c change) apply() error {
	if !c.after.there {
		if err := os.Remove(c.file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove: %w", err)
		}
		return nil
	}
	if err := writeFile(c.file, []byte(c.after.text)); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(c.file), err)
	}
	return nil
}

// context is how many lines a diff shows around a change.
const diffContext = 3

// diff shows the change as one hunk of a unified diff.
func (c change) diff() string {
	before, after := lines(c.before.text), lines(c.after.text)
	start := 0
	for start < min(len(before), len(after)) && before[start] == after[start] {
		start++
	}
	end := 0
	for end < min(len(before), len(after))-start && before[len(before)-1-end] == after[len(after)-1-end] {
		end++
	}
	first, tail := max(0, start-diffContext), min(end, diffContext)
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n@@ -%s +%s @@\n", c.file, c.file,
		span(first, len(before)-end+tail-first), span(first, len(after)-end+tail-first))
	show := func(mark string, some []string) {
		for _, line := range some {
			b.WriteString(mark + strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	show(" ", before[first:start])
	show("-", before[start:len(before)-end])
	show("+", after[start:len(after)-end])
	show(" ", before[len(before)-end:len(before)-end+tail])
	return b.String()
}

// span is a range of lines as unified diffs write it.
func span(first, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", first)
	}
	return fmt.Sprintf("%d,%d", first+1, n)
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	all := strings.SplitAfter(text, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}
