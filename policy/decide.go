package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Decide asks the rules. The order in which they are written means nothing.
//
//  1. The host is in exactly one environment; the login may be granted at all.
//  2. Every deny rule is asked: one that is true or fails, refuses.
//  3. The allow rules that apply are collected: when is true, the login is among theirs, the lifetime within the ceilings.
//  4. One of them is chosen (choose), or what the nearest needs is told.
func (p *Policy) Decide(ctx context.Context, q ca.Question) ca.Decision {
	return p.decide(ctx, q, p.denyIndex, p.allowIndex)
}

func (p *Policy) decide(ctx context.Context, q ca.Question, deny, allow index) ca.Decision {
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	a := &asking{policy: p, q: q, host: canonicalHost(q.Request.Host), decision: ca.Decision{Outcome: ca.Deny, Limits: p.limits}}
	if refusal := a.begin(ctx); refusal != "" {
		return a.deny("", refusal)
	}
	if rule, refusal := a.askDeny(deny.candidates(a.environment.Name, q.Identity.Groups)); refusal != "" {
		return a.deny(rule, refusal)
	}
	a.askAllow(allow.candidates(a.environment.Name, q.Identity.Groups))
	return a.choose()
}

// asking is the state of one decision.
type asking struct {
	policy      *Policy
	q           ca.Question
	host        string
	environment Environment
	evaluation  *evaluation
	decision    ca.Decision

	applying []offer // rules that apply
	tooLong  []offer // rules that would, for a shorter lifetime
	others   []offer // rules that are true, but for other logins
	ended    []*rule // rules that have expired
}

// offer is what a rule would grant.
type offer struct {
	rule    *rule
	grant   ca.Grant
	ceiling time.Duration // of rule, environment and limits
	needs   []ca.Need
}

// what says what was asked for.
func (a *asking) what() string {
	return "log in as " + a.q.Request.Login + " on " + a.host
}

func (a *asking) deny(rule, message string) ca.Decision {
	a.decision.Outcome, a.decision.Rule, a.decision.Message = ca.Deny, rule, message
	return a.decision
}

// begin settles what needs no rule. It returns why the answer is no, or nothing.
func (a *asking) begin(ctx context.Context) string {
	p, r := a.policy, a.q.Request
	switch found := p.environmentsOf(a.host); len(found) {
	case 0:
		return p.unknownHost(a.host)
	case 1:
		a.environment = found[0]
		a.decision.Environment = a.environment.core()
	default:
		names := make([]string, len(found))
		for i, e := range found {
			names[i] = e.Name
		}
		return fmt.Sprintf("the host %s is in more than one environment (%s): ask who looks after the policy", a.host, strings.Join(names, ", "))
	}
	switch {
	// The principal of scope host, deploy@prod, would be that of scope environment on all hosts of prod.
	case slices.ContainsFunc(p.environments, func(e Environment) bool { return e.Name == a.host }):
		return fmt.Sprintf("the host %s has the name of an environment: use its full name", a.host)
	case !isLogin(r.Login):
		return fmt.Sprintf("%.60q is not a login: %s", r.Login, loginRule)
	case slices.Contains(p.limits.NeverLogins, r.Login):
		return fmt.Sprintf("nobody may log in as %s: the policy lists it under never_logins", r.Login)
	case r.TTL < 0:
		return "the lifetime asked for is negative"
	}
	vars, err := p.ruleVars(a.q, a.host, a.environment.Name)
	if err != nil {
		return err.Error()
	}
	a.evaluation = p.evaluation(ctx, a.q, vars)
	return ""
}

func (a *asking) failed(r *rule, err error) {
	a.decision.Failed = append(a.decision.Failed, ca.FailedRule{Rule: r.name, Message: err.Error(), Told: a.toldFailure(err)})
}

// askDeny asks every deny rule. It returns the one that refuses and why: one that is true before one that fails, then by name.
func (a *asking) askDeny(rules []*rule) (name, refusal string) {
	var denying, broken *rule
	for _, r := range byName(rules) {
		yes, err := a.evaluation.holds(r.when)
		switch {
		case err != nil:
			a.failed(r, err)
			if broken == nil {
				broken = r
			}
		case yes && denying == nil:
			denying = r
		}
	}
	switch {
	case denying != nil:
		message := fmt.Sprintf("the rule %s forbids you to %s", denying.name, a.what())
		if denying.message != "" {
			message += ": " + denying.message
		}
		return denying.name, message
	case broken != nil:
		return broken.name, fmt.Sprintf("the deny rule %s could not be evaluated, and so refuses to let you %s: %s",
			broken.name, a.what(), a.decision.Failed[0].Told)
	}
	return "", ""
}

// askAllow sorts the allow rules by how far they apply.
func (a *asking) askAllow(rules []*rule) {
	for _, r := range byName(rules) {
		if r.expired(a.q.Now) {
			a.ended = append(a.ended, r)
			continue
		}
		yes, err := a.evaluation.holds(r.when)
		if err != nil {
			a.failed(r, err)
			continue
		}
		if !yes {
			continue
		}
		o, err := a.offer(r)
		asked := a.q.Request.TTL
		switch {
		case slices.Contains(o.grant.Logins, a.q.Request.Login) && o.complete(r):
			if asked > o.ceiling {
				a.tooLong = append(a.tooLong, o)
			} else {
				a.applying = append(a.applying, o)
			}
		case err != nil:
			a.failed(r, err)
		default:
			a.others = append(a.others, o)
		}
	}
}

// expired says whether an allow rule has ended.
func (r *rule) expired(now time.Time) bool { return !r.ends.IsZero() && !now.Before(r.ends) }

// lastDay is the last day on which an allow rule applies.
func (r *rule) lastDay() string { return r.ends.AddDate(0, 0, -1).Format(time.DateOnly) }

// offer fills in the grant of a rule whose condition is true. Logins that cannot be filled in are left out of it; the error
// says why. A network that cannot be filled in leaves the grant without any, which complete notices.
func (a *asking) offer(r *rule) (offer, error) {
	o := offer{rule: r, ceiling: a.ceiling(r), needs: a.needs(r)}
	o.grant = ca.Grant{
		Scope:          r.grant.scope,
		TTL:            r.grant.ttl,
		ForceCommand:   r.grant.forceCommand,
		VerifyRequired: r.grant.verifyRequired,
		Extensions:     slices.Clone(r.grant.extensions),
	}
	var errs []error
	for _, t := range r.grant.logins {
		s, err := t.eval(a.evaluation)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !isLogin(s):
			errs = append(errs, fmt.Errorf("logins gave %.60q: %s", s, loginRule))
		case !slices.Contains(a.policy.limits.NeverLogins, s) && !slices.Contains(o.grant.Logins, s):
			o.grant.Logins = append(o.grant.Logins, s)
		}
	}
	for _, t := range r.grant.sourceAddresses {
		s, err := t.eval(a.evaluation)
		if err == nil {
			prefix, parseErr := parseSource(s)
			if err = parseErr; err == nil {
				o.grant.SourceAddresses = append(o.grant.SourceAddresses, prefix)
				continue
			}
		}
		o.grant.SourceAddresses = nil
		return o, errors.Join(append(errs, err)...)
	}
	return o, errors.Join(errs...)
}

// complete says whether every restriction of the rule is in the grant.
func (o offer) complete(r *rule) bool {
	return len(o.grant.SourceAddresses) == len(r.grant.sourceAddresses)
}

// ceiling is the longest lifetime that the rule may give here.
func (a *asking) ceiling(r *rule) time.Duration {
	ceiling := min(r.grant.ttl, a.policy.limits.MaxTTL)
	if a.environment.MaxTTL > 0 {
		ceiling = min(ceiling, a.environment.MaxTTL)
	}
	return ceiling
}

// maxSkew is how far ahead of ours the clock of an issuer may be.
const maxSkew = 5 * time.Minute

// needs returns what the caller still has to do for the rule.
func (a *asking) needs(r *rule) []ca.Need {
	var needs []ca.Need
	if r.require.reason && strings.TrimSpace(a.q.Request.Reason) == "" {
		needs = append(needs, ca.Need{Kind: ca.NeedReason})
	}
	if within := r.require.loginWithin; within > 0 {
		age := a.q.Now.Sub(a.q.Token.AuthTime)
		if a.q.Token.AuthTime.IsZero() || age > within || age < -maxSkew {
			needs = append(needs, ca.Need{Kind: ca.NeedFreshLogin, LoginWithin: within})
		}
	}
	return needs
}

// byName sorts rules, each once.
func byName(rules []*rule) []*rule {
	return slices.Compact(slices.SortedFunc(slices.Values(rules), func(a, b *rule) int { return strings.Compare(a.name, b.name) }))
}
