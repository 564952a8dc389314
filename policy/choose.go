package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
)

// choose picks one of the rules that apply: the one that was named; else one that needs nothing more before one that does;
// then the least power; then by name.
func (a *asking) choose() ca.Decision {
	if name := a.q.Request.Rule; name != "" {
		if refusal := a.only(name); refusal != "" {
			return a.deny("", refusal)
		}
	}
	switch {
	case len(a.applying) > 0:
		best := slices.MinFunc(a.applying, compareOffers)
		if len(best.needs) > 0 {
			return a.needsMore(best)
		}
		return a.allow(best)
	case len(a.tooLong) > 0:
		longest := slices.MaxFunc(a.tooLong, func(x, y offer) int {
			return cmp.Or(cmp.Compare(x.ceiling, y.ceiling), strings.Compare(y.rule.name, x.rule.name))
		})
		return a.deny(longest.rule.name, fmt.Sprintf("you may %s for at most %s (rule %s), not %s: ask for less, or for no lifetime",
			a.what(), shortDuration(longest.ceiling), longest.rule.name, shortDuration(a.q.Request.TTL)))
	}
	return a.deny("", a.noRule())
}

// compareOffers orders by: fewest needs, fewest extensions, most critical options, shortest lifetime, name.
func compareOffers(x, y offer) int {
	return cmp.Or(
		cmp.Compare(len(x.needs), len(y.needs)),
		cmp.Compare(len(x.grant.Extensions), len(y.grant.Extensions)),
		-cmp.Compare(criticalCount(x.grant), criticalCount(y.grant)),
		cmp.Compare(x.ceiling, y.ceiling),
		strings.Compare(x.rule.name, y.rule.name),
	)
}

func criticalCount(g ca.Grant) int {
	n := 0
	for _, set := range []bool{g.ForceCommand != "", len(g.SourceAddresses) > 0, g.VerifyRequired} {
		if set {
			n++
		}
	}
	return n
}

// only forgets all rules but the one that the caller named. It returns why that one does not apply, or nothing.
func (a *asking) only(name string) string {
	others := func(o offer) bool { return o.rule.name != name }
	before := names(a.applying)
	a.applying, a.tooLong = slices.DeleteFunc(a.applying, others), slices.DeleteFunc(a.tooLong, others)
	if len(a.applying)+len(a.tooLong) > 0 {
		return ""
	}
	message := fmt.Sprintf("the rule %.80q does not let you %s", name, a.what())
	switch {
	case a.policy.deny[name] != nil:
		message = fmt.Sprintf("%s is a deny rule: it allows nothing", name)
	case a.policy.allow[name] == nil:
		message = fmt.Sprintf("there is no rule %.80q", name)
	case a.policy.allow[name].expired(a.q.Now):
		message += ": it has expired"
	}
	if len(before) > 0 {
		message += "; these do: " + listed(before)
	}
	return message
}

func (a *asking) allow(o offer) ca.Decision {
	d := &a.decision
	d.Outcome, d.Rule, d.Grant = ca.Allow, o.rule.name, o.grant
	d.TTL = o.ceiling
	if asked := a.q.Request.TTL; asked > 0 {
		d.TTL = min(asked, o.ceiling)
	}
	d.Message = fmt.Sprintf("the rule %s lets you %s for %s", o.rule.name, a.what(), shortDuration(d.TTL))
	return *d
}

func (a *asking) needsMore(o offer) ca.Decision {
	d := &a.decision
	d.Outcome, d.Rule, d.Needs = ca.NeedsMore, o.rule.name, o.needs
	var wants []string
	for _, n := range o.needs {
		switch n.Kind {
		case ca.NeedReason:
			wants = append(wants, "say a reason")
		case ca.NeedFreshLogin:
			wants = append(wants, "sign in again (the last sign-in may be at most "+shortDuration(n.LoginWithin)+" old)")
		}
	}
	d.Message = fmt.Sprintf("the rule %s lets you %s once you %s", o.rule.name, a.what(), strings.Join(wants, " and "))
	return *d
}

// noRule says that no allow rule applied, and what there is: a rule that has expired, the logins that the caller may use
// here, the names of the rules for what was asked. It says nothing about anybody else.
func (a *asking) noRule() string {
	message := "no rule lets you " + a.what()
	if r := a.lately(); r != nil {
		message += fmt.Sprintf("; the rule %s did until it expired on %s: ask who looks after it for a later date", r.name, r.lastDay())
	}
	var logins []string
	for _, o := range a.others {
		for _, login := range o.grant.Logins {
			logins = append(logins, login+" (rule "+o.rule.name+")")
		}
	}
	if len(logins) > 0 {
		message += "; you may log in there as " + listed(logins)
	}
	login := ""
	if len(logins) > 0 {
		login = a.q.Request.Login
	}
	rules, more := a.policy.signposts.here(a.environment.Name, login, a.q.Now)
	var here []string
	for _, r := range rules {
		here = append(here, r.name+a.lacks(r))
	}
	if len(logins) > 0 {
		if len(here) > 0 {
			message += "; rules for " + a.q.Request.Login + ": " + listedOf(here, more)
		}
		return message
	}
	if len(here) == 0 {
		message += "; there are no rules for " + a.environment.Name
	} else {
		message += "; rules for " + a.environment.Name + ": " + listedOf(here, more)
	}
	if len(a.decision.Failed) > 0 {
		failed := make([]string, len(a.decision.Failed))
		for i, f := range a.decision.Failed {
			failed[i] = f.Rule + " (" + f.Told + ")"
		}
		message += "; could not be evaluated: " + listed(failed)
	}
	return message
}

// lately returns the rule that expired last of those that would have applied; nil if none would.
func (a *asking) lately() *rule {
	slices.SortFunc(a.ended, func(x, y *rule) int { return cmp.Or(y.ends.Compare(x.ends), strings.Compare(x.name, y.name)) })
	for _, r := range a.ended {
		if yes, err := a.evaluation.holds(r.when); err != nil || !yes {
			continue
		}
		if o, _ := a.offer(r); slices.Contains(o.grant.Logins, a.q.Request.Login) && o.complete(r) {
			return r
		}
	}
	return nil
}

// lacks says what a rule plainly asks for and the caller does not bring, in words about the caller alone.
func (a *asking) lacks(r *rule) string {
	switch group := r.when.facts.group; {
	case group != "" && !slices.Contains(a.q.Identity.Groups, group):
		return " (for a group that you are not in)"
	case r.when.asksEmail && a.q.Identity.Email == "":
		return " (asks for an email, and your sign-in brings none that counts)"
	}
	return ""
}

func names(offers []offer) []string {
	out := make([]string, len(offers))
	for i, o := range offers {
		out[i] = o.rule.name
	}
	return out
}

// maxListed is how many names a message has.
const maxListed = 8

// listed joins a few names in order and counts the others.
func listed(all []string) string {
	slices.Sort(all)
	all = slices.Compact(all)
	shown := min(len(all), maxListed)
	return listedOf(all[:shown], len(all)-shown)
}

// listedOf joins names and counts those that are not among them.
func listedOf(names []string, more int) string {
	if more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), more)
	}
	return strings.Join(names, ", ")
}
