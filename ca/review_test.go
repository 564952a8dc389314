package ca_test

import (
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// looking is a policy that decides as another, with review rules that keep what they were asked.
func looking(decide func(ca.Question) ca.Decision, asked *[]ca.Settled, wants ca.Wants, ask bool) *rules {
	var mu sync.Mutex
	return &rules{decide: decide, wants: wants, review: func(s ca.Settled) []ca.ReviewRule {
		mu.Lock()
		defer mu.Unlock()
		*asked = append(*asked, s)
		if ask {
			return []ca.ReviewRule{{Name: "look", Message: "Look at it."}}
		}
		return nil
	}}
}

func deny(ca.Question) ca.Decision {
	return ca.Decision{Outcome: ca.Deny, Rule: "freeze", Message: "no"}
}

func TestAReviewNeverChangesADecision(t *testing.T) {
	s := newStand(t)
	var asked []ca.Settled
	s.setRules(looking(s.rules.Load().decide, &asked, ca.Wants{FirstUse: true}, true))
	issued, err := s.Issue(t.Context(), s.ask())
	if err != nil {
		t.Fatal(err)
	}
	got := s.log.last()
	if len(asked) != 1 || asked[0].Refusal != nil || asked[0].Decision.Rule != issued.Decision.Rule || !*asked[0].History.FirstUse {
		t.Errorf("the review rules were asked %+v", asked)
	}
	if r := got.attempt.Review; r == nil || len(r.Rules) != 1 || !r.Due.Equal(s.now.Add(time.Hour).Truncate(time.Second)) || r.Policy != issued.Policy {
		t.Errorf("recorded %+v", r)
	}
	if _, err := s.Issue(t.Context(), s.ask()); err != nil {
		t.Fatal(err)
	}
	if *asked[1].History.FirstUse {
		t.Error("the second use of a rule is its first")
	}
	s.setRules(looking(deny, &asked, ca.Wants{}, true))
	s.refused(s.ask(), ca.Denied, "no", 1)
	if r := s.log.last().attempt.Review; r == nil || len(r.Rules) != 1 {
		t.Errorf("recorded of a refusal: %+v", r)
	}
	s.setRules(&rules{decide: deny, review: func(ca.Settled) []ca.ReviewRule { panic("boom") }})
	s.refused(s.ask(), ca.Unavailable, "nothing was issued", 0)
}

func TestReviewRulesSeeWhatWasRefusedBeforeThePolicyWasAsked(t *testing.T) {
	s := newStand(t)
	var asked []ca.Settled
	r := looking(deny, &asked, ca.Wants{}, true)
	s.setRules(r)
	c := s.ask()
	c.Token = s.token(identify("mallory", ca.Person), ca.Errorf(ca.Denied, "the email address is not verified"))
	s.refused(c, ca.Denied, "email", 1)
	if len(asked) != 1 || asked[0].Identity.Subject != "mallory" || asked[0].Decision.Outcome != 0 || asked[0].Refusal.Kind != ca.Denied || asked[0].Request.Login != "" {
		t.Errorf("the review rules were asked %+v", asked)
	}
	got := s.log.last()
	if got.attempt.Policy != (ca.PolicyRef{}) || got.attempt.Review.Policy != r.Ref() || len(got.attempt.Review.Rules) != 1 {
		t.Errorf("recorded %+v", got.attempt)
	}
}

func TestADryRunAsksForNoReview(t *testing.T) {
	s := newStand(t)
	var asked []ca.Settled
	s.setRules(looking(s.rules.Load().decide, &asked, ca.Wants{}, true))
	if _, err := s.DryRun(t.Context(), s.ask()); err != nil || len(asked) != 0 {
		t.Errorf("error %v, review rules asked %+v", err, asked)
	}
}

// TestRefusalsAtTheSameTimeCountEachOther sends a burst at once: no refusal may see less than those that the log has before it.
func TestRefusalsAtTheSameTimeCountEachOther(t *testing.T) {
	s := newStand(t)
	var asked []ca.Settled
	s.setRules(looking(deny, &asked, ca.Wants{Refusals: true}, false))
	const together = 10
	calls := make([]ca.Call, together)
	for i := range calls {
		calls[i] = s.ask()
	}
	var group sync.WaitGroup
	for _, c := range calls {
		group.Go(func() {
			if _, err := s.Issue(t.Context(), c); ca.KindOf(err) != ca.Denied {
				t.Errorf("error %v", err)
			}
		})
	}
	group.Wait()
	records, err := s.log.store.Records(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, raw := range records {
		r, err := audit.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := r.GetDecided(); d != nil {
			if n := len(d.GetReview().GetRefusedBefore().GetTimes()); n != seen {
				t.Errorf("refusal %d counts %d before it", seen+1, n)
			}
			seen++
		}
	}
	if seen != together {
		t.Errorf("%d refusals are recorded, want %d", seen, together)
	}
}

func TestWithoutReviewRulesNothingIsRecordedOfThem(t *testing.T) {
	s := newStand(t)
	s.setRules(&rules{decide: deny, wants: ca.Wants{FirstUse: true, Refusals: true}})
	s.refused(s.ask(), ca.Denied, "no", 1)
	if r := s.log.last().attempt.Review; r != nil {
		t.Errorf("recorded %+v", r)
	}
}
