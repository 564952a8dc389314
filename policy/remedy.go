package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// remedy is what would make a condition what it should be.
type remedy struct {
	// text says it; empty for no remedy.
	text string
	// told says it in words about the caller alone, if text does not; only what the caller can do itself needs no other words.
	told string
	// apply does it to a question; nil if the caller needs somebody else for it.
	apply func(*ca.Question)
	// first is the command to type before the request; empty for none.
	first string
	// granting: it is about what the rule asks for or grants besides its condition.
	granting bool
}

const freshLogin = "hallpass login --fresh"

// cure looks for what would make a condition what it should be: true, or not true in a deny rule. It tries what callers can
// change about their request, and believes only what the condition then says.
func (a *asking) cure(c conjunct, shown Condition, deny bool) remedy {
	for _, change := range a.changes() {
		if !a.policy.lang.mentions(c.expr, change.variable) {
			continue
		}
		q := a.q
		change.apply(&q)
		vars, err := a.policy.ruleVars(q, a.host, a.environment.Name)
		if err != nil {
			continue
		}
		then := a.policy.evaluation(a.evaluation.ctx, q, vars)
		if verdict, err := then.ask(c); err == nil && (verdict == True) != deny {
			return change.remedy
		}
	}
	group := c.facts.group
	switch {
	case deny:
		return remedy{}
	case group != "" && shown.Result == False:
		return remedy{text: "the group " + group, told: "a group that you are not in"}
	case a.policy.lang.mentions(c.expr, "identity.email") && a.q.Identity.Email == "":
		const vouched = "an email that the issuer vouches for: the sign-in brings none"
		return remedy{text: vouched, told: vouched}
	case shown.Result == Failed:
		return remedy{text: shown.Text + " to be evaluated: " + shown.Error, told: "a condition that can be evaluated for you"}
	}
	return remedy{text: "this to be true: " + shown.Text, told: "a condition that holds for you"}
}

// change is one thing that callers can do differently, and the variable that shows it.
type change struct {
	variable string
	remedy
}

func (a *asking) changes() []change {
	glass := change{"request.break_glass", remedy{text: "an emergency, declared", apply: func(q *ca.Question) { q.Request.BreakGlass = true }}}
	if a.q.Request.BreakGlass {
		glass.remedy = remedy{text: "no emergency declared", apply: func(q *ca.Question) { q.Request.BreakGlass = false }}
	}
	all := []change{glass, {"request.reason", aReason()}}
	if a.q.Identity.Kind != ca.Workload { // which signs in nowhere
		all = append(all, change{"token.auth_time", a.aFreshLogin("a fresh sign-in")},
			change{"token.bound", a.aFreshLogin("a sign-in that is bound to the key")})
	}
	for _, ttl := range []time.Duration{12 * time.Hour, 8 * time.Hour, 4 * time.Hour, 2 * time.Hour, time.Hour, 30 * time.Minute, 10 * time.Minute} {
		all = append(all, change{"request.ttl", aTTL("a lifetime of ", ttl)})
	}
	for _, name := range keyTypes {
		all = append(all, change{"request.key_type", remedy{
			text: "a key of the type " + name, first: "hallpass login --key FILE",
			apply: func(q *ca.Question) { q.Request.PublicKey, _ = KeyOfType(name) },
		}})
	}
	return all
}

func aReason() remedy {
	return remedy{text: "a reason", apply: func(q *ca.Question) { q.Request.Reason = "INC-42: the disk is full" }}
}

// aFreshLogin is no remedy that a workload can apply: it signs in nowhere.
func (a *asking) aFreshLogin(text string) remedy {
	if a.q.Identity.Kind == ca.Workload {
		return remedy{text: text, told: text}
	}
	return remedy{text: text, first: freshLogin, apply: func(q *ca.Question) { q.Token.AuthTime, q.Token.Bound = q.Now, true }}
}

func aTTL(text string, ttl time.Duration) remedy {
	return remedy{text: text + shortDuration(ttl), apply: func(q *ca.Question) { q.Request.TTL = ttl }}
}

// advise fills in what is missing, and what to type. A command is told only if the policy would say yes to it.
func (x *Explanation) advise(ctx context.Context, a *asking) {
	if x.Decision.Outcome == ca.Allow {
		x.Next = command(a.q.Request, nil)
		return
	}
	remedies := x.remedies(a.q.Request)
	for _, r := range remedies {
		x.Missing = append(x.Missing, clip(r.text))
	}
	next, ok := a.attempt(ctx, remedies)
	if ok {
		x.Next = next
		return
	}
	x.Next = "ask who looks after the policy"
	if len(x.Rules) > 0 {
		x.Next = x.Rules[0].whom()
	}
	for _, r := range x.Rules {
		if r.login.apply == nil {
			continue
		}
		if next, ok := a.attempt(ctx, []remedy{r.login}); ok {
			x.Next += "; or with another login: " + next
			return
		}
	}
}

// remedies are those against the deny rules, and of the first allow rule.
func (x *Explanation) remedies(r ca.Request) []remedy {
	var out []remedy
	for _, rule := range x.Rules {
		if rule.Kind != "deny" {
			continue
		}
		cure := remedy{text: "the deny rule " + rule.Name + " not to refuse", told: "the rule " + rule.Name + " not to refuse"}
		if rule.Message != "" {
			cure.text += ": " + rule.Message
		}
		if len(rule.remedies) > 0 { // one condition that is false is enough
			cure = rule.remedies[0]
		}
		out = append(out, cure)
	}
	allow := func(rule ExplainedRule) bool { return rule.Kind == "allow" }
	gives := func(rule ExplainedRule) bool { return allow(rule) && rule.Result == True }
	first, given := slices.IndexFunc(x.Rules, allow), slices.IndexFunc(x.Rules, gives)
	switch {
	case given >= 0 && (r.Rule == "" || r.Rule == x.Rules[given].Name):
	case given >= 0:
		out = append(out, remedy{text: fmt.Sprintf("another rule than %s: %s", clip(r.Rule), x.Rules[given].Name),
			apply: func(q *ca.Question) { q.Request.Rule = x.Rules[given].Name }})
	case first >= 0:
		out = append(out, x.Rules[first].remedies...)
	default:
		none := fmt.Sprintf("a rule for %s on %s", clip(x.Login), x.Environment)
		out = append(out, remedy{text: none, told: none})
	}
	return out
}

// attempt asks the policy again with all remedies. It returns the command for them, if the answer is yes.
func (a *asking) attempt(ctx context.Context, remedies []remedy) (string, bool) {
	q := a.q
	var before []string
	for _, r := range remedies {
		if r.apply == nil {
			return "", false
		}
		r.apply(&q)
		if r.first != "" && !slices.Contains(before, r.first) {
			before = append(before, r.first)
		}
	}
	if len(remedies) == 0 || a.policy.Decide(ctx, q).Outcome != ca.Allow {
		return "", false
	}
	return command(q.Request, before), true
}

// whom says who can change the rule.
func (r ExplainedRule) whom() string {
	where := fmt.Sprintf("%s (%s:%d)", r.Name, r.File, r.Line)
	if r.Owner == "" {
		return "ask who looks after the rule " + where
	}
	return "ask " + clip(r.Owner) + ", who answers for the rule " + where
}

// command is what to type for a request, after other commands.
func command(r ca.Request, before []string) string {
	words := []string{"hallpass", "cert"}
	for _, flag := range []struct {
		set   bool
		words string
	}{
		{r.TTL > 0, "--ttl " + shortDuration(r.TTL)},
		{r.Reason != "", "--reason '...'"},
		{r.BreakGlass, "--break-glass"},
		{r.Rule != "", "--rule " + r.Rule},
	} {
		if flag.set {
			words = append(words, flag.words)
		}
	}
	words = append(words, r.Login+"@"+canonicalHost(r.Host))
	return strings.Join(append(before, strings.Join(words, " ")), " && ")
}

// nextWithoutRules says what to type where the answer is no before any rule is asked.
func (p *Policy) nextWithoutRules(r ca.Request, host string) string {
	found := p.environmentsOf(host)
	nearest, ok := p.nearest(cmp.Or(host, "?"))
	login := r.Login
	if !isLogin(login) {
		login = "LOGIN"
	}
	switch {
	case len(found) == 0 && ok && isHost(host) && !strings.Contains(host, ".") && strings.HasPrefix(nearest.pattern, "*."):
		return fmt.Sprintf("hallpass cert %s@%s, if that is its full name", login, host+nearest.pattern[1:])
	case len(found) == 0 && ok && isHost(host):
		return fmt.Sprintf("hallpass cert %s@HOST, with a HOST that is %s; or ask who looks after the policy to add this one", login, nearest.pattern)
	case len(found) == 1 && (!isLogin(r.Login) || slices.Contains(p.limits.NeverLogins, r.Login)):
		return "hallpass cert LOGIN@" + host + ", with another LOGIN"
	}
	return "ask who looks after the policy"
}
