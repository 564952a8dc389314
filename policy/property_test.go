package policy_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// Conditions, among them some that fail.
var atoms = rapid.SampledFrom([]string{
	`environment == "staging"`, `environment == "prod"`, `"prod" == environment`, `environment != "prod"`,
	`"dev" in identity.groups`, `"ops" in identity.groups`, `!("dev" in identity.groups)`,
	`claims.contractor`, `claims.level.orValue(0) > 2`, `claims.level.value() > 2`, `1 / size(identity.groups) == 1`,
	`token.bound`, `request.break_glass`, `request.login == "deploy"`, `identity.groups.exists(g, g == "dev")`, `true`, `false`,
})

// Conditions that only allow rules may ask.
var allowAtoms = rapid.OneOf(atoms, rapid.SampledFrom([]string{`claims.name == "al"`, `claims.name.startsWith("b")`}))

func condition(atoms *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		out := atoms.Draw(t, "atom")
		for range rapid.IntRange(0, 3).Draw(t, "more") {
			out += rapid.SampledFrom([]string{" && ", " && ", " || "}).Draw(t, "operator") + atoms.Draw(t, "atom")
		}
		return out
	})
}

type denyText struct{ name, when string }

type allowText struct{ name, when, rest string }

// text is a policy as parts, so that a test can take one away.
type text struct {
	deny  []denyText
	allow []allowText
}

func (x text) String() string {
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
	for _, r := range x.deny {
		fmt.Fprintf(&b, "  {name: %s, when: '%s'},\n", r.name, r.when)
	}
	b.WriteString("]\nallow: [\n")
	for _, r := range x.allow {
		fmt.Fprintf(&b, "  {name: %s, when: '%s', %s},\n", r.name, r.when, r.rest)
	}
	b.WriteString("]\n")
	return b.String()
}

var policies = rapid.Custom(func(t *rapid.T) text {
	var x text
	for i := range rapid.IntRange(0, 2).Draw(t, "deny rules") {
		x.deny = append(x.deny, denyText{fmt.Sprintf("d%d", i), condition(atoms).Draw(t, "deny") + ` && request.host.startsWith("a")`})
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "allow rules") {
		x.allow = append(x.allow, allowText{fmt.Sprintf("a%d", i), condition(allowAtoms).Draw(t, "allow"), fmt.Sprintf(
			"require: %s, grant: {logins: %s, ttl: %s, extensions: %s, scope: %s}",
			rapid.SampledFrom([]string{"{}", "{reason: true}", "{login_within: 15m}"}).Draw(t, "require"),
			rapid.SampledFrom([]string{"[deploy]", `["${claims.name}"]`, `[deploy, "${claims.name}"]`}).Draw(t, "logins"),
			rapid.SampledFrom([]string{"30m", "1h", "4h"}).Draw(t, "ttl"),
			rapid.SampledFrom([]string{"[]", "[permit-pty]", "[permit-pty, permit-user-rc]"}).Draw(t, "extensions"),
			rapid.SampledFrom([]string{"any", "environment", "host"}).Draw(t, "scope"))})
	}
	return x
})

func questions(key ssh.PublicKey) *rapid.Generator[ca.Question] {
	return rapid.Custom(func(t *rapid.T) ca.Question {
		q := ca.Question{
			Identity: ca.Identity{
				Issuer: "i", Subject: "s", Kind: ca.Person, Claims: map[string]any{},
				Groups: rapid.SliceOfN(rapid.SampledFrom([]string{"dev", "ops", "x"}), 0, 3).Draw(t, "groups"),
			},
			Token: ca.Token{Bound: rapid.Bool().Draw(t, "bound"), IssuedAt: noon},
			Request: ca.Request{
				PublicKey:  key,
				Login:      rapid.SampledFrom([]string{"deploy", "al", "root"}).Draw(t, "login"),
				Host:       rapid.SampledFrom([]string{"a.staging", "a.prod", "b.prod", "b.staging"}).Draw(t, "host"),
				TTL:        rapid.SampledFrom([]time.Duration{0, 0, time.Minute, time.Hour, 5 * time.Hour}).Draw(t, "ttl"),
				BreakGlass: rapid.Bool().Draw(t, "break glass"),
				Reason:     rapid.SampledFrom([]string{"", "why"}).Draw(t, "reason"),
				Rule:       rapid.SampledFrom([]string{"", "", "", "a0", "d0"}).Draw(t, "rule"),
			},
			Now: noon,
		}
		if rapid.Bool().Draw(t, "signed in just now") {
			q.Token.AuthTime = noon
		}
		claims := map[string]any{"contractor": true, "level": int64(3), "name": "al"}
		for _, name := range slices.Sorted(maps.Keys(claims)) { // in order, so that a failure can be repeated
			if rapid.Bool().Draw(t, name) {
				q.Identity.Claims[name] = claims[name]
			}
		}
		return q
	})
}

func mustCompile(t *rapid.T, x text) *policy.Policy {
	p, err := policy.Compile(bundle("policy.yaml", x.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, x)
	}
	return p
}

// TestIndexNeverChangesADecision: same outcome, same rule, same grant, same failures told to the caller. The index may only
// spare a rule that is false; and a rule that is false does not fail.
func TestIndexNeverChangesADecision(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		p, q := mustCompile(t, policies.Draw(t, "policy")), questions.Draw(t, "question")
		with, without := p.Decide(context.Background(), q), p.DecideWithoutIndex(context.Background(), q)
		if diff := cmp.Diff(without, with, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestGrantsStayWithinLimits is I4 as far as policy can hold it.
func TestGrantsStayWithinLimits(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		p, q := mustCompile(t, policies.Draw(t, "policy")), questions.Draw(t, "question")
		d := p.Decide(context.Background(), q)
		if d.Outcome != ca.Allow {
			if d.TTL != 0 || d.Grant.Logins != nil {
				t.Fatalf("no, and yet a grant: %+v", d)
			}
			return
		}
		if d.TTL <= 0 || d.TTL > d.Grant.TTL || d.TTL > d.Limits.MaxTTL || d.Environment.MaxTTL > 0 && d.TTL > d.Environment.MaxTTL ||
			q.Request.TTL > 0 && d.TTL != q.Request.TTL {
			t.Fatalf("lifetime %s: %+v", d.TTL, d)
		}
		if !slices.Contains(d.Grant.Logins, q.Request.Login) || slices.Contains(d.Grant.Logins, "root") || d.Grant.Scope == 0 || d.Rule == "" {
			t.Fatalf("%+v", d)
		}
		if q.Request.Rule != "" && d.Rule != q.Request.Rule {
			t.Fatalf("asked for rule %s, got %s", q.Request.Rule, d.Rule)
		}
	})
}

// TestMoreRulesOfDenyAndLessOfAllowNeverHelp: adding a deny rule or taking an allow rule away never turns no into yes.
func TestMoreRulesOfDenyAndLessOfAllowNeverHelp(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		x, q := policies.Draw(t, "policy"), questions.Draw(t, "question")
		before := mustCompile(t, x).Decide(context.Background(), q)
		if rapid.Bool().Draw(t, "add a deny rule") || len(x.allow) == 0 {
			x.deny = append(slices.Clone(x.deny), denyText{"more", condition(atoms).Draw(t, "more")})
		} else {
			i := rapid.IntRange(0, len(x.allow)-1).Draw(t, "rule to remove")
			x.allow = slices.Delete(slices.Clone(x.allow), i, i+1)
		}
		after := mustCompile(t, x).Decide(context.Background(), q)
		// An allow rule taken away may have been the one that was chosen though it needed more: by the order of choice one
		// that needs nothing is always chosen first, so that never opens anything.
		if after.Outcome == ca.Allow && before.Outcome != ca.Allow {
			t.Fatalf("before: %s\nafter: %s", before.Message, after.Message)
		}
	})
}

// TestAnErrorNeverTurnsNoIntoYes is I7: with a part of a condition replaced by one that fails, only less is allowed than the
// better of the part being true and the part being false.
func TestAnErrorNeverTurnsNoIntoYes(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		x, q := policies.Draw(t, "policy"), questions.Draw(t, "question")
		inDeny := len(x.deny) > 0 && rapid.Bool().Draw(t, "in a deny rule")
		if !inDeny && len(x.allow) == 0 {
			return
		}
		outcome := func(value string) ca.Outcome {
			changed := text{slices.Clone(x.deny), slices.Clone(x.allow)}
			if inDeny {
				changed.deny[0].when += " && " + value
			} else {
				changed.allow[0].when += " && " + value
			}
			return mustCompile(t, changed).Decide(context.Background(), q).Outcome
		}
		failing := outcome("1 / (size(identity.groups) - size(identity.groups)) == 1")
		worse := outcome(map[bool]string{true: "true", false: "false"}[inDeny])
		if failing == ca.Allow && worse != ca.Allow {
			t.Fatalf("a failure allows what the careful reading does not\n%s", x)
		}
	})
}

// TestLosingAClaimNeverHelps: nor does taking away a group or a claim that only allow rules ask for in the positive.
func TestLosingAClaimNeverHelps(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		x, q := policies.Draw(t, "policy"), questions.Draw(t, "question")
		all := x.String()
		for _, negative := range []string{"!(", "/ size"} {
			if strings.Contains(all, negative) {
				return
			}
		}
		for _, r := range x.deny {
			if strings.Contains(r.when, "groups") || strings.Contains(r.when, "claims") {
				return
			}
		}
		p := mustCompile(t, x)
		before := p.Decide(context.Background(), q)
		less := q
		less.Identity.Claims = maps.Clone(q.Identity.Claims)
		delete(less.Identity.Claims, rapid.SampledFrom([]string{"contractor", "level", "name"}).Draw(t, "claim to lose"))
		if len(q.Identity.Groups) > 0 {
			less.Identity.Groups = q.Identity.Groups[1:]
		}
		if after := p.Decide(context.Background(), less); after.Outcome == ca.Allow && before.Outcome != ca.Allow {
			t.Fatalf("before: %s\nafter: %s", before.Message, after.Message)
		}
	})
}
