package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Verification says what came of making a recorded decision again.
type Verification string

// What can come of it. Only Different is an alarm: a mistake in a program, or a log that somebody changed.
const (
	Same      Verification = "same"
	Different Verification = "different"
	// NotAsked: the request was refused before the policy came to a decision, or by a fault that spoiled what was recorded of it.
	NotAsked Verification = "not asked"
)

// Reproduction is a recorded decision, made again.
type Reproduction struct {
	Result Verification
	// Decision is what the policy says now; zero if it was not asked.
	Decision ca.Decision
	// Differences are what is not as recorded; nil unless the Result is Different.
	Differences []Difference
	// Reason says why the policy was not asked.
	Reason string
}

// Difference is one thing that came out otherwise. Its JSON names are stable.
type Difference struct {
	// What is "outcome", "rule", "environment", "needs", "authority", "policy", "certificate", or, of what the review rules said,
	// "review", "due" or "history".
	What     string `json:"what"`
	Recorded string `json:"recorded"`
	Now      string `json:"now"`
}

// Reproduce makes a recorded decision again, from the question that its record holds, and compares: the outcome, the rule, the
// environment and what is needed; of a grant also the Authority and the certificate that was to be signed, which must be exactly
// what the decision leads to (ca.CheckGranted). It is for the policy that the record cites; another one is a difference itself.
//
// The policy is named by the digest of its files alone: whether they were committed (Dirty) and at which commit does not change
// what they decide. Messages are not compared, because programs may say the same in better words. Nor is the list of rules that
// failed: that one failed counts by what it does to the outcome, and where it ran out of time it need not fail again.
//
// A decision that the core refused afterwards, for a ceiling that the policy did not keep, is compared as what the policy said.
func (p *Policy) Reproduce(ctx context.Context, q ca.Question, was *ca.Recorded) Reproduction {
	switch {
	case was.Policy == (ca.PolicyRef{}):
		return Reproduction{Result: NotAsked, Reason: "refused before the policy was asked"}
	case was.Decision.Outcome == 0:
		return Reproduction{Result: NotAsked, Reason: "refused before the policy came to a decision"}
	case was.Refusal != nil && was.Refusal.Kind == ca.Internal:
		return Reproduction{Result: NotAsked, Reason: "a fault of the daemon: what is recorded is not all that the policy saw"}
	}
	d := p.Decide(ctx, q)
	out := Reproduction{Result: Same, Decision: d}
	compare := func(what, recorded, now string) {
		if recorded != now {
			out.Result, out.Differences = Different, append(out.Differences, Difference{what, recorded, now})
		}
	}
	if was.Policy.Digest != p.ref.Digest {
		compare("policy", fmt.Sprintf("%x", was.Policy.Digest), fmt.Sprintf("%x", p.ref.Digest))
	}
	compare("outcome", outcomeWords[was.Decision.Outcome], outcomeWords[d.Outcome])
	compare("rule", was.Decision.Rule, d.Rule)
	compare("environment", was.Decision.Environment.Name, d.Environment.Name)
	compare("needs", needsWords(was.Decision.Needs), needsWords(d.Needs))
	for _, r := range p.ReproduceReview(ctx, q, was) {
		compare(r.What, r.Recorded, r.Now)
	}
	if was.Refusal != nil {
		return out
	}
	if d.Outcome == ca.Allow { // else the outcome says it
		compare("authority", was.Authority, d.Environment.Authority)
	}
	if err := ca.CheckGranted(was.ToBeSigned, q, d, was.Policy); err != nil {
		compare("certificate", err.Error(), "what the decision leads to")
	}
	return out
}

// needsWords lists needs in one order.
func needsWords(needs []ca.Need) string {
	var words []string
	for _, need := range needs {
		words = append(words, needWords(need))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// ReproduceReview asks the review rules again, about a decision as it is recorded, and says what comes out otherwise. It is for the
// policy whose rules were asked. Where an expression ran out of time, nothing is compared.
func (p *Policy) ReproduceReview(ctx context.Context, q ca.Question, was *ca.Recorded) []Difference {
	recorded := ca.Review{}
	if was.Review != nil {
		recorded = *was.Review
	}
	var out []Difference
	compare := func(what, recorded, now string) {
		if recorded != now {
			out = append(out, Difference{what, recorded, now})
		}
	}
	wants := ca.Wants{FirstUse: p.wants.FirstUse && was.Refusal == nil, Refusals: p.wants.Refusals}
	compare("history", historyWords(ca.Wants{FirstUse: recorded.History.FirstUse != nil, Refusals: recorded.History.Refused != nil}), historyWords(wants))
	now := p.Review(ctx, ca.Settled{Question: q, Decision: was.Decision, Refusal: was.Refusal, History: recorded.History})
	if slowReview(recorded) || slowReview(now) {
		return out
	}
	compare("review", reviewWords(recorded), reviewWords(now))
	if len(out) == 0 && !recorded.Due.Equal(now.Due) {
		compare("due", recorded.Due.Format(time.RFC3339), now.Due.Format(time.RFC3339))
	}
	return out
}

func slowReview(r ca.Review) bool {
	return slices.ContainsFunc(r.Rules, func(r ca.ReviewRule) bool { return r.Failed == errSlow.Error() })
}

// reviewWords list the rules that ask for a review.
func reviewWords(r ca.Review) string {
	var words []string
	for _, rule := range r.Rules {
		word := rule.Name
		if rule.Message != "" {
			word += " (" + rule.Message + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// historyWords name what review rules know of the past.
func historyWords(w ca.Wants) string {
	var words []string
	if w.FirstUse {
		words = append(words, "first use")
	}
	if w.Refusals {
		words = append(words, "refusals")
	}
	return strings.Join(words, ", ")
}
