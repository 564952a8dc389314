package policy_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// node is a condition: an operator with parts, or an atom with an argument. ask, in the model, says what it means.
type node struct {
	op, arg string
	parts   []node
}

// String is the condition in CEL.
func (n node) String() string {
	switch n.op {
	case "and", "or":
		var words []string
		for _, p := range n.parts {
			words = append(words, p.String())
		}
		return "(" + strings.Join(words, map[string]string{"and": " && ", "or": " || "}[n.op]) + ")"
	case "not":
		return "!(" + n.parts[0].String() + ")"
	}
	return strings.ReplaceAll(map[string]string{
		"environment": `environment == "$"`, "group": `"$" in identity.groups`, "member": `identity.groups.exists(g, g == "$")`,
		"groups": `identity.groups.exists(g, g in ["$", "x"])`, "contractor": `claims.contractor`, "level": `claims.level.orValue(0) > 2`,
		"strict level": `claims.level.value() > 2`, "name": `claims.name == "$"`, "one group": `1 / size(identity.groups) == 1`,
		"bound": `token.bound`, "emergency": `request.break_glass`, "login": `request.login == "$"`, "host": `request.host.startsWith("$")`,
		"email": `identity.email.hasValue()`, "true": "true", "false": "false",
		"var": "vars.$", "fails": `1 / (size(identity.groups) - size(identity.groups)) == 1`,
	}[n.op], "$", n.arg)
}

func atom(op string, args ...string) []node {
	var out []node
	for _, arg := range args {
		out = append(out, node{op: op, arg: arg})
	}
	return append(out, map[bool][]node{true: {{op: op}}, false: nil}[len(args) == 0]...)
}

var (
	// open atoms ask neither for a claim nor for a group, and cannot fail.
	openAtoms = slices.Concat(atom("environment", "staging", "prod"), atom("bound"), atom("emergency"), atom("login", "deploy"), atom("host", "a"),
		atom("email"), atom("true"), atom("false"))
	// Those of groups and claims are true only for who has them; some fail.
	groupAtoms = slices.Concat(atom("group", "dev", "ops", "dev"), atom("member", "dev", "ops"), atom("groups", "dev", "ops"), atom("contractor"),
		atom("level"), atom("strict level"))
	denyAtoms  = slices.Concat(openAtoms, groupAtoms, atom("one group"))
	nameAtoms  = atom("name", "al", "bo") // a required claim: for allow rules only
	allowAtoms = slices.Concat(denyAtoms, nameAtoms)
	// positive atoms are never made true by taking something away.
	positiveAtoms = slices.Concat(openAtoms, groupAtoms, nameAtoms)
)

// condition draws a condition of atoms.
func condition(atoms []node, operators ...string) *rapid.Generator[node] {
	one := rapid.SampledFrom(atoms)
	var tree func(t *rapid.T, depth int) node
	tree = func(t *rapid.T, depth int) node {
		op := "atom"
		if depth > 0 {
			op = rapid.SampledFrom(append([]string{"atom", "and", "and"}, operators...)).Draw(t, "operator")
		}
		switch op {
		case "atom":
			return one.Draw(t, "atom")
		case "not":
			return node{op: op, parts: []node{tree(t, depth-1)}}
		}
		n := node{op: op}
		for range rapid.IntRange(2, 3).Draw(t, "parts") {
			n.parts = append(n.parts, tree(t, depth-1))
		}
		return n
	}
	return rapid.Custom(func(t *rapid.T) node { return tree(t, 2) })
}

// modelRule is a rule as parts.
type modelRule struct {
	name       string
	when       node
	logins     []string // "$" stands for the claim name
	ttl        time.Duration
	extensions []string
	command    bool
	fromCaller bool // source_address is the address of the caller
	reason     bool
	fresh      bool // a sign-in in the last 15 minutes
	ended      bool
	scope      string
}

func (r modelRule) grant() string {
	rest := map[bool]string{true: "expires: 2026-11-22, "}[r.ended] + fmt.Sprintf("require: {reason: %t", r.reason) +
		map[bool]string{true: ", login_within: 15m"}[r.fresh] + "}, grant: {logins: ["
	for i, login := range r.logins {
		rest += map[bool]string{true: ", "}[i > 0] + map[bool]string{true: `"${claims.name}"`, false: login}[login == "$"]
	}
	return rest + fmt.Sprintf("], ttl: %s, extensions: [%s], scope: %s", r.ttl, strings.Join(r.extensions, ", "), r.scope) +
		map[bool]string{true: ", force_command: /bin/true"}[r.command] +
		map[bool]string{true: `, source_address: ["${request.source_ip}"]`}[r.fromCaller] + "}"
}

// model is what a random policy says.
type model struct{ deny, allow []modelRule }

func (m model) String() string {
	var b strings.Builder
	b.WriteString(`
version: 1
shared_trust: true
claims:
  contractor: {type: bool, default: false}
  level: {type: int, optional: true}
  name: {type: string}
limits: {max_ttl: 3h, never_logins: [root]}
environments:
  staging: {hosts: ["*.staging"]}
  prod: {hosts: ["*.prod"], max_ttl: 2h, authority: prod}
deny: [
`)
	for _, r := range m.deny {
		fmt.Fprintf(&b, "  {name: %s, when: '%s'},\n", r.name, r.when)
	}
	b.WriteString("]\nallow: [\n")
	for _, r := range m.allow {
		fmt.Fprintf(&b, "  {name: %s, when: '%s', %s},\n", r.name, r.when, r.grant())
	}
	b.WriteString("]\n")
	return b.String()
}

// policies are random policies; positive ones are never opened by taking a claim or a group away.
var (
	policies         = policiesOf(condition(denyAtoms, "or", "not"), condition(allowAtoms, "or", "not"))
	positivePolicies = policiesOf(condition(openAtoms, "or", "not"), condition(positiveAtoms, "or"))
)

func policiesOf(deny, allow *rapid.Generator[node]) *rapid.Generator[model] {
	return rapid.Custom(func(t *rapid.T) model {
		var m model
		for i := range rapid.IntRange(0, 2).Draw(t, "deny rules") {
			when := node{op: "and", parts: []node{deny.Draw(t, "deny"), {op: "host", arg: "a"}}} // else most questions are refused
			m.deny = append(m.deny, modelRule{name: fmt.Sprint("d", i), when: when})
		}
		for i := range rapid.IntRange(0, 5).Draw(t, "allow rules") {
			m.allow = append(m.allow, modelRule{
				name: fmt.Sprint("a", i), when: allow.Draw(t, "allow"),
				logins:     rapid.SampledFrom([][]string{{"deploy"}, {"deploy"}, {"$"}, {"deploy", "$"}}).Draw(t, "logins"),
				ttl:        rapid.SampledFrom([]time.Duration{30 * time.Minute, time.Hour, 4 * time.Hour}).Draw(t, "ttl"),
				extensions: rapid.SampledFrom([][]string{nil, {"permit-pty"}, {"permit-pty", "permit-user-rc"}}).Draw(t, "extensions"),
				command:    rapid.IntRange(0, 3).Draw(t, "command") == 0, fromCaller: rapid.IntRange(0, 4).Draw(t, "from caller") == 0,
				reason: rapid.IntRange(0, 3).Draw(t, "reason") == 0, fresh: rapid.IntRange(0, 3).Draw(t, "fresh") == 0,
				ended: rapid.IntRange(0, 5).Draw(t, "ended") == 0, scope: rapid.SampledFrom([]string{"any", "environment", "host"}).Draw(t, "scope"),
			})
		}
		return m
	})
}

func questions(key ssh.PublicKey) *rapid.Generator[ca.Question] {
	return rapid.Custom(func(t *rapid.T) ca.Question {
		q := ca.Question{
			Identity: ca.Identity{
				Issuer: "i", Subject: "s", Kind: ca.Person, Claims: map[string]any{}, Email: rapid.SampledFrom([]string{"", "s@example.com"}).Draw(t, "email"),
				Groups: rapid.SliceOfN(rapid.SampledFrom([]string{"dev", "ops", "x"}), 0, 3).Draw(t, "groups"),
			},
			Token: ca.Token{Bound: rapid.Bool().Draw(t, "bound"), IssuedAt: noon},
			Request: ca.Request{
				PublicKey:  key,
				Login:      rapid.SampledFrom([]string{"deploy", "deploy", "al", "root"}).Draw(t, "login"),
				Host:       rapid.SampledFrom([]string{"a.staging", "a.prod", "b.prod", "b.staging", "b.staging", "b.test"}).Draw(t, "host"),
				TTL:        rapid.SampledFrom([]time.Duration{0, 0, time.Minute, time.Hour, 5 * time.Hour}).Draw(t, "ttl"),
				BreakGlass: rapid.Bool().Draw(t, "break glass"),
				Reason:     rapid.SampledFrom([]string{"", "why"}).Draw(t, "reason"),
				Rule:       rapid.SampledFrom([]string{"", "", "", "", "a0", "d0"}).Draw(t, "rule"),
				SourceIP:   rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("192.0.2.7"), {}}).Draw(t, "source"),
			},
			Now: noon,
		}
		q.Token.AuthTime = rapid.SampledFrom([]time.Time{{}, noon, noon.Add(-time.Hour)}).Draw(t, "signed in")
		claims := map[string]any{"contractor": true, "level": int64(3), "name": "al"}
		for _, name := range slices.Sorted(maps.Keys(claims)) { // in order, so that a failure can be repeated
			if rapid.Bool().Draw(t, name) {
				q.Identity.Claims[name] = claims[name]
			}
		}
		return q
	})
}

func mustCompile(t *rapid.T, m model) *policy.Policy {
	p, err := policy.Compile(bundle("policy.yaml", m.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, m)
	}
	return p
}
