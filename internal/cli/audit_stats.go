package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

const (
	// defaultTop is how many values of each field are shown.
	defaultTop = 10
	// barWidth is how many columns the longest bar takes.
	barWidth = 24
	// nameWidth is how many a value takes at most.
	nameWidth = 44
)

// statsFields are what is summed up, in the order in which it is shown.
var statsFields = []struct{ field, title string }{
	{"decision", "How it ended"}, {"person", "Who"}, {"host", "Where"}, {"environment", "Environments"}, {"login", "Logins"},
	{"rule", "Rules"}, {"source", "From"}, {"event", "Events"},
}

func (a *app) auditStatsCommand() *cobra.Command {
	var (
		filter recordFilter
		top    int
	)
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Sum up who asked for what, where, by which rules, and how it ended",
		Long: `Sum up the records: who asked, for which hosts and logins, which rules decided, what was refused and how. It takes the flags of
hallpass audit list. Each record is looked at, so that a million take some seconds.`,
		Example: "  hallpass audit stats --since 30d\n  hallpass audit stats --environment prod --decision denied --top 20",
		Args:    filter.args,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := filter.read(cmd, time.Now())
			if err != nil {
				return err
			}
			if top < 0 {
				return usageError(cmd, fmt.Errorf("--top %d: want a number that is not negative", top))
			}
			counts, err := a.countRecords(cmd.Context(), q)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(counts.json(top))
			}
			return a.printStats(counts, top)
		},
	}
	filter.flags(cmd)
	cmd.Flags().IntVar(&top, "top", defaultTop, "at most this many of each; 0 for all")
	return cmd
}

// tally is the sum of one value.
type tally struct {
	value                     string
	records, granted, refused uint64
	last                      time.Time
}

// tallies are sums by field and value.
type tallies map[string]map[string]*tally

// countRecords adds up the sums of all parts of the log.
func (a *app) countRecords(ctx context.Context, q *pb.ListRecordsRequest) (tallies, error) {
	p, err := a.openPager(ctx)
	if err != nil {
		return nil, err
	}
	defer p.close()
	sums := tallies{}
	for {
		var answer *pb.CountRecordsResponse
		if err := p.again(ctx, func() (err error) {
			answer, err = p.conn.CountRecords(ctx, p.who, &pb.CountRecordsRequest{Of: q})
			return err
		}); err != nil {
			return nil, err
		}
		p.note(answer.GetOwn() && q.GetScope() != pb.RecordScope_RECORD_SCOPE_OWN, answer.GetFailed(), answer.GetFailure())
		p.tell(answer.GetArchived())
		for _, t := range answer.GetTallies() {
			sums.add(t)
		}
		if q.PageToken = answer.GetNextPageToken(); q.PageToken == "" {
			return sums, nil
		}
	}
}

func (s tallies) add(t *pb.RecordTally) {
	if s[t.GetField()] == nil {
		s[t.GetField()] = map[string]*tally{}
	}
	sum := s[t.GetField()][t.GetValue()]
	if sum == nil {
		sum = &tally{value: t.GetValue()}
		s[t.GetField()][t.GetValue()] = sum
	}
	sum.records += t.GetRecords()
	sum.granted += t.GetGranted()
	sum.refused += t.GetRefused()
	if at := t.GetLast().AsTime(); at.After(sum.last) {
		sum.last = at
	}
}

// sorted returns the sums of a field, the largest first.
func (s tallies) sorted(field string) []*tally {
	var all []*tally
	for _, t := range s[field] {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *tally) int {
		return cmp.Or(cmp.Compare(b.records, a.records), cmp.Compare(a.value, b.value))
	})
	return all
}

// total is how many records there are: each is about one event.
func (s tallies) total() (n uint64) {
	for _, t := range s["event"] {
		n += t.records
	}
	return n
}

type tallyJSON struct {
	Value   string    `json:"value"`
	Records uint64    `json:"records"`
	Granted uint64    `json:"granted"`
	Refused uint64    `json:"refused"`
	Last    time.Time `json:"last"`
}

func (s tallies) json(top int) any {
	out := map[string]any{"records": s.total()}
	for _, f := range statsFields {
		list := []tallyJSON{}
		for i, t := range s.sorted(f.field) {
			if top > 0 && i == top {
				break
			}
			list = append(list, tallyJSON{t.value, t.records, t.granted, t.refused, t.last})
		}
		out[f.field] = list
	}
	return out
}

// printStats shows the sums, with bars on a terminal.
func (a *app) printStats(s tallies, top int) error {
	var refusals uint64
	for _, t := range s["decision"] {
		refusals += t.refused
	}
	granted := uint64(0)
	if t := s["decision"][audit.Granted]; t != nil {
		granted = t.records
	}
	fmt.Fprintf(a.out, "%s: %d granted, %d refused\n", plural(int(s.total()), "record"), granted, refusals)
	for _, f := range statsFields {
		all := s.sorted(f.field)
		if len(all) == 0 {
			continue
		}
		fmt.Fprintf(a.out, "\n%s\n", bold(a.out, f.title))
		shown := all
		if top > 0 && len(all) > top {
			shown = all[:top]
		}
		a.printTallies(shown)
		if rest := len(all) - len(shown); rest > 0 {
			if _, err := fmt.Fprintf(a.out, "  and %d more\n", rest); err != nil {
				return fmt.Errorf("write result: %w", err)
			}
		}
	}
	return nil
}

func (a *app) printTallies(all []*tally) {
	bars := isTerminal(a.out)
	limit := nameWidth
	if width := terminalWidth(a.out); width > 0 {
		limit = min(limit, max(width-barWidth-22, 12))
	}
	names, longest, digits := make([]string, len(all)), 0, 1
	for i, t := range all {
		names[i] = strings.Join(strings.Fields(plain(t.value)), " ")
		if bars {
			names[i] = cut(names[i], limit)
		}
		longest = max(longest, len([]rune(names[i])))
		digits = max(digits, len(strconv.FormatUint(t.records, 10)))
	}
	for i, t := range all {
		line := fmt.Sprintf("  %s%s  %*d", names[i], strings.Repeat(" ", longest-len([]rune(names[i]))), digits, t.records)
		if t.refused > 0 && t.refused != t.records {
			line += fmt.Sprintf("  (%d refused)", t.refused)
		}
		if bars {
			n := max(int(t.records*barWidth/max(all[0].records, 1)), 1)
			line = fmt.Sprintf("  %s%s  %*d  %s", names[i], strings.Repeat(" ", longest-len([]rune(names[i]))), digits, t.records, strings.Repeat("█", n))
			if t.refused > 0 && t.refused != t.records {
				line += fmt.Sprintf(" %d refused", t.refused)
			}
		}
		fmt.Fprintln(a.out, line)
	}
}
