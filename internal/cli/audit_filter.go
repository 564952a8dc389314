package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// pageSize is how many records are asked for at once.
const pageSize = 1000

// recordFilter is which records flags ask for.
type recordFilter struct {
	since, until, between string
	issuer, subject       string
	mine                  bool
	review                string
	request               *pb.ListRecordsRequest
}

// listFlag is a flag that may be given several times.
type listFlag struct {
	to          *[]string
	name, usage string
	words       []string // the values that there are; nil if there is no end of them
}

func (f *recordFilter) lists() []listFlag {
	q := f.request
	return []listFlag{
		{&q.Persons, "person", "only records about this person: an email, or a subject", nil},
		{&q.Logins, "login", "only requests for this login", nil},
		{&q.Hosts, "host", "only requests for this host, or those that fit a pattern such as '*.prod.example.com'", nil},
		{&q.Environments, "environment", "only requests for hosts of this environment", nil},
		{
			&q.Decisions, "decision", "only what ended so: granted, refused, or a kind of refusal: denied, needs, ...",
			append(audit.DecisionNames(), "refused"),
		},
		{&q.Rules, "rule", "only decisions by this rule", nil},
		{&q.Policies, "policy", "only decisions by this policy: the beginning of its commit or digest", nil},
		{&q.Events, "event", "only this kind of event: decided, policy_loaded, access_refused, ...", audit.EventNames()},
		{&q.Sources, "source", "only calls from this address or network, such as 192.0.2.0/24", nil},
	}
}

// textFlag is a flag that is given once.
type textFlag struct {
	to          *string
	name, usage string
}

func (f *recordFilter) texts() []textFlag {
	return []textFlag{
		{&f.request.Where, "where", "only records for which this CEL expression holds: 'record.host.endsWith(\".example.com\")'"},
		{&f.since, "since", "only records from this time on: RFC 3339, a date (UTC), or how long ago, such as 30d or 2h"},
		{&f.until, "until", "only records before this time"},
		{&f.between, "between", "only records from one time on and before another: 2026-11-01..2026-11-15"},
		{&f.issuer, "issuer", "only records about a subject of this issuer (its URL)"},
		{&f.subject, "subject", "only records about this subject of --issuer"},
		{&f.review, "review", "only decisions that ask for review: asked for all, open for those nobody looked at, done for the others"},
	}
}

func (f *recordFilter) flags(cmd *cobra.Command) {
	f.request = &pb.ListRecordsRequest{}
	flags := cmd.Flags()
	for _, list := range f.lists() {
		flags.StringArrayVar(list.to, list.name, nil, list.usage+" (again for several)")
		if list.words != nil {
			complete(cmd, list.name, list.words...)
		}
	}
	flags.StringArrayVar(&f.request.Events, "kind", nil, "the same as --event")
	_ = flags.MarkHidden("kind")
	for _, text := range f.texts() {
		flags.StringVar(text.to, text.name, "", text.usage)
	}
	flags.BoolVar(&f.mine, "mine", false, "only records about you")
	complete(cmd, "review", "asked", "open", "done")
}

// args lets the second time of --between stand by itself.
func (f *recordFilter) args(cmd *cobra.Command, args []string) error {
	if f.between != "" && !strings.Contains(f.between, "..") && len(args) == 1 {
		f.between += ".." + args[0]
		return nil
	}
	return exactArgs()(cmd, args)
}

// check finds slips of the fingers before the CA is asked, which knows fields and no flags. An empty value, as of a variable that is not
// set, is one: it must not find everything.
func (f *recordFilter) check(cmd *cobra.Command) error {
	for _, text := range f.texts() {
		if *text.to == "" && cmd.Flags().Changed(text.name) {
			return fmt.Errorf("--%s is empty", text.name)
		}
	}
	for _, list := range f.lists() {
		for i, value := range *list.to {
			if list.words != nil {
				value = strings.ToLower(value)
				(*list.to)[i] = value
			}
			switch {
			case value == "":
				return fmt.Errorf("--%s is empty", list.name)
			case list.words != nil && !slices.Contains(list.words, value):
				return fmt.Errorf("--%s: there is no %q; there are %s", list.name, value, strings.Join(list.words, ", "))
			}
		}
	}
	for _, source := range f.request.GetSources() {
		_, addrErr := netip.ParseAddr(source)
		if _, err := netip.ParsePrefix(source); err != nil && addrErr != nil {
			return fmt.Errorf("--source %q is neither an address nor a network such as 192.0.2.0/24", source)
		}
	}
	if f.request.GetWhere() == "" {
		return nil
	}
	filters, err := policy.NewFilters()
	if err != nil {
		return err
	}
	if _, err := filters.Compile(f.request.GetWhere()); err != nil {
		return fmt.Errorf("--where: %w", err)
	}
	return nil
}

// read makes the request of what the flags say.
func (f *recordFilter) read(cmd *cobra.Command, now time.Time) (*pb.ListRecordsRequest, error) {
	if err := f.check(cmd); err != nil {
		return nil, usageError(cmd, err)
	}
	q := f.request
	if (f.issuer == "") != (f.subject == "") {
		return nil, usageError(cmd, errors.New("--issuer and --subject go together: a subject means nothing without its issuer"))
	}
	q.Issuer, q.Subject, q.Scope = f.issuer, f.subject, pb.RecordScope_RECORD_SCOPE_ALLOWED
	if f.mine {
		q.Scope = pb.RecordScope_RECORD_SCOPE_OWN
	}
	if f.review != "" {
		state, known := pb.ReviewState_value["REVIEW_STATE_"+strings.ToUpper(f.review)]
		if q.Review = pb.ReviewState(state); !known || state == 0 {
			return nil, usageError(cmd, fmt.Errorf("--review is asked, open or done, not %q", f.review))
		}
	}
	if f.between != "" {
		if f.since != "" || f.until != "" {
			return nil, usageError(cmd, errors.New("--between says all that --since and --until could"))
		}
		since, until, err := parseBetween(f.between, now)
		if err != nil {
			return nil, usageError(cmd, fmt.Errorf("--between %w", err))
		}
		q.Since, q.Until = optionalTimestamp(since), optionalTimestamp(until)
		return q, nil
	}
	for _, t := range []struct {
		name, text string
		to         **timestamppb.Timestamp
	}{{"--since", f.since, &q.Since}, {"--until", f.until, &q.Until}} {
		if t.text == "" {
			continue
		}
		at, err := parseMoment(t.text, now)
		if err != nil {
			return nil, usageError(cmd, fmt.Errorf("%s %w", t.name, err))
		}
		*t.to = timestamppb.New(at)
	}
	if q.Since != nil && q.Until != nil && !q.Since.AsTime().Before(q.Until.AsTime()) {
		return nil, usageError(cmd, fmt.Errorf("--since %s is not before --until %s", f.since, f.until))
	}
	return q, nil
}

// optionalTimestamp is nil for no time.
func optionalTimestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// pager reads pages of records.
type pager struct {
	app     *app
	conn    *client.Client
	who     client.SignIn
	noted   bool // that only the user's own records are shown
	told    bool // that older records were archived
	failed  uint32
	failure string
}

// openPager connects as the user.
func (a *app) openPager(ctx context.Context) (*pager, error) {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &pager{app: a, conn: conn, who: who}, nil
}

// each calls do with records, newest first, until it has called it with as many as limit says; 0 for no limit.
func (p *pager) each(ctx context.Context, q *pb.ListRecordsRequest, limit int, do func(*pb.Entry) error) error {
	for done := 0; ; {
		q.PageSize = pageSize
		if limit > 0 {
			q.PageSize = uint32(min(limit-done, pageSize))
		}
		answer, err := p.list(ctx, q)
		if err != nil {
			return err
		}
		for _, entry := range answer.GetEntries() {
			if err := do(entry); err != nil {
				return err
			}
			done++
		}
		q.PageToken = answer.GetNextPageToken()
		if q.PageToken == "" || limit > 0 && done >= limit {
			return nil
		}
	}
}

// list asks for a page. The sign-in is made fresh on the way if a long listing outlives its token.
func (p *pager) list(ctx context.Context, q *pb.ListRecordsRequest) (*pb.ListRecordsResponse, error) {
	var answer *pb.ListRecordsResponse
	err := p.again(ctx, func() (err error) {
		answer, err = p.conn.ListRecords(ctx, p.who, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.note(answer.GetOwn() && q.GetScope() != pb.RecordScope_RECORD_SCOPE_OWN, answer.GetFailed(), answer.GetFailure())
	p.tell(answer.GetArchived())
	return answer, nil
}

// tell says, once, that older records were archived.
func (p *pager) tell(a *pb.Archive) {
	if a != nil && !p.told {
		p.app.note("note: records from before %s were archived, see record %d: what they would add is not here", a.GetUntil().AsTime().Format(time.RFC3339), a.GetIndex())
		p.told = true
	}
}

// note tells, once, that a user without a role sees only his own records, and remembers for what an expression failed.
func (p *pager) note(own bool, failed uint32, failure string) {
	if own && !p.noted {
		p.app.note("note: no role lets you read the whole log, so these are the records about you")
		p.noted = true
	}
	if p.failed += failed; p.failure == "" {
		p.failure = failure
	}
}

// close ends the connection, and says for how many records an expression failed.
func (p *pager) close() {
	_ = p.conn.Close()
	if p.failed > 0 {
		p.app.note("note: --where failed for %s, left out here; the first, %s", plural(int(p.failed), "record"), p.failure)
	}
}

// again calls the daemon, once more with a fresh sign-in if the one at hand is not good any more, and later if it is to be later.
func (p *pager) again(ctx context.Context, call func() error) error {
	for renewed := false; ; {
		err := call()
		reason, ok := errors.AsType[*ca.Error](err)
		switch {
		case ok && reason.Kind == ca.Unauthenticated && !renewed:
			renewed = true
			conn, who, dialErr := p.app.dial(ctx)
			if dialErr != nil {
				return dialErr
			}
			_ = p.conn.Close()
			p.conn, p.who = conn, who
		case ok && reason.Kind == ca.Exhausted && reason.RetryAfter > 0:
			select {
			case <-time.After(reason.RetryAfter):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return err
		}
	}
}
