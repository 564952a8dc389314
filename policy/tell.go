package policy

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Bounds of what a refused caller is told. They also bound the work: only so many conditions are taken apart.
const (
	maxToldDeny  = 2
	maxToldAllow = 3
	maxToldRules = 1000 // allow rules looked at for those that come near
)

// Tell implements ca.Explainer. It explains with what Explain knows, but for these differences: it takes fewer rules apart, and it
// says only what is in the words of a caller: the names of rules, messages and owners, and about conditions no more than which
// facts about the caller they look at. What it advises it has tried, as any caller could.
func (p *Policy) Tell(ctx context.Context, q ca.Question, d ca.Decision) *ca.Explanation {
	if d.Outcome != ca.Deny && d.Outcome != ca.NeedsMore {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	out := &ca.Explanation{Reason: d.Message}
	a := &asking{policy: p, q: q, host: canonicalHost(q.Request.Host)}
	if refusal := a.begin(ctx); refusal != "" {
		a.tellWithoutRules(ctx, out)
		return out
	}
	x := Explanation{Decision: d, Login: q.Request.Login, Host: a.host, Environment: d.Environment.Name, Rule: d.Rule}
	near, more := a.nearToCaller(d)
	for _, n := range near {
		if n.rank == closed {
			x.Rules = append(x.Rules, n.closed())
			continue
		}
		x.Rules = append(x.Rules, a.explain(n))
	}
	slices.SortStableFunc(x.Rules, func(m, n ExplainedRule) int {
		return cmp.Or(cmp.Compare(m.place(d), n.place(d)), cmp.Compare(m.unmet(), n.unmet()))
	})
	a.tellAdvice(ctx, &x, out)
	out.MoreRules = more
	if d.Rule != "" {
		out.MoreRules = 0
	}
	for _, r := range x.Rules {
		told := r.told()
		// Where a rule decided, others matter only if there is no yes behind it.
		if d.Rule == "" || r.Name == d.Rule || told.Deny || d.Outcome == ca.Deny && out.Next == "" && len(told.Lacks) > 0 {
			out.Rules = append(out.Rules, told)
		}
	}
	if d.Outcome == ca.Deny && d.Rule == "" && q.Request.Rule == "" {
		out.Reason = "no rule lets you " + a.what()
	}
	return out
}

// nearToCaller lists the deny rules that refuse, and of the allow rules those that a caller may learn of, the nearest first. It
// counts the others.
func (a *asking) nearToCaller(d ca.Decision) (near []*nearRule, more int) {
	p, groups := a.policy, a.q.Identity.Groups
	for _, r := range byName(p.denyIndex.candidates(a.environment.Name, groups)) {
		n := a.nearRule(r)
		n.deny = true
		switch {
		case n.verdict == False:
		case r.name == d.Rule: // whatever its name
			near = append([]*nearRule{n}, near...)
		default:
			near = append(near, n)
		}
	}
	more = max(len(near)-maxToldDeny, 0)
	near = near[:len(near)-more]
	var allow []*nearRule
	for i, r := range byName(p.allowIndex.candidates(a.environment.Name, groups)) {
		if n := a.nearRule(r); i < maxToldRules && a.mayLearnOf(n, d) {
			allow = append(allow, n)
		}
	}
	first, others := a.closedRules()
	allow = append(allow, first...)
	if name := a.q.Request.Rule; p.allow[name] != nil { // the others matter only if one of them gives it
		allow = slices.DeleteFunc(allow, func(n *nearRule) bool { return n.name != name && n.rank > 1 })
		others = 0
	}
	slices.SortStableFunc(allow, func(m, n *nearRule) int { return cmp.Compare(m.rank, n.rank) })
	told := min(len(allow), maxToldAllow)
	return append(near, allow[:told]...), more + others + len(allow) - told
}

// closed is the rank of a rule that asks for a group in which the caller is not.
const closed = 4

// closedRules finds the first of those rules by name, and counts the others. They are not asked anything: there may be thousands.
func (a *asking) closedRules() (first []*nearRule, others int) {
	for _, r := range a.policy.allow {
		e, group := r.when.facts.environment, r.when.facts.group
		if group == "" || slices.Contains(a.q.Identity.Groups, group) || e != "" && e != a.environment.Name ||
			r.expired(a.q.Now) || !r.grants(a.q.Request.Login) {
			continue
		}
		if name := a.q.Request.Rule; a.policy.allow[name] != nil && r.name != name {
			continue
		}
		at, _ := slices.BinarySearchFunc(first, r.name, func(n *nearRule, name string) int { return strings.Compare(n.name, name) })
		if at < maxToldAllow {
			first = slices.Insert(first, at, &nearRule{rule: r, verdict: False, rank: closed})
		} else {
			others++
		}
		if len(first) > maxToldAllow {
			first = first[:maxToldAllow]
			others++
		}
	}
	return first, others
}

// closed explains such a rule.
func (n *nearRule) closed() ExplainedRule {
	return ExplainedRule{
		Name: n.name, Kind: "allow", File: n.file, Line: n.line, Owner: n.owner, Result: False,
		Conditions: []Condition{{Part: "when", Result: False, told: notInGroup}},
		remedies:   []remedy{{text: "the group " + n.when.facts.group, told: "a group that you are not in"}},
	}
}

const notInGroup = "you are not in the group that it asks for"

// mayLearnOf says whether a caller may learn of an allow rule, and ranks it: the rule that decided, one that is for the caller, one
// that was until it ended, one that grants the login to others.
func (a *asking) mayLearnOf(n *nearRule, d ca.Decision) bool {
	n.offer, n.partial = a.offer(n.rule)
	forLogin := slices.Contains(n.offer.grant.Logins, a.q.Request.Login)
	switch {
	case n.name == d.Rule || n.name == a.q.Request.Rule:
	case n.verdict == True && forLogin:
		n.rank = 1
	case n.expired(a.q.Now):
		return false
	case n.verdict == True:
		n.rank = 2
	case n.grants(a.q.Request.Login) || n.partial != nil:
		n.rank = 3
	default:
		return false
	}
	return true
}

// told is what a caller learns of a rule.
func (r ExplainedRule) told() ca.ExplainedRule {
	out := ca.ExplainedRule{Name: r.Name, Deny: r.Kind == "deny", Owner: r.Owner, Message: r.Message}
	if out.Deny {
		out.Lacks = looksAt(r.Conditions)
		return out
	}
	met := !slices.ContainsFunc(r.Conditions, func(c Condition) bool { return c.Part == "when" && c.Result != True })
	for _, c := range r.Conditions {
		// What a rule asks for besides its condition is said to those for whom it is.
		if c.told == "" || c.Result == True || c.Part != "when" && !met {
			continue
		}
		if !slices.Contains(out.Lacks, c.told) {
			out.Lacks = append(out.Lacks, c.told)
		}
	}
	return out
}

// tellAdvice says what is missing, what to type and whom to ask.
func (a *asking) tellAdvice(ctx context.Context, x *Explanation, out *ca.Explanation) {
	remedies := x.remedies(a.q.Request)
	next, ok := a.attempt(ctx, remedies)
	forOthers := !ok && slices.ContainsFunc(remedies, func(r remedy) bool { return !r.granting })
	for _, r := range remedies {
		if !forOthers || !r.granting { // what a rule grants is said to those for whom it is, or who can make it so
			out.Missing = append(out.Missing, clip(cmp.Or(r.told, r.text)))
		}
	}
	out.Ask = "who looks after the policy"
	if len(x.Rules) > 0 {
		out.Ask = ruleKeeper(x.Rules[0].Name, x.Rules[0].Owner)
	}
	if ok {
		out.Next = next
		if x.Rules[0].Kind != "deny" { // a way past a rule that refuses is for those who know that it is right
			out.Ask = ""
		}
		return
	}
	for _, r := range x.Rules {
		if r.login.apply == nil {
			continue
		}
		if next, ok := a.attempt(ctx, []remedy{r.login}); ok {
			out.Missing, out.Next = []string{r.login.text}, next
			return
		}
	}
}

// ruleKeeper says who can change a rule.
func ruleKeeper(name, owner string) string {
	if owner == "" {
		return "who looks after the rule " + name
	}
	return clip(owner) + ", who answers for the rule " + name
}

// tellWithoutRules advises where the answer is no before any rule is asked. A host that the policy has under a longer name is
// advised if the policy says yes to it.
func (a *asking) tellWithoutRules(ctx context.Context, out *ca.Explanation) {
	r := a.q.Request
	out.Ask = "who looks after the policy"
	if len(a.policy.environmentsOf(a.host)) > 0 || !isHost(a.host) {
		return
	}
	label, _, _ := strings.Cut(a.host, ".")
	for _, c := range a.policy.nearestFirst(a.host) {
		full := label + strings.TrimPrefix(c.pattern, "*")
		if !strings.HasPrefix(c.pattern, "*.") || !isHost(full) || strings.Contains(a.host, ".") && edits(a.host, full) > maxTypos {
			continue
		}
		q := a.q
		q.Request.Host = full
		if a.policy.Decide(ctx, q).Outcome == ca.Allow {
			r.Host = full
			out.Reason = "no environment has the host " + a.host
			out.Missing = []string{"a host that the policy knows, such as " + full}
			if !strings.Contains(a.host, ".") {
				out.Missing = []string{"the full name of the host, such as " + full}
			}
			out.Next, out.Ask = command(r, nil), ""
			return
		}
	}
}

// maxTypos is how much a host may differ from the one that it was meant to be.
const maxTypos = 3

// grants says whether a rule names a login as it is.
func (r *rule) grants(login string) bool {
	return slices.ContainsFunc(r.grant.logins, func(t *template) bool {
		s, literal := t.literal()
		return literal && s == login
	})
}
