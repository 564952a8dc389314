package ca

import "context"

// Explainer is Rules that can tell a caller why they refuse.
type Explainer interface {
	// Tell explains a refusal: what Decide said to the question. It is asked after the refusal is on record, and what it says
	// reaches the caller. It returns nil if there is nothing to say.
	Tell(ctx context.Context, q Question, d Decision) *Explanation
}

// Explanation says why a caller is refused, in words about this caller alone: names of rules, what these say to those whom they
// refuse, who answers for them, and what this caller lacks. It MUST NOT hold the text of a condition, nor the name of a group or
// of a person that the caller did not bring.
type Explanation struct {
	// Reason is one sentence. It says less than the Message of the decision where Rules say the rest.
	Reason string
	// Rules are those that refuse, or that come nearest to a yes, the nearest first.
	Rules []ExplainedRule
	// MoreRules counts rules for what was asked that Rules leaves out.
	MoreRules int
	// Missing is what would make it a yes. If Next is a command, that is all.
	Missing []string
	// Next is the command to type for a yes; empty if the caller cannot get one alone.
	Next string
	// Ask says whom to ask; empty if nobody need be asked.
	Ask string
}

// ExplainedRule is a rule as far as a caller may know it.
type ExplainedRule struct {
	Name string
	// Deny: it is a deny rule, and refuses.
	Deny bool
	// Owner answers for it; empty if the policy does not say who.
	Owner string
	// Message is what a deny rule tells those whom it refuses.
	Message string
	// Lacks are clauses about the caller: why the rule does not let it in.
	Lacks []string
}

// explain adds to a refusal why the policy refused. A policy that cannot say so changes nothing.
func (c *CA) explain(ctx context.Context, a *Attempt) *Explanation {
	teller, ok := a.rules.(Explainer)
	if !ok || a.Decision.Outcome != Deny && a.Decision.Outcome != NeedsMore {
		return nil
	}
	var out *Explanation
	if err := c.guard("explain", func() error {
		out = teller.Tell(ctx, Question{Identity: a.Caller.Identity, Token: a.Caller.Token, Request: a.Request, Now: a.Now, Lists: a.Lists}, a.Decision)
		return nil
	}); err != nil {
		return nil
	}
	return out
}
