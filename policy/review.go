package policy

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// Review rules say which decisions people shall look at afterwards. They are asked once a decision is made, and see how it came out
// and a little of the past. They never change it.

const (
	// maxReviewRules bounds what a record holds of them.
	maxReviewRules = 64
	defaultWithin  = 7 * day
	maxWithin      = 365 * day

	day = 24 * time.Hour
)

// reviewVariables are what review rules see beside the variables of the other rules.
var reviewVariables = []variable{
	{"decision.outcome", cel.StringType, false},
	{"decision.rule", cel.StringType, false},
	{"decision.first_use", cel.BoolType, false},
	{"decision.refusals", cel.IntType, false},
}

func (c *compiler) reviewRule(it item) {
	d := &ruleDraft{at: it}
	d.within = defaultWithin
	isMapping := c.mapping(it, "a review rule", append(c.ruleFields(d),
		field{key: "within", read: func(it item) { d.within = c.within(it) }},
		field{key: "message", read: func(it item) { d.message = c.sentence(it, "message") }}))
	if !isMapping {
		return
	}
	c.complete(d)
	if c.draft.review = append(c.draft.review, d); len(c.draft.review) == maxReviewRules+1 {
		c.errorf(it, "the policy has more than %d review rules", maxReviewRules)
	}
}

// within reads how much time there is for a review: a duration, or whole days.
func (c *compiler) within(it item) time.Duration {
	s, ok := c.scalar(it, "within", "days such as 7d, or a duration such as 12h", "!!str")
	if !ok {
		return 0
	}
	var d time.Duration
	var err error
	if days, isDays := strings.CutSuffix(s, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * day
	} else {
		d, err = time.ParseDuration(s)
	}
	switch {
	case err != nil || d < time.Second || d%time.Second != 0:
		c.errorf(it, "within must be days such as 7d, or a duration of whole seconds such as 12h, not %q", s)
	case d > maxWithin:
		c.errorf(it, "within is %s, and a review may take %s at most", withinWords(d), withinWords(maxWithin))
	}
	return d
}

// withinWords prints 7d, not 168h.
func withinWords(d time.Duration) string {
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return shortDuration(d)
}

// sealReview puts the review rules in order, and finds out what they want to know of the past.
func (p *Policy) sealReview() {
	p.review = byName(p.review)
	for _, r := range p.review {
		for _, name := range r.when.asks {
			p.wants.FirstUse = p.wants.FirstUse || name == "decision.first_use"
			p.wants.Refusals = p.wants.Refusals || name == "decision.refusals"
		}
	}
}

// Reviews implements ca.Rules.
func (p *Policy) Reviews() (ca.Wants, bool) { return p.wants, len(p.review) > 0 }

// Review implements ca.Rules. Of a request that was refused before its signature was checked nothing is known but where it came from:
// its texts are empty. A rule that cannot be evaluated asks for a review.
func (p *Policy) Review(ctx context.Context, s ca.Settled) ca.Review {
	out := ca.Review{Policy: p.ref, History: s.History}
	if len(p.review) == 0 {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	vars, err := p.settledVars(s)
	var e *evaluation
	if err == nil {
		e = p.evaluation(ctx, s.Question, vars)
	}
	var within time.Duration
	for _, r := range p.review {
		yes, failure := false, err
		if failure == nil {
			yes, failure = e.surely(r.when)
		}
		asking := ca.ReviewRule{Name: r.name, Message: r.message}
		switch {
		case failure != nil:
			asking.Failed = failure.Error()
		case !yes:
			continue
		}
		if out.Rules == nil || r.within < within {
			within = r.within
		}
		out.Rules = append(out.Rules, asking)
	}
	if out.Rules != nil {
		out.Due = s.Now.Add(within).Truncate(time.Second)
	}
	return out
}

// ReviewNames are the review rules that would ask people to look at a decision, were nothing known of the past.
func (p *Policy) ReviewNames(ctx context.Context, q ca.Question, d ca.Decision) []string {
	var names []string
	for _, rule := range p.Review(ctx, ca.Settled{Question: q, Decision: d, Refusal: refusalOf(d)}).Rules {
		names = append(names, rule.Name)
	}
	return names
}

// surely is holds for a condition that must not bring down what is already decided.
func (e *evaluation) surely(x *expression) (yes bool, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			yes, err = false, fmt.Errorf("the condition cannot be evaluated, by a fault of ours")
		}
	}()
	return e.holds(x)
}

// settledVars are the variables that review rules see.
func (p *Policy) settledVars(s ca.Settled) (map[string]any, error) {
	vars, err := p.ruleVars(s.Question, canonicalHost(s.Request.Host), s.Decision.Environment.Name)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"request.source_ip", "request.key_type"} {
		if _, known := vars[name]; !known {
			vars[name] = ""
		}
	}
	refusals := audit.Refusals(s.History.Refused, s.Now)
	if s.Refusal != nil {
		refusals = min(refusals+1, audit.MaxRefused)
	}
	vars["decision.outcome"] = audit.OutcomeName(s.Refusal)
	vars["decision.rule"] = s.Decision.Rule
	vars["decision.first_use"] = s.History.FirstUse != nil && *s.History.FirstUse
	vars["decision.refusals"] = refusals
	return vars, nil
}
