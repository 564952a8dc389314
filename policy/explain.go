package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Explanation is a decision with its reasons: the rules that made it and those that nearly applied, each condition with the
// values it saw. It shows the text of rules, so it is for those who may read the policy. Its JSON names are stable.
type Explanation struct {
	// Decision is what Decide says to the same question.
	Decision ca.Decision `json:"-"`
	// Outcome is "allow", "deny" or "needs".
	Outcome string `json:"outcome"`
	// Identity is the email of the caller, or the subject.
	Identity    string    `json:"identity"`
	Login       string    `json:"login"`
	Host        string    `json:"host"`
	Environment string    `json:"environment"`
	Time        time.Time `json:"time"`
	// Rule is the rule that decided; empty if none did.
	Rule    string `json:"rule"`
	Message string `json:"message"`
	// TTL is the lifetime granted, in seconds; zero if none is.
	TTL int64 `json:"ttl_seconds"`
	// Rules are those that made the decision or nearly did, the nearest first.
	Rules []ExplainedRule `json:"rules"`
	// MoreRules counts rules for the environment and the login that Rules leaves out.
	MoreRules int `json:"more_rules"`
	// Missing is what would make it a yes, as far as the first rule can tell.
	Missing []string `json:"missing"`
	// Next is what to type, or whom to ask.
	Next string `json:"next"`
	// Review are the review rules that ask people to look at it. Explain leaves them out.
	Review []string `json:"review,omitempty"`
}

// ExplainedRule is a rule that nearly applied.
type ExplainedRule struct {
	Name string `json:"name"`
	// Kind is "allow" or "deny".
	Kind string `json:"kind"`
	// File and Line are where the rule stands.
	File  string `json:"file"`
	Line  int    `json:"line"`
	Owner string `json:"owner,omitempty"`
	// Message is what a deny rule tells the caller.
	Message string `json:"message,omitempty"`
	// Result says whether an allow rule gives what was asked for, or a deny rule forbids it.
	Result     Verdict     `json:"result"`
	Conditions []Condition `json:"conditions"`

	remedies []remedy
	login    remedy // to ask for a login that the rule grants; none if that is not all that it lacks
}

// Condition is one thing that a rule asks for.
type Condition struct {
	// Part is where the rule asks for it: "when", "expires", "logins", "source_address", "ttl" or "require".
	Part   string  `json:"part"`
	Text   string  `json:"text"`
	Result Verdict `json:"result"`
	// Error says why it failed.
	Error string `json:"error,omitempty"`
	// Values are those that made it what it is.
	Values []Value `json:"values,omitempty"`

	told string // the same in words about the caller alone; empty if the caller may learn nothing from it
}

// Verdict is what a condition comes to.
type Verdict string

// The verdicts. A condition that failed could not be evaluated.
const (
	True   Verdict = "true"
	False  Verdict = "false"
	Failed Verdict = "failed"
)

// Value is the value of a variable, as people read it.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Bounds of an explanation.
const (
	maxTaken = 50 // rules whose conditions are taken apart
	maxTold  = 20 // rules that are told
)

// Explain answers a question and says why. The answer is that of Decide; the reasons have as much time again, and what they
// cannot evaluate in it they show as failed.
func (p *Policy) Explain(ctx context.Context, q ca.Question) Explanation {
	d := p.Decide(ctx, q)
	x := Explanation{
		Decision: d, Outcome: outcomeWords[d.Outcome], Identity: cmp.Or(q.Identity.Email, q.Identity.Subject), Login: q.Request.Login,
		Host: canonicalHost(q.Request.Host), Environment: d.Environment.Name, Time: q.Now.UTC(), Rule: d.Rule, Message: d.Message,
		TTL: int64(d.TTL / time.Second), Rules: []ExplainedRule{}, Missing: []string{},
	}
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	a := &asking{policy: p, q: q, host: x.Host}
	if refusal := a.begin(ctx); refusal != "" {
		x.Next = p.nextWithoutRules(q.Request, x.Host)
		return x
	}
	near := a.near(d)
	slices.SortStableFunc(near, func(m, n *nearRule) int { return cmp.Compare(m.rank, n.rank) })
	for i, n := range near {
		if i == maxTaken {
			break
		}
		x.Rules = append(x.Rules, a.explain(n))
	}
	slices.SortStableFunc(x.Rules, func(m, n ExplainedRule) int {
		return cmp.Or(cmp.Compare(m.place(d), n.place(d)), cmp.Compare(m.unmet(), n.unmet()))
	})
	x.Rules = x.Rules[:min(len(x.Rules), maxTold)]
	x.MoreRules = len(near) - len(x.Rules)
	x.advise(ctx, a)
	return x
}

var outcomeWords = map[ca.Outcome]string{ca.Allow: "allow", ca.Deny: "deny", ca.NeedsMore: "needs"}

// nearRule is a rule worth explaining.
type nearRule struct {
	*rule
	deny    bool
	verdict Verdict // of when
	err     error   // why it failed
	offer   offer   // of an allow rule
	partial error   // why the offer lacks something
	rank    int     // how near the rule is, before its condition is taken apart
}

// near lists the deny rules that hold or fail, and the allow rules for the environment that are for the login, or hold for
// another login; also the one that the caller named.
func (a *asking) near(d ca.Decision) []*nearRule {
	var out []*nearRule
	for _, r := range byName(slices.Collect(maps.Values(a.policy.deny))) {
		n := a.nearRule(r)
		if n.deny = true; n.verdict != False {
			out = append(out, n)
		}
	}
	for _, r := range byName(slices.Collect(maps.Values(a.policy.allow))) {
		named := r.name == a.q.Request.Rule
		if e := r.when.facts.environment; e != "" && e != a.environment.Name && !named {
			continue
		}
		n := a.nearRule(r)
		n.offer, n.partial = a.offer(r)
		forLogin := slices.Contains(n.offer.grant.Logins, a.q.Request.Login) || n.partial != nil
		if !forLogin && n.verdict != True && !named {
			continue
		}
		group := r.when.facts.group
		switch {
		case r.name == d.Rule || named:
		case n.verdict == True && forLogin:
			n.rank = 1
		case n.verdict != False:
			n.rank = 2
		case group == "" || slices.Contains(a.q.Identity.Groups, group):
			n.rank = 3
		default:
			n.rank = 4
		}
		out = append(out, n)
	}
	return out
}

func (a *asking) nearRule(r *rule) *nearRule {
	n := &nearRule{rule: r, verdict: False}
	yes, err := a.evaluation.holds(r.when)
	switch {
	case err != nil:
		n.verdict, n.err = Failed, err
	case yes:
		n.verdict = True
	}
	return n
}

// explain takes a rule apart.
func (a *asking) explain(n *nearRule) ExplainedRule {
	out := ExplainedRule{
		Name: n.name, Kind: "allow", File: n.file, Line: n.line, Owner: n.owner, Message: n.message, Result: n.verdict,
	}
	if n.deny {
		out.Kind = "deny"
	}
	a.explainWhen(n, &out)
	if n.deny {
		return out
	}
	asked, cured := len(out.Conditions), len(out.remedies)
	a.explainGrant(n, &out)
	for i := range out.remedies[cured:] {
		out.remedies[cured+i].granting = true
	}
	if n.expired(a.q.Now) {
		out.Result = False // decisions do not ask it at all
	}
	for _, c := range out.Conditions[asked:] { // a grant that fails is told before one that does not suffice
		if n.verdict == True && (c.Result == Failed || c.Result == False && out.Result == True) {
			out.Result = c.Result
		}
	}
	return out
}

// explainWhen adds the conditions of when.
func (a *asking) explainWhen(n *nearRule, out *ExplainedRule) {
	parts, err := a.policy.lang.conjuncts(n.text)
	if err != nil {
		out.add(Condition{Part: "when", Text: clip(n.text), Result: n.verdict, Error: err.Error()}, remedy{})
		return
	}
	explained := false
	for _, part := range parts {
		c := Condition{Part: "when", Text: part.text}
		var err error
		if c.Result, c.Values, err = a.evaluation.watch(part); err != nil {
			c.Error = clip(err.Error())
		}
		c.told = a.told(part, c, n.deny)
		explained = explained || c.Result == n.verdict
		var cure remedy
		if (c.Result == True) == n.deny {
			cure = a.cure(part, c, n.deny)
		}
		out.add(c, cure)
	}
	if n.verdict == Failed && !explained { // each part is within the bounds that all together are not
		out.add(Condition{Part: "when", Text: "the whole condition", Result: Failed, Error: clip(n.err.Error()), told: a.toldWhole(n)},
			remedy{text: "the condition of " + n.name + " must be evaluated: " + n.err.Error(), told: "the condition of " + n.name + " to be evaluated"})
	}
}

// explainGrant adds what an allow rule asks for besides when.
func (a *asking) explainGrant(n *nearRule, out *ExplainedRule) {
	r := a.q.Request
	if !n.ends.IsZero() {
		out.add(Condition{
			Part: "expires", Text: "expires " + n.lastDay(), Result: verdict(!n.expired(a.q.Now)), Values: []Value{{"now", showTime(a.q.Now)}},
			told: "it ended on " + n.lastDay(),
		}, remedy{text: "a later date: the rule " + n.name + " ended on " + n.lastDay()})
	}
	logins := n.offer.grant.Logins
	c := Condition{Part: "logins", Text: clip("logins " + strings.Join(logins, ", ")), Result: verdict(slices.Contains(logins, r.Login)),
		Values: []Value{{"request.login", fmt.Sprintf("%q", r.Login)}}}
	cure := remedy{text: "the login " + r.Login + ", which the rule does not grant"}
	cure.told = cure.text
	if c.Result == False && n.partial != nil && n.offer.complete(n.rule) {
		c.Text, c.Result, c.Error = "logins", Failed, clip(n.partial.Error())
		cure.text += ": " + c.Error
		c.told = "its logins cannot be filled in for you: " + a.toldFailure(n.partial)
	} else if c.Result == False && len(logins) > 0 {
		cure = remedy{text: "another login: " + listed(slices.Clone(logins)), told: "another login", apply: func(q *ca.Question) { q.Request.Login = logins[0] }}
		if n.verdict == True {
			out.login, cure.told = cure, cure.text
			c.told = fmt.Sprintf("it lets you log in as %s, not as %s", listed(slices.Clone(logins)), clip(r.Login))
		}
	}
	out.add(c, cure)
	if !n.offer.complete(n.rule) {
		out.add(Condition{Part: "source_address", Text: "source_address", Result: Failed, Error: clip(n.partial.Error()),
			told: "its networks cannot be filled in for you"},
			remedy{text: clip(n.partial.Error()), told: "networks that can be filled in"})
	}
	most := shortDuration(n.offer.ceiling)
	out.add(Condition{
		Part: "ttl", Text: "ttl at most " + most + a.whose(n), Result: verdict(r.TTL <= n.offer.ceiling),
		Values: []Value{{"request.ttl", cmp.Or(strings.TrimPrefix(shortDuration(r.TTL), "0s"), "none asked for")}},
		told:   "it lets you in for at most " + most + ", not for " + shortDuration(r.TTL),
	}, aTTL("a lifetime of at most ", n.offer.ceiling))
	a.explainRequire(n, out)
}

// explainRequire adds what the caller can still do.
func (a *asking) explainRequire(n *nearRule, out *ExplainedRule) {
	lacks := func(kind ca.NeedKind) bool {
		return slices.ContainsFunc(n.offer.needs, func(need ca.Need) bool { return need.Kind == kind })
	}
	if n.require.reason {
		out.add(Condition{
			Part: "require", Text: "reason", Result: verdict(!lacks(ca.NeedReason)),
			Values: []Value{{"request.reason", clip(fmt.Sprintf("%q", a.q.Request.Reason))}}, told: "it asks for a reason",
		}, aReason())
	}
	if within := n.require.loginWithin; within > 0 {
		signedIn := "not set"
		if at := a.q.Token.AuthTime; !at.IsZero() {
			signedIn = showTime(at) + ", " + shortDuration(a.q.Now.Sub(at).Round(time.Second)) + " ago"
		}
		needed := needWords(ca.Need{Kind: ca.NeedFreshLogin, LoginWithin: within})
		out.add(Condition{
			Part: "require", Text: "login_within " + shortDuration(within), Result: verdict(!lacks(ca.NeedFreshLogin)),
			Values: []Value{{"token.auth_time", signedIn}}, told: "it asks for " + needed,
		}, a.aFreshLogin(needed))
	}
}

// whose says who set the ceiling, if not the rule.
func (a *asking) whose(n *nearRule) string {
	switch n.offer.ceiling {
	case n.grant.ttl:
		return ""
	case a.environment.MaxTTL:
		return " (max_ttl of " + a.environment.Name + ")"
	}
	return " (max_ttl of the policy)"
}

func verdict(yes bool) Verdict {
	if yes {
		return True
	}
	return False
}

// add appends a condition, and what would change it where that is wanted: an allow rule wants all true.
func (r *ExplainedRule) add(c Condition, cure remedy) {
	r.Conditions = append(r.Conditions, c)
	if cure.text != "" && (r.Kind == "deny" || c.Result != True) {
		r.remedies = append(r.remedies, cure)
	}
}

// place puts deny rules first, then the one that decided, then those that could grant the login.
func (r ExplainedRule) place(d ca.Decision) int {
	forOthers := slices.ContainsFunc(r.Conditions, func(c Condition) bool { return c.Part == "logins" && c.Result == False })
	place := 0
	if r.Kind == "allow" {
		place = 4
	}
	switch {
	case r.Name == d.Rule:
	case forOthers:
		place += 2
	default:
		place++
	}
	return place
}

// unmet counts the conditions of an allow rule that are not true.
func (r ExplainedRule) unmet() int {
	n := 0
	for _, c := range r.Conditions {
		if c.Result != True {
			n++
		}
	}
	return n
}
