package policy

import (
	"cmp"
	"slices"

	"github.com/hallpass-ssh/hallpass/ca"
)

// unused looks for what is declared and nothing asks for.
func (l *linter) unused(read *compiler) {
	asked := l.policy.asked()
	for name, d := range read.draft.claims {
		if !asked["claims."+name] {
			l.warn(d.at, warnUnusedClaim, "nothing asks for claims.%s, which is in the log of every decision all the same: remove it", name)
		}
	}
	for name, d := range read.draft.lists {
		if !asked["lists."+name] {
			l.warn(d.at, warnUnusedList, "nothing asks for lists.%s: remove it", name)
		}
	}
	for name, d := range read.draft.calendars {
		if !asked["calendars."+name] {
			l.warn(d.at, warnUnusedCalendar, "nothing asks for calendars.%s: remove it", name)
		}
	}
	for name, d := range read.draft.vars {
		if !asked[sharedPrefix+name] {
			l.warn(d.at, warnUnusedVar, "nothing asks for vars.%s: remove it", name)
		}
	}
}

// asked are the variables that rules, grants and roles ask for, also through vars.
func (p *Policy) asked() map[string]bool {
	asked := map[string]bool{}
	add := func(x *expression) {
		for _, name := range x.asks {
			asked[name] = true
		}
	}
	for _, rules := range []map[string]*rule{p.deny, p.allow} {
		for _, r := range rules {
			add(r.when)
			for _, t := range slices.Concat(r.grant.logins, r.grant.sourceAddresses) {
				for _, x := range t.expressions() {
					add(x)
				}
			}
		}
	}
	for _, r := range p.review {
		add(r.when)
	}
	for _, x := range p.roles {
		add(x)
	}
	return asked
}

// expressions are those of a template.
func (t *template) expressions() []*expression {
	var out []*expression
	for _, p := range t.parts {
		if p.expression != nil {
			out = append(out, p.expression)
		}
	}
	return out
}

// addresses look for networks that do not restrict, or restrict to the wrong place.
func (l *linter) addresses(d *ruleDraft) {
	for i, t := range l.policy.allow[d.name].grant.sourceAddresses {
		it := d.sourceAddresses[i]
		if slices.ContainsFunc(t.expressions(), func(x *expression) bool { return slices.Contains(x.asks, "request.source_ip") }) {
			l.warn(it, warnCallerAddress, "request.source_ip is the address that the CA saw; a jump host or NAT shows another to the server, which then refuses")
		}
		if s, literal := t.literal(); literal {
			if prefix, err := parseSource(s); err == nil && prefix.Bits() == 0 {
				l.warn(it, warnEveryAddress, "source_address %s lets the certificate work from everywhere: leave it out, or name a network", s)
			}
		}
	}
}

// shared looks for principals that people of different groups come to by different rules: the server cannot tell them apart.
func (l *linter) shared(rules []*watched) {
	type opening struct{ login, environment string }
	first := map[opening]*ruleDraft{}
	for _, w := range slices.SortedStableFunc(slices.Values(rules), func(a, b *watched) int { return cmp.Compare(a.draft.name, b.draft.name) }) {
		d := w.draft
		group := l.group(w)
		if group == "" {
			continue
		}
		told := map[string]bool{}
		for i, t := range l.policy.allow[d.name].grant.logins {
			login, literal := t.literal()
			if !literal {
				continue
			}
			for _, e := range l.environments(d) {
				at := opening{login, e.Name}
				other := first[at]
				if other == nil {
					first[at] = d
					continue
				}
				if l.policy.allow[other.name].when.facts.group != group && !told[login] {
					told[login] = true
					l.warn(d.logins[i], warnSharedPrincipal, "scope any: the principal %s opens %s to the group %s by this rule and to %s by %s, and a server cannot tell them apart: give each a login of its own",
						login, e.Name, group, l.policy.allow[other.name].when.facts.group, other.name)
				}
			}
		}
	}
}

// group is the one that an allow rule with scope any requires; empty for any other rule, and for one that has ended.
func (l *linter) group(w *watched) string {
	if !w.allows || w.draft.grant.scope != ca.ScopeAny || w.draft.expired(l.now) {
		return ""
	}
	return l.policy.allow[w.draft.name].when.facts.group
}
