package policy_test

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// The model decides as docs/policy.md says. It knows neither CEL nor YAML and shares no code with the evaluator.

// verdict is what a condition comes to.
type verdict int

const (
	no verdict = iota
	yes
	failed
)

func is(b bool) verdict {
	if b {
		return yes
	}
	return no
}

func orFailed(there, b bool) verdict {
	if !there {
		return failed
	}
	return is(b)
}

// ask evaluates a condition.
func (n node) ask(q ca.Question) verdict {
	groups := q.Identity.Groups
	level, hasLevel := q.Identity.Claims["level"].(int64)
	name, hasName := q.Identity.Claims["name"].(string)
	switch n.op {
	case "and", "or":
		settles, out := is(n.op == "or"), is(n.op == "and")
		for _, p := range n.parts {
			switch v := p.ask(q); v {
			case settles:
				return settles // even beside one that fails
			case failed:
				out = failed
			}
		}
		return out
	case "not":
		return map[verdict]verdict{yes: no, no: yes, failed: failed}[n.parts[0].ask(q)]
	case "environment":
		return is(environmentOf(q.Request.Host) == n.arg)
	case "group", "member":
		return is(slices.Contains(groups, n.arg))
	case "groups": // any of two
		return is(slices.Contains(groups, n.arg) || slices.Contains(groups, "x"))
	case "contractor":
		return is(q.Identity.Claims["contractor"] == true)
	case "level":
		return is(level > 2)
	case "strict level":
		return orFailed(hasLevel, level > 2)
	case "name":
		return orFailed(hasName, name == n.arg)
	case "one group":
		return orFailed(len(groups) > 0, len(groups) == 1)
	case "bound":
		return is(q.Token.Bound)
	case "emergency":
		return is(q.Request.BreakGlass)
	case "login":
		return is(q.Request.Login == n.arg)
	case "host":
		return is(strings.HasPrefix(q.Request.Host, n.arg))
	case "email":
		return is(q.Identity.Email != "")
	}
	return orFailed(n.op != "fails", n.op == "true")
}

func environmentOf(host string) string {
	_, suffix, _ := strings.Cut(host, ".")
	return map[string]string{"staging": "staging", "prod": "prod"}[suffix]
}

// decide returns the outcome, the rule and the lifetime.
func (m model) decide(q ca.Question) (ca.Outcome, string, time.Duration) {
	environment, asked := environmentOf(q.Request.Host), q.Request.TTL
	if environment == "" || q.Request.Login == "root" || asked < 0 {
		return ca.Deny, "", 0
	}
	for _, refuses := range []verdict{yes, failed} {
		for _, r := range m.deny { // by name, as they are made
			if r.when.ask(q) == refuses {
				return ca.Deny, r.name, 0
			}
		}
	}
	ceiling := func(r modelRule) time.Duration {
		if environment == "prod" {
			return min(r.ttl, 2*time.Hour)
		}
		return min(r.ttl, 3*time.Hour)
	}
	needs := func(r modelRule) (n int) {
		if r.reason && q.Request.Reason == "" {
			n++
		}
		if r.fresh && (q.Token.AuthTime.IsZero() || q.Now.Sub(q.Token.AuthTime) > 15*time.Minute) {
			n++
		}
		return n
	}
	name, hasName := q.Identity.Claims["name"].(string)
	var applying, tooLong []modelRule
	for _, r := range m.allow {
		granted := slices.Contains(r.logins, q.Request.Login) || slices.Contains(r.logins, "$") && hasName && name == q.Request.Login
		switch {
		case r.ended || r.when.ask(q) != yes || !granted || r.fromCaller && !q.Request.SourceIP.IsValid():
		case q.Request.Rule != "" && q.Request.Rule != r.name:
		case asked > ceiling(r):
			tooLong = append(tooLong, r)
		default:
			applying = append(applying, r)
		}
	}
	options := func(r modelRule) verdict { return is(r.command) + is(r.fromCaller) }
	if len(applying) > 0 {
		r := slices.MinFunc(applying, func(a, b modelRule) int {
			return cmp.Or(cmp.Compare(needs(a), needs(b)), cmp.Compare(len(a.extensions), len(b.extensions)),
				cmp.Compare(options(b), options(a)), cmp.Compare(ceiling(a), ceiling(b)), cmp.Compare(a.name, b.name))
		})
		if needs(r) > 0 {
			return ca.NeedsMore, r.name, 0
		}
		return ca.Allow, r.name, cmp.Or(asked, ceiling(r))
	}
	if len(tooLong) > 0 {
		return ca.Deny, slices.MinFunc(tooLong, func(a, b modelRule) int {
			return cmp.Or(cmp.Compare(ceiling(b), ceiling(a)), cmp.Compare(a.name, b.name))
		}).name, 0
	}
	return ca.Deny, "", 0
}
