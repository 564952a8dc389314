package policy

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// describedHistory is what review rules see of the past, as it is written.
type describedHistory struct {
	firstUse bool
	refused  int // within the hour before, without the decision itself
}

// at is the history of a decision at a time.
func (h describedHistory) at(now time.Time) ca.History {
	return ca.History{FirstUse: &h.firstUse, Refused: slices.Repeat([]time.Time{now}, h.refused)}
}

func (r *suiteReader) history(it item, h *describedHistory) {
	r.mapping(it, "history", []field{
		{key: "first_use", read: func(it item) { h.firstUse = r.boolean(it, "history.first_use") }},
		{key: "refused", read: func(it item) {
			n, ok := r.integer(it, "history.refused")
			if ok && (n < 0 || n > audit.MaxRefused) {
				r.errorf(it, "history.refused is 0 to %d refusals, not %d", audit.MaxRefused, n)
				return
			}
			h.refused = int(n)
		}},
	})
}

// reviewers reads the names of the review rules that must ask.
func (r *suiteReader) reviewers(it item) string {
	var known []string
	for _, rule := range r.policy.review {
		known = append(known, rule.name)
	}
	var names []string
	r.list(it, "review", func(it item) {
		s, ok := r.text(it, "an entry of review")
		if ok && !slices.Contains(known, s) {
			r.errorf(it, "the policy has no review rule %s%s", s, didYouMean(s, known))
		}
		names = append(names, s)
	})
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// expectReview says how the review rules that ask differ from those that must. One that could not be evaluated is told with why.
func (p *Policy) expectReview(q ca.Question, d ca.Decision, h ca.History, want string) string {
	var names, failed []string
	for _, rule := range p.Review(context.Background(), ca.Settled{Question: q, Decision: d, Refusal: refusalOf(d), History: h}).Rules {
		names = append(names, rule.Name)
		if rule.Failed != "" {
			failed = append(failed, rule.Name+" could not be evaluated: "+rule.Failed)
		}
	}
	if want == "" {
		want = "none"
	}
	got := strings.Join(names, ", ")
	if got == "" {
		got = "none"
	}
	return differs("review", got, want, strings.Join(failed, "; "))
}

// refusalOf is the error that the core makes of a decision; nil for one that allows.
func refusalOf(d ca.Decision) *ca.Error {
	switch d.Outcome {
	case ca.Allow:
		return nil
	case ca.NeedsMore:
		return &ca.Error{Kind: ca.Needs, Message: d.Message, Needs: d.Needs}
	}
	return &ca.Error{Kind: ca.Denied, Message: d.Message}
}
