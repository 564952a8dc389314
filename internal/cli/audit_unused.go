package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxDays is the longest time that can be asked about, in days: a century.
const maxDays = 36500

func (a *app) auditUnusedCommand() *cobra.Command {
	days, patch := 90, false
	cmd := &cobra.Command{
		Use:   "unused [DIR]",
		Short: "Find allow rules and logins that nobody used",
		Long: `Find the allow rules of the policy in a folder, as its files are now, by which nobody got a certificate in so many days, and the
logins that nobody got by a rule that is used. What came into the policy since then is left out. Deny rules are not looked at: that
nobody meets one does not make it useless.

With --patch the result is a patch that removes them from the policy, with the comments right above them, for: git apply. Paths in
it begin at the current folder.`,
		Example: "  hallpass audit unused --days 90 ./policy\n  hallpass audit unused --days 90 --patch ./policy | git apply",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, fmt.Errorf("%s wants one folder, got %d", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 1 || days > maxDays { // in no time, nobody used anything
				return usageError(cmd, fmt.Errorf("--days %d: want a number from 1 to %d", days, maxDays))
			}
			if patch && a.json() {
				return usageError(cmd, errors.New("--patch is text: leave -o json out"))
			}
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return a.auditUnused(cmd.Context(), dir, days, patch)
		},
	}
	cmd.Flags().IntVar(&days, "days", days, "for how long nobody used them")
	cmd.Flags().BoolVar(&patch, "patch", false, "print a patch that removes them")
	return cmd
}

// unusedJSON is an allow rule that nobody used, or a login that nobody got by one.
type unusedJSON struct {
	Rule  string `json:"rule"`
	Login string `json:"login,omitempty"`
	Owner string `json:"owner,omitempty"`
	File  string `json:"file"`
	Line  int    `json:"line"`
}

func (a *app) auditUnused(ctx context.Context, dir string, days int, patch bool) error {
	bundle, p, _, err := loadPolicy(dir)
	if err != nil {
		return a.mistaken(err)
	}
	rules, err := p.AllowRules()
	if err != nil {
		return err
	}
	since := time.Now().AddDate(0, 0, -days)
	sums, err := a.countRecords(ctx, &pb.ListRecordsRequest{Decisions: []string{audit.Granted}, Since: timestamppb.New(since)})
	if err != nil {
		return err
	}
	begins, old, err := a.rulesAt(ctx, since)
	if err != nil {
		return err
	}
	if begins.After(since) {
		a.note("note: the log begins at %s and knows no more than %s", begins.Format(time.RFC3339), plural(int(time.Since(begins).Hours()/24), "day"))
	}
	unused, young, what := unusedOf(rules, old, sums)
	if a.json() && !patch {
		return a.printJSON(map[string]any{"days": days, "since": since.UTC().Truncate(time.Second), "log_begins": begins, "unused": unused, "young": young})
	}
	for _, u := range young {
		a.note("note: %s:%d: %s, but it is younger than %s: left out", u.File, u.Line, u.what(), plural(days, "day"))
	}
	if patch {
		return a.printPatch(dir, bundle, p, what)
	}
	for _, u := range unused {
		text := fmt.Sprintf("%s:%d: %s", u.File, u.Line, u.what())
		if u.Owner != "" {
			text += " (owner: " + u.Owner + ")"
		}
		fmt.Fprintln(a.out, plain(text))
	}
	if len(unused) == 0 {
		fmt.Fprintf(a.out, "every allow rule and login of that age was used in the last %s\n", plural(days, "day"))
	}
	return nil
}

// what says what nobody did.
func (u unusedJSON) what() string {
	if u.Login != "" {
		return fmt.Sprintf("no one got the login %s by the rule %s", u.Login, u.Rule)
	}
	return "no one used the rule " + u.Rule
}

// unusedOf compares what rules grant with what was granted by them. What the rules of old did not grant is young: it has not been there
// for as long as nobody used it.
func unusedOf(rules, old []policy.AllowRule, sums tallies) (unused, young []unusedJSON, what policy.Pruning) {
	unused, young, what = []unusedJSON{}, []unusedJSON{}, policy.Pruning{Logins: map[string][]string{}}
	before := map[string][]string{}
	for _, r := range old {
		before[r.Name] = append(before[r.Name], r.Logins...)
	}
	for _, r := range rules {
		u := unusedJSON{Rule: r.Name, Owner: r.Owner, File: r.File, Line: r.Line}
		logins, isOld := before[r.Name]
		switch {
		case sums["rule"][r.Name] != nil:
		case isOld:
			unused, what.Rules = append(unused, u), append(what.Rules, r.Name)
			continue
		default:
			young = append(young, u)
			continue
		}
		for _, login := range r.Logins {
			if sums["grant"][r.Name+" "+login] != nil {
				continue
			}
			u.Login = login
			if slices.Contains(logins, login) {
				unused, what.Logins[r.Name] = append(unused, u), append(what.Logins[r.Name], login)
			} else {
				young = append(young, u)
			}
		}
	}
	return unused, young, what
}

// rulesAt returns the allow rules of the policy that was in force at a time, or of the first there was if the log begins later, and when
// its first record was committed.
func (a *app) rulesAt(ctx context.Context, at time.Time) (begins time.Time, rules []policy.AllowRule, err error) {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return begins, nil, err
	}
	defer conn.Close()
	entry, err := conn.GetRecord(ctx, who, 0)
	if err != nil {
		return begins, nil, err
	}
	first, err := newRecordJSON(entry)
	if err != nil {
		return begins, nil, err
	}
	then, err := revisionAt(ctx, conn, who, at)
	if then == nil || err != nil {
		return first.Time, nil, err
	}
	p, err := policyOf(ctx, conn, who, audit.PolicyRef(then.GetLoaded().GetPolicy()))
	if err != nil {
		return first.Time, nil, fmt.Errorf("read the policy that was in force at %s: %w", at.Format(time.RFC3339), err)
	}
	rules, err = p.AllowRules()
	return first.Time, rules, err
}

// revisionAt returns the policy that was in force at a time, or the first there was if none was yet; nil if none ever was.
func revisionAt(ctx context.Context, conn *client.Client, who client.SignIn, at time.Time) (*pb.Revision, error) {
	var oldest *pb.Revision
	for page := (&pb.ListRevisionsRequest{PageSize: 1000}); ; {
		answer, err := conn.ListRevisions(ctx, who, page)
		if err != nil {
			return nil, err
		}
		for _, r := range answer.GetRevisions() { // the newest first
			if oldest = r; !r.GetTime().AsTime().After(at) {
				return r, nil
			}
		}
		if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
			return oldest, nil
		}
	}
}

func (a *app) printPatch(dir string, bundle *policy.Bundle, p *policy.Policy, what policy.Pruning) error {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no folder: a patch is for one", dir)
	}
	edits, left, err := p.Prune(bundle, what)
	if err != nil {
		return a.mistaken(err)
	}
	for _, l := range left {
		a.note("note: %s is written in a form that the patch does not cut: remove it by hand", l)
	}
	for _, e := range edits {
		if _, err := fmt.Fprint(a.out, patchOf(patchPath(dir, e.File), e)); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	if len(edits) == 0 {
		a.note("nothing to remove")
	}
	return nil
}

// patchPath names a file of the policy from where the user is, if the folder is below there.
func patchPath(dir, file string) string {
	full, err := filepath.Abs(dir)
	here, hereErr := os.Getwd()
	if err != nil || hereErr != nil {
		return file
	}
	below, err := filepath.Rel(here, full)
	if err != nil || below == ".." || strings.HasPrefix(below, ".."+string(filepath.Separator)) {
		return file
	}
	return filepath.ToSlash(filepath.Join(below, filepath.FromSlash(file)))
}

// patchContext is how many lines around a change a patch shows.
const patchContext = 3

// patchOf writes an edit as a unified diff. It has no line for git, which would take its paths to begin at the top of the repository.
func patchOf(path string, e *policy.Edit) string {
	var out strings.Builder
	tab := ""
	if strings.Contains(path, " ") {
		tab = "\t"
	}
	fmt.Fprintf(&out, "--- a/%s%s\n+++ b/%s%s\n", path, tab, path, tab)
	lines := strings.SplitAfter(string(e.Text), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	changed := make([]int, 0, len(e.Lines))
	for n := range e.Lines {
		changed = append(changed, n)
	}
	slices.Sort(changed)
	shift := 0 // how many lines fewer the new file has so far
	for len(changed) > 0 {
		n := 1 // of the changes, how many share a hunk
		for n < len(changed) && changed[n]-changed[n-1] <= 2*patchContext {
			n++
		}
		from, to := max(changed[0]-patchContext, 1), min(changed[n-1]+patchContext, len(lines))
		var hunk strings.Builder
		removed := 0
		for i := from; i <= to; i++ {
			text, edited := e.Lines[i]
			if !edited {
				patchLine(&hunk, ' ', lines[i-1])
				continue
			}
			patchLine(&hunk, '-', lines[i-1])
			if text == nil {
				removed++
				continue
			}
			patchLine(&hunk, '+', *text+lines[i-1][len(strings.TrimRight(lines[i-1], "\r\n")):])
		}
		old := to - from + 1
		begin := from - shift
		if old == removed {
			begin-- // an empty range is named by the line before it
		}
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n%s", from, old, begin, old-removed, hunk.String())
		shift += removed
		changed = changed[n:]
	}
	return out.String()
}

func patchLine(b *strings.Builder, sign byte, line string) {
	b.WriteByte(sign)
	b.WriteString(line)
	if !strings.HasSuffix(line, "\n") {
		b.WriteString("\n\\ No newline at end of file\n")
	}
}
