package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
)

// questionFields read what cases and defaults have in common.
func (r *suiteReader) questionFields(d *described) []field {
	return []field{
		{key: "identity", read: func(it item) { r.caller(it, &d.identity) }},
		{key: "token", read: func(it item) { r.token(it, d) }},
		{key: "request", read: func(it item) { r.request(it, &d.request) }},
		{key: "lists", read: func(it item) { r.describedLists(it, r.policy, d.lists) }},
		{key: "history", read: func(it item) { r.history(it, &d.history) }},
		{key: "now", read: func(it item) { d.now = r.instant(it, "now") }},
	}
}

// caller reads the name of an identity, or a description.
func (r *suiteReader) caller(it item, id *ca.Identity) {
	if !isScalar(it) {
		r.describe(it, id)
		return
	}
	name, ok := r.text(it, "identity")
	if !ok {
		return
	}
	known, ok := r.identities[name]
	if !ok {
		r.errorf(it, "no such identity %q under identities%s", name, didYouMean(name, slices.Collect(maps.Keys(r.identities))))
		return
	}
	*id = cloneIdentity(known)
}

// describe reads what is different from id.
func (r *suiteReader) describe(it item, id *ca.Identity) {
	text := func(key string, to *string) field {
		return field{key: key, read: func(it item) { *to, _ = r.text(it, key) }}
	}
	r.mapping(it, "an identity", []field{
		text("issuer", &id.Issuer), text("subject", &id.Subject), text("email", &id.Email),
		{key: "kind", read: func(it item) {
			switch s, ok := r.text(it, "kind"); {
			case s == ca.Person.String():
				id.Kind = ca.Person
			case s == ca.Workload.String():
				id.Kind = ca.Workload
			case ok:
				r.errorf(it, "kind is person or workload, not %q", s)
			}
		}},
		{key: "groups", read: func(it item) { id.Groups = r.texts(it, "groups") }},
		{key: "claims", read: func(it item) { r.claims(it, id.Claims) }},
	})
}

func (r *suiteReader) claims(it item, claims map[string]any) {
	var declared []string
	for _, d := range r.policy.claims {
		declared = append(declared, d.name)
	}
	r.pairs(it, "claims", func(name string, key, value item) {
		i := slices.Index(declared, name)
		if i < 0 {
			r.errorf(key, "the policy declares no claim %s%s", name, didYouMean(name, declared))
			return
		}
		raw, ok := r.claimValue(value), false
		if claims[name], ok = r.policy.claims[i].decode(raw); !ok {
			r.errorf(value, "the claim %s is %s, and the policy declares it as %s", name, jsonKind(raw), r.policy.claims[i].typ)
		}
	})
}

func (r *suiteReader) token(it item, d *described) {
	r.mapping(it, "token", []field{
		{key: "bound", read: func(it item) { d.bound = new(r.boolean(it, "token.bound")) }},
		{key: "auth_time", read: func(it item) {
			age := time.Duration(-1)
			if it.node.Value != "none" || !isScalar(it) {
				age = r.age(it, "token.auth_time")
			}
			d.authAge = &age
		}},
		{key: "issued_at", read: func(it item) { d.issueAge = r.age(it, "token.issued_at") }},
	})
}

func (r *suiteReader) request(it item, q *ca.Request) {
	text := func(key string, to *string) field {
		return field{key: key, read: func(it item) { *to, _ = r.scalar(it, key, "text", "!!str") }}
	}
	r.mapping(it, "request", []field{
		text("login", &q.Login), text("host", &q.Host), text("reason", &q.Reason),
		{key: "rule", read: func(it item) { q.Rule = r.ruleNamed(it, "rule") }},
		{key: "ttl", read: func(it item) { q.TTL = r.duration(it, "ttl") }},
		{key: "break_glass", read: func(it item) { q.BreakGlass = r.boolean(it, "break_glass") }},
		{key: "key_type", read: func(it item) { q.PublicKey = r.keyType(it) }},
		{key: "source_ip", read: func(it item) {
			if s, ok := r.text(it, "source_ip"); ok {
				var err error
				if q.SourceIP, err = netip.ParseAddr(s); err != nil {
					r.errorf(it, "source_ip must be an address such as 192.0.2.7, not %q", s)
				}
			}
		}},
	})
}

// keyType reads a type of key that the limits allow: the core refuses any other, whatever the rules say.
func (r *suiteReader) keyType(it item) ssh.PublicKey {
	s, ok := r.text(it, "key_type")
	if !ok {
		return nil
	}
	key, err := KeyOfType(s)
	switch {
	case err != nil:
		r.errorf(it, "%v", err)
	case !slices.ContainsFunc(r.policy.limits.Keys, func(k ca.KeyRule) bool { return k.Type == s }):
		r.errorf(it, "limits.keys does not allow a key of type %s: the core refuses it before any rule", s)
	}
	return key
}

// ruleNamed reads the name of a rule that the policy has.
func (r *suiteReader) ruleNamed(it item, what string) string {
	s, ok := r.text(it, what)
	p := r.policy
	if ok && p.allow[s] == nil && p.deny[s] == nil {
		known := slices.Concat(slices.Collect(maps.Keys(p.allow)), slices.Collect(maps.Keys(p.deny)))
		r.errorf(it, "the policy has no rule %s%s", s, didYouMean(s, known))
	}
	return s
}

// instant reads a time of RFC 3339.
func (r *suiteReader) instant(it item, what string) time.Time {
	s, ok := r.scalar(it, what, "a time such as 2026-11-23T12:00:00Z", "!!timestamp", "!!str")
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		r.errorf(it, "%s must be a time such as 2026-11-23T12:00:00Z, not %q", what, s)
		return time.Unix(0, 0) // a mistake already: not one more for a missing time
	}
	return t
}

// age reads how long ago something was.
func (r *reader) age(it item, what string) time.Duration {
	s, ok := r.scalar(it, what, "an age such as 10m", "!!str")
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		r.errorf(it, "%s must be an age such as 10m, not %q", what, s)
		return 0
	}
	return d
}

func (r *suiteReader) texts(it item, what string) []string {
	all := []string{}
	r.list(it, what, func(it item) {
		if s, ok := r.text(it, "an entry of "+what); ok {
			all = append(all, s)
		}
	})
	return all
}

var outcomes = map[string]ca.Outcome{"allow": ca.Allow, "deny": ca.Deny, "needs": ca.NeedsMore}

func outcomeName(o ca.Outcome) string {
	for name, outcome := range outcomes {
		if outcome == o {
			return name
		}
	}
	return "nothing"
}

// Names of what may be needed: the keys under require.
var needKinds = map[string]ca.NeedKind{"reason": ca.NeedReason, "login_within": ca.NeedFreshLogin}

func needNames(needs []ca.Need) []string {
	var names []string
	for name, kind := range needKinds {
		if slices.ContainsFunc(needs, func(n ca.Need) bool { return n.Kind == kind }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// expect reads what the decision must be.
func (r *suiteReader) expect(it item, c *TestCase) {
	var want ca.Outcome
	only := map[string]item{} // what a decision with one outcome alone has
	isMapping := r.mapping(it, "expect", append(r.expectFields(c, only),
		field{key: "outcome", read: func(it item) {
			s, ok := r.text(it, "outcome")
			if want = outcomes[s]; want == 0 {
				want = -1 // a mistake: not one more for a missing outcome
				if ok {
					r.errorf(it, "outcome is allow, deny or needs, not %q", s)
				}
			}
			c.outcome = check{it, func(_ ca.Question, d ca.Decision) string {
				return differs("outcome", outcomeName(d.Outcome), s, d.Message)
			}}
		}}))
	if isMapping && want == 0 {
		r.errorf(it, "expect has no outcome: write allow, deny or needs")
	}
	for key, at := range only {
		if needs := key == "needs"; want > 0 && (needs && want != ca.NeedsMore || !needs && want != ca.Allow) {
			r.errorf(at, "an outcome of %s has no %s", outcomeName(want), key)
		}
	}
}

// expectFields read what may be expected beside the outcome.
func (r *suiteReader) expectFields(c *TestCase, only map[string]item) []field {
	expect := func(at item, holds func(ca.Question, ca.Decision) string) {
		c.checks = append(c.checks, check{at, holds})
	}
	return []field{
		{key: "rule", read: func(it item) {
			s := r.ruleNamed(it, "rule")
			expect(it, func(_ ca.Question, d ca.Decision) string { return differs("rule", d.Rule, s, d.Message) })
		}},
		{key: "ttl", read: func(it item) {
			only["ttl"] = it
			s := shortDuration(r.duration(it, "ttl"))
			expect(it, func(_ ca.Question, d ca.Decision) string { return differs("ttl", shortDuration(d.TTL), s, "") })
		}},
		{key: "principals", read: func(it item) {
			only["principals"] = it
			s := strings.Join(r.texts(it, "principals"), ", ")
			expect(it, func(q ca.Question, d ca.Decision) string { return differs("principals", principal(q, d), s, "") })
		}},
		{key: "message", read: func(it item) {
			s, _ := r.text(it, "message")
			expect(it, func(_ ca.Question, d ca.Decision) string {
				if strings.Contains(d.Message, s) {
					return ""
				}
				return fmt.Sprintf("the message has no %q: %s", s, d.Message)
			})
		}},
		{key: "needs", read: func(it item) {
			only["needs"] = it
			all := r.texts(it, "needs")
			for _, name := range all {
				if needKinds[name] == 0 {
					r.errorf(it, "needs are reason and login_within, not %q", name)
				}
			}
			slices.Sort(all)
			s := strings.Join(all, ", ")
			expect(it, func(_ ca.Question, d ca.Decision) string {
				return differs("needs", strings.Join(needNames(d.Needs), ", "), s, "")
			})
		}},
		{key: "review", read: func(it item) {
			s := r.reviewers(it)
			expect(it, func(q ca.Question, d ca.Decision) string { return r.policy.expectReview(q, d, c.history, s) })
		}},
	}
}

// principal is what the core puts into the certificate, for the scope that was granted.
func principal(q ca.Question, d ca.Decision) string {
	switch d.Grant.Scope {
	case ca.ScopeAny:
		return q.Request.Login
	case ca.ScopeEnvironment:
		return q.Request.Login + "@" + d.Environment.Name
	case ca.ScopeHost:
		return q.Request.Login + "@" + canonicalHost(q.Request.Host)
	}
	return ""
}

// differs says that got is not want, and why if that is known.
func differs(what, got, want, why string) string {
	if got == want {
		return ""
	}
	if got == "" {
		got = "none"
	}
	message := fmt.Sprintf("%s: got %s, want %s", what, got, want)
	if why != "" {
		message += ": " + why
	}
	return message
}
