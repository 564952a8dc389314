package ca

import (
	"context"
	"errors"
	"time"
)

// Settled is a decision as it is about to be recorded: what review rules are asked about.
type Settled struct {
	Question
	// Decision is what the policy said; zero if the request was refused before it was asked.
	Decision Decision
	// Refusal is nil for a grant.
	Refusal *Error
	History History
}

// Wants says what review rules want to know of the past.
type Wants struct {
	FirstUse bool
	Refusals bool
}

// History is what review rules see of the past.
type History struct {
	// FirstUse says that nobody had got a certificate by the rule before; nil for a refusal, and if no review rule wants to know.
	FirstUse *bool
	// Refused is when the caller was refused before, in whole seconds and the order of the log: the last refusals, as many as the
	// log keeps. Nil if no review rule wants to know; none is an empty one.
	Refused []time.Time
}

// Review is what the review rules of a policy said of a decision.
type Review struct {
	// Policy is the one whose rules were asked.
	Policy PolicyRef
	// Rules are those that ask people to look, sorted by name.
	Rules []ReviewRule
	// Due is until when somebody should; zero if no rule asks.
	Due     time.Time
	History History
}

// ReviewRule is a review rule that asks people to look at a decision.
type ReviewRule struct {
	Name    string
	Message string // for whoever looks
	Failed  string // why its condition could not be evaluated; empty if it is true
}

// settle asks the review rules about an attempt as it stands, and makes it durable. They see the past as the log has it; if the
// caller was refused meanwhile, they are asked again, so that requests sent at the same time count each other.
func (c *CA) settle(ctx context.Context, a *Attempt, build func(serial uint64) ([]byte, error)) (uint64, error) {
	for {
		if err := c.review(ctx, a); err != nil {
			return 0, err
		}
		index, err := c.Log.Record(ctx, a, build)
		if !errors.Is(err, ErrRefusedMeanwhile) {
			return index, err
		}
	}
}

// review sets what the attempt records of its review. An attempt that was refused before a policy was asked is shown to the review
// rules in force. Of a policy without such rules nothing is set.
func (c *CA) review(ctx context.Context, a *Attempt) error {
	a.Review = nil
	rules := a.rules
	if rules == nil {
		if rules = c.Rules(); rules == nil {
			return nil
		}
	}
	wants, any := rules.Reviews()
	if !any {
		return nil
	}
	history, err := c.Log.History(ctx, a, wants)
	if err != nil {
		return err
	}
	return c.guard("review", func() error {
		review := rules.Review(ctx, Settled{
			Question: Question{Identity: a.Caller.Identity, Token: a.Caller.Token, Request: a.Request, Now: a.Now, Lists: a.Lists},
			Decision: a.Decision, Refusal: a.Refusal, History: history,
		})
		review.Policy = rules.Ref()
		a.Review = &review
		return nil
	})
}
