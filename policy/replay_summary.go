package policy

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Bounds of a summary, so that it fits into memory whatever the log holds.
const (
	maxSummaryGroups = 500  // of changes, and of reasons to skip
	maxSummaryPeople = 2000 // of one group, before the rest is only counted
	maxAlarms        = 20
)

// ReplaySummary is what a replay came to. Its JSON names are stable; indexes of records are strings.
type ReplaySummary struct {
	// From and To are the times of the first and the last decision; absent if there was none.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Decisions is how many the log has in the range: Compared, those skipped and those not reproduced.
	Decisions uint64 `json:"decisions"`
	Compared  uint64 `json:"compared"`
	// Changed is how many of those compared would come out otherwise: the sum of the four that follow.
	Changed  uint64 `json:"changed"`
	Gains    uint64 `json:"gains"`
	Loses    uint64 `json:"loses"`
	Regrants uint64 `json:"grants_differ"`
	Refuses  uint64 `json:"refusals_differ"`
	// ReviewsBefore is how many of those compared asked for a review, ReviewsAfter how many would. ReviewsUnknown are those of which
	// that cannot be told, because the proposed policy wants to know more of the past than was recorded.
	ReviewsBefore  uint64 `json:"reviews_before"`
	ReviewsAfter   uint64 `json:"reviews_after"`
	ReviewsUnknown uint64 `json:"reviews_unknown"`
	// NotReproduced is how many decisions their own policy does not make again. An alarm.
	NotReproduced uint64        `json:"not_reproduced"`
	Alarms        []ReplayAlarm `json:"alarms"`
	Changes       []ChangeGroup `json:"changes"`
	// MoreChanges is how many decisions change in groups that are too many to list.
	MoreChanges uint64      `json:"more_changes"`
	Skipped     []SkipGroup `json:"skipped"`

	changes map[string]*ChangeGroup
	skipped map[Skip]*SkipGroup
}

// ReplayAlarm is a recorded decision that its own policy does not make again.
type ReplayAlarm struct {
	Record      string       `json:"record"`
	Policy      string       `json:"policy"`
	Differences []Difference `json:"differences"`
}

// ChangeGroup is a number of decisions that change in the same way.
type ChangeGroup struct {
	Kind ChangeKind `json:"kind"`
	// Environment is that of the hosts under the proposed policy, or the one before if it has none.
	Environment string         `json:"environment"`
	Before      ReplayDecision `json:"before"`
	After       ReplayDecision `json:"after"`
	// Differences are those of the grants; empty if one of the two is a refusal.
	Differences []GrantDifference `json:"differences"`
	Decisions   uint64            `json:"decisions"`
	// Identities are those whose decisions they are, most decisions first; MoreDecisions are of others.
	Identities    []ReplayIdentity `json:"identities"`
	MoreDecisions uint64           `json:"more_decisions"`
	// FirstRecord is the index of the oldest of them.
	FirstRecord string `json:"first_record"`

	people map[[2]string]*ReplayIdentity
}

// ReplayDecision is one side of a change.
type ReplayDecision struct {
	Outcome string `json:"outcome"`
	// Rule is empty if none decided.
	Rule string `json:"rule"`
	// Needs is what is still missing, for "needs".
	Needs string `json:"needs"`
}

// GrantDifference is a Difference of two grants.
type GrantDifference struct {
	// What is "ttl", "environment", "authority", "scope", "extensions", "force_command", "source_address" or "verify_required".
	What   string `json:"what"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// ReplayIdentity is somebody, with a number of decisions.
type ReplayIdentity struct {
	// Identity is the email, or the subject.
	Identity  string `json:"identity"`
	Issuer    string `json:"issuer"`
	Subject   string `json:"subject"`
	Decisions uint64 `json:"decisions"`
}

// SkipGroup is a number of decisions that were not compared for the same reason.
type SkipGroup struct {
	Skip
	Decisions   uint64 `json:"decisions"`
	FirstRecord string `json:"first_record"`
}

// Skip counts a record that there is no question of.
func (s *ReplaySummary) Skip(index uint64, why Skip) {
	s.Decisions++
	s.skip(index, why, 1)
}

func (s *ReplaySummary) skip(index uint64, why Skip, n uint64) {
	if s.skipped == nil {
		s.skipped = map[Skip]*SkipGroup{}
	}
	if s.skipped[why] == nil && len(s.skipped) >= maxSummaryGroups {
		why.Detail = "" // one group a reason for all that are too many
	}
	g := s.skipped[why]
	if g == nil {
		g = &SkipGroup{Skip: why, FirstRecord: strconv.FormatUint(index, 10)}
		s.skipped[why] = g
	}
	g.Decisions += n
}

// Add counts what came of one record. Records are added in their order.
func (s *ReplaySummary) Add(index uint64, past Past, r Replayed) {
	if at := past.Question.Now; s.Decisions == 0 || s.From.IsZero() {
		s.From, s.To = at, at
	} else {
		s.To = at
	}
	switch {
	case len(r.Differences) > 0:
		s.Decisions++
		s.NotReproduced++
		if len(s.Alarms) < maxAlarms {
			s.Alarms = append(s.Alarms, ReplayAlarm{strconv.FormatUint(index, 10), refName(past.Policy.ref), r.Differences})
		}
		return
	case r.Skipped != nil:
		s.Skip(index, *r.Skipped)
		return
	}
	s.Decisions++
	s.Compared++
	for _, count := range []struct {
		is bool
		n  *uint64
	}{{r.Review.Before, &s.ReviewsBefore}, {r.Review.After, &s.ReviewsAfter}, {r.Review.Unknown, &s.ReviewsUnknown}} {
		if count.is {
			*count.n++
		}
	}
	if r.Change != nil {
		s.change(index, past.Question.Identity, r.Change)
	}
}

// refName is the commit of a policy, or its digest.
func refName(ref ca.PolicyRef) string {
	return cmp.Or(ref.Revision, hex.EncodeToString(ref.Digest[:]))
}

func (s *ReplaySummary) change(index uint64, id ca.Identity, c *Change) {
	g := &ChangeGroup{
		Kind: c.Kind, Environment: cmp.Or(c.After.Environment.Name, c.Before.Environment.Name),
		Before: sideOf(c.Before), After: sideOf(c.After), Differences: []GrantDifference{},
		FirstRecord: strconv.FormatUint(index, 10), people: map[[2]string]*ReplayIdentity{},
	}
	for _, d := range c.Differences {
		g.Differences = append(g.Differences, GrantDifference{d.What, d.Recorded, d.Now})
	}
	g = s.group(g)
	s.count(c.Kind, 1)
	if g == nil {
		s.MoreChanges++
		return
	}
	g.Decisions++
	g.add(&ReplayIdentity{cmp.Or(id.Email, id.Subject), id.Issuer, id.Subject, 1})
}

func (s *ReplaySummary) count(kind ChangeKind, n uint64) {
	s.Changed += n
	switch kind {
	case Gains:
		s.Gains += n
	case Loses:
		s.Loses += n
	case Regrants:
		s.Regrants += n
	case Refuses:
		s.Refuses += n
	}
}

func sideOf(d ca.Decision) ReplayDecision {
	return ReplayDecision{outcomeWords[d.Outcome], d.Rule, needsWords(d.Needs)}
}

// key tells groups apart.
func (g *ChangeGroup) key() string {
	parts := []string{
		string(g.Kind), g.Environment, g.Before.Outcome, g.Before.Rule, g.Before.Needs, g.After.Outcome, g.After.Rule, g.After.Needs,
	}
	for _, d := range g.Differences {
		parts = append(parts, d.What, d.Before, d.After)
	}
	return strings.Join(parts, "\x00")
}

// group returns the group of which g is one; g itself if it is the first, nil if there are too many.
func (s *ReplaySummary) group(g *ChangeGroup) *ChangeGroup {
	key := g.key()
	if known := s.changes[key]; known != nil {
		return known
	}
	if s.changes == nil {
		s.changes = map[string]*ChangeGroup{}
	}
	if len(s.changes) >= maxSummaryGroups {
		return nil
	}
	s.changes[key] = g
	return g
}

// add counts the decisions of somebody.
func (g *ChangeGroup) add(who *ReplayIdentity) {
	key := [2]string{who.Issuer, who.Subject}
	switch known := g.people[key]; {
	case known != nil:
		known.Decisions += who.Decisions
	case len(g.people) >= maxSummaryPeople:
		g.MoreDecisions += who.Decisions
	default:
		g.people[key] = who
	}
}

// Merge adds the summary of the records that come next. The other one is used up.
func (s *ReplaySummary) Merge(next *ReplaySummary) {
	if s.From.IsZero() {
		s.From = next.From
	}
	if !next.To.IsZero() {
		s.To = next.To
	}
	s.Decisions += next.Decisions
	s.Compared += next.Compared
	s.NotReproduced += next.NotReproduced
	s.Alarms = append(s.Alarms, next.Alarms...)
	s.Alarms = s.Alarms[:min(len(s.Alarms), maxAlarms)]
	s.MoreChanges += next.MoreChanges
	s.Gains += next.Gains
	s.Loses += next.Loses
	s.Regrants += next.Regrants
	s.Refuses += next.Refuses
	s.ReviewsBefore += next.ReviewsBefore
	s.ReviewsAfter += next.ReviewsAfter
	s.ReviewsUnknown += next.ReviewsUnknown
	s.Changed = s.Gains + s.Loses + s.Regrants + s.Refuses
	for _, key := range slices.Sorted(maps.Keys(next.changes)) { // in order, so that the same log gives the same summary
		s.mergeGroup(next.changes[key])
	}
	for _, g := range slices.SortedFunc(maps.Values(next.skipped), compareSkips) {
		first, _ := strconv.ParseUint(g.FirstRecord, 10, 64)
		s.skip(first, g.Skip, g.Decisions)
	}
}

func (s *ReplaySummary) mergeGroup(g *ChangeGroup) {
	switch mine := s.group(g); mine {
	case g:
	case nil:
		s.MoreChanges += g.Decisions
	default:
		mine.Decisions += g.Decisions
		mine.MoreDecisions += g.MoreDecisions
		for _, who := range slices.SortedFunc(maps.Values(g.people), compareIdentities) {
			mine.add(who)
		}
	}
}

// Finish sorts what was counted: the kinds in their order, then most decisions first.
func (s *ReplaySummary) Finish() {
	order := []ChangeKind{Gains, Loses, Regrants, Refuses}
	s.Changes, s.Skipped = []ChangeGroup{}, []SkipGroup{}
	if s.Alarms == nil {
		s.Alarms = []ReplayAlarm{}
	}
	for _, key := range slices.Sorted(maps.Keys(s.changes)) {
		g := s.changes[key]
		g.Identities = []ReplayIdentity{}
		for _, who := range slices.SortedFunc(maps.Values(g.people), compareIdentities) {
			g.Identities = append(g.Identities, *who)
		}
		s.Changes = append(s.Changes, *g)
	}
	slices.SortStableFunc(s.Changes, func(a, b ChangeGroup) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(b.Decisions, a.Decisions))
	})
	for _, g := range s.skipped {
		s.Skipped = append(s.Skipped, *g)
	}
	slices.SortFunc(s.Skipped, func(a, b SkipGroup) int { return compareSkips(&a, &b) })
}

func compareIdentities(a, b *ReplayIdentity) int {
	return cmp.Or(cmp.Compare(b.Decisions, a.Decisions), cmp.Compare(a.Identity, b.Identity),
		cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Subject, b.Subject))
}

func compareSkips(a, b *SkipGroup) int {
	return cmp.Or(cmp.Compare(b.Decisions, a.Decisions), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Detail, b.Detail))
}

// SkippedDecisions is how many were not compared.
func (s *ReplaySummary) SkippedDecisions() uint64 { return s.Decisions - s.Compared - s.NotReproduced }
