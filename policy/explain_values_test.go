package policy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

const valuesPolicy = `
version: 1
claims:
  contractor: {type: bool, default: false}
  level: {type: int, optional: true}
  name: {type: string}
environments: {staging: {hosts: ["*.staging.example.com"]}}
`

// TestExplainShowsWhatMadeAConditionSo: each line is a part of the condition, its verdict, and the error and values shown.
func TestExplainShowsWhatMadeAConditionSo(t *testing.T) {
	same := func(*ca.Question) {}
	for _, tt := range []struct {
		name, when string
		change     func(*ca.Question)
		want       string
	}{
		{"a part that is false hides none", `"a" in identity.groups && token.bound && "b" in identity.groups`, same, `
false "a" in identity.groups; identity.groups = ["developers"]
true token.bound; token.bound = true
false "b" in identity.groups; identity.groups = ["developers"]`},
		{"a part that fails behind one that is false", `request.login == "root" && claims.name == "al"`, same, `
false request.login == "root"; request.login = "deploy"
failed claims.name == "al"; the token has no claim name`},
		{"parentheses are not parts of their own", `(token.bound && (environment == "staging" && !claims.contractor))`, same, `
true token.bound; token.bound = true
true environment == "staging"; environment = "staging"
true !claims.contractor; claims.contractor = false`},
		{"an alternative whose first side settles it", `token.bound || claims.contractor`, same, `
true token.bound || claims.contractor; token.bound = true`},
		{"an alternative whose first side fails and whose second is true", `claims.name == "al" || token.bound`, same, `
true claims.name == "al" || token.bound; token.bound = true`},
		{"an alternative that is false", `claims.contractor || request.break_glass`, same, `
false claims.contractor || request.break_glass; claims.contractor = false; request.break_glass = false`},
		{"a loop is one condition", `identity.groups.exists(g, g.startsWith("x") && g != request.login)`, same, `
false identity.groups.exists(g, g.startsWith("x") && g != request.login); identity.groups = ["developers"]`},
		{"an optional that is not set", `claims.level.orValue(0) > 2`, same, `
false claims.level.orValue(0) > 2; claims.level = not set`},
		{"an optional that is set", `claims.level.orValue(0) > 2`, func(q *ca.Question) { q.Identity.Claims["level"] = int64(3) }, `
true claims.level.orValue(0) > 2; claims.level = 3`},
		{"an optional that must be set", `claims.level.value() > 2`, same, `
failed claims.level.value() > 2; optional.none() dereference; claims.level = not set`},
		{"hours in a time zone", `now.getHours("Europe/Berlin") < 8`, same, `
false now.getHours("Europe/Berlin") < 8; now.getHours("Europe/Berlin") = 13`},
		{"times and durations", `now - token.auth_time.orValue(now) < duration("600s") && request.ttl < duration("5400s")`, func(q *ca.Question) { q.Request.TTL = 90 * time.Minute }, `
false now - token.auth_time.orValue(now) < duration("600s"); now = Mon 2026-11-23 12:00:00 UTC; token.auth_time = Mon 2026-11-23 11:00:00 UTC
false request.ttl < duration("5400s"); request.ttl = 1h30m`},
		{"a division by nothing", `1 / size(identity.groups) == 1`, func(q *ca.Question) { q.Identity.Groups = nil }, `
failed 1 / size(identity.groups) == 1; division by zero; size(identity.groups) = 0`},
		{"a network", `!cidr("10.0.0.0/8").containsIP(request.source_ip)`, same, `
true !cidr("10.0.0.0/8").containsIP(request.source_ip); request.source_ip = "192.0.2.7"`},
		{"what the request does not have", `request.key_type == "rsa"`, func(q *ca.Question) { q.Request.PublicKey = nil }, `
failed request.key_type == "rsa"; there is no request.key_type`},
		{"a list that is long", `"a" in identity.groups`, func(q *ca.Question) {
			for i := range 40 {
				q.Identity.Groups = append(q.Identity.Groups, fmt.Sprint("group-", i))
			}
		}, `
false "a" in identity.groups; identity.groups = ["developers", "group-0", "group-1", "group-2", "group-3", "group-4", "group-5", ...] (41)`},
		{"a text that is long", `request.reason == "x"`, func(q *ca.Question) { q.Request.Reason = strings.Repeat("why ", 100) }, `
false request.reason == "x"; request.reason = "` + strings.Repeat("why ", 24) + `...`},
		{"a condition that is long", `request.reason in ["` + strings.Repeat("x", 200) + `"]`, same, `
false request.reason in ["` + strings.Repeat("x", 77) + `...; request.reason = ""`},
		{"a condition that names nothing", `false`, same, `
false false`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, valuesPolicy+"allow:\n- name: rule\n  when: |-\n    "+tt.when+"\n  grant: {logins: [deploy], ttl: 1h}\n")
			q := question(t)
			tt.change(&q)
			x := p.Explain(context.Background(), q)
			if len(x.Rules) != 1 {
				t.Fatalf("got %d rules:\n%s", len(x.Rules), x.Text(100))
			}
			var got strings.Builder
			for _, c := range x.Rules[0].Conditions {
				if c.Part != "when" {
					continue
				}
				fmt.Fprintf(&got, "\n%s %s", c.Result, c.Text)
				if c.Error != "" {
					got.WriteString("; " + c.Error)
				}
				for _, v := range c.Values {
					got.WriteString("; " + v.Name + " = " + v.Value)
				}
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestExplainShowsARuleThatFailsAsAWhole: each part is within the cost limit, all together are not.
func TestExplainShowsARuleThatFailsAsAWhole(t *testing.T) {
	p := compile(t, valuesPolicy+`
deny: [{name: costly, when: 'request.reason.contains("y") || request.reason.contains("z")'}]
allow: [{name: costly-too, when: '!request.reason.contains("y") && !request.reason.contains("z")', grant: {logins: [deploy], ttl: 1h}}]
`)
	q := question(t)
	q.Request.Reason = strings.Repeat("x", 6_000_000)
	d, x := decide(p, q), p.Explain(context.Background(), q)
	if d.Rule != "costly" || len(d.Failed) != 1 || !strings.Contains(d.Message, "costs more than") {
		t.Fatalf("got %+v", d)
	}
	shown := map[string]policy.ExplainedRule{}
	for _, r := range x.Rules {
		shown[r.Name] = r
	}
	for name, parts := range map[string]int{"costly": 1, "costly-too": 3} { // the last part is that of the whole
		r := shown[name]
		if r.Result != policy.Failed || len(r.Conditions) < parts || r.Conditions[parts-1].Result != policy.Failed ||
			!strings.Contains(r.Conditions[parts-1].Error, "costs more than") {
			t.Errorf("%s is shown as %s: %+v", name, r.Result, r.Conditions)
		}
	}
}

// TestExplainIsBounded: many rules nearly apply, few are told, and the text stays a screen.
func TestExplainIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(valuesPolicy + "allow:\n")
	const rules = 2000
	for i := range rules {
		fmt.Fprintf(&b, "- {name: r%04d, when: '\"g%d\" in identity.groups && token.bound', grant: {logins: [deploy], ttl: 1h}}\n", i, i)
	}
	p, q := compile(t, b.String()), question(t)
	q.Identity.Groups, q.Token.Bound = []string{"g1234"}, false
	x := p.Explain(context.Background(), q)
	if len(x.Rules)+x.MoreRules != rules || len(x.Rules) > 20 {
		t.Errorf("%d rules shown and %d more, of %d", len(x.Rules), x.MoreRules, rules)
	}
	if x.Rules[0].Name != "r1234" || x.Missing[0] != "a sign-in that is bound to the key" {
		t.Errorf("the nearest rule is not first:\n%s", x.Text(80))
	}
	if n := strings.Count(x.Text(80), "\n"); n > 45 {
		t.Errorf("%d lines are no screen", n)
	}
}

// TestExplainStopsInTime: without any time left it says so, and refuses like Decide.
func TestExplainStopsInTime(t *testing.T) {
	p := compile(t, valuesPolicy+`
deny: [{name: no, when: claims.contractor}]
allow: [{name: yes-rule, when: token.bound, grant: {logins: [deploy], ttl: 1h}}]
`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	x := p.Explain(ctx, question(t))
	if x.Outcome != "deny" || x.Rule != "no" || len(x.Rules) == 0 || x.Rules[0].Result != policy.Failed {
		t.Errorf("%+v", x)
	}
}

// TestExplainIsSafeForConcurrentUse: one policy, many explanations and decisions at once, all the same.
func TestExplainIsSafeForConcurrentUse(t *testing.T) {
	p := compile(t, valuesPolicy+`
deny: [{name: no, when: 'claims.contractor && identity.groups.exists(g, g == "x")'}]
allow: [{name: some, when: '"developers" in identity.groups && claims.level.orValue(0) > 2', grant: {logins: [deploy], ttl: 1h}}]
`)
	q := question(t)
	want := p.Explain(context.Background(), q).Text(100)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				if got := p.Explain(context.Background(), q).Text(100); got != want {
					t.Error(cmp.Diff(want, got))
				}
			}
		})
	}
	all.Wait()
}

// TestNextIsAYes: doing what Next says makes it one.
func TestNextIsAYes(t *testing.T) {
	questions := questions(ed25519Key(t))
	told := 0
	rapid.Check(t, func(t *rapid.T) {
		p, q := mustCompile(t, policies.Draw(t, "policy")), questions.Draw(t, "question")
		x := p.Explain(context.Background(), q)
		next, isCommand := x.Next, strings.HasPrefix(x.Next, "hallpass ") && !strings.Contains(x.Next, "LOGIN") && !strings.Contains(x.Next, "@HOST")
		if !isCommand || x.Outcome == "allow" {
			return
		}
		told++
		if rest, ok := strings.CutPrefix(next, "hallpass login --fresh && "); ok {
			next, q.Token.AuthTime, q.Token.Bound = rest, noon, true
		}
		words := strings.Fields(next)
		q.Request = ca.Request{PublicKey: q.Request.PublicKey, SourceIP: q.Request.SourceIP}
		for i := 2; i < len(words); i++ {
			switch words[i] {
			case "--ttl":
				q.Request.TTL, _ = time.ParseDuration(words[i+1])
				i++
			case "--reason":
				q.Request.Reason = "why"
				i++
			case "--rule":
				q.Request.Rule = words[i+1]
				i++
			case "--break-glass":
				q.Request.BreakGlass = true
			default:
				q.Request.Login, q.Request.Host, _ = strings.Cut(words[i], "@")
			}
		}
		if d := p.Decide(context.Background(), q); d.Outcome != ca.Allow {
			t.Fatalf("%s\n%s", d.Message, x.Text(100))
		}
	})
	if told == 0 {
		t.Error("no command was told: did its form change?")
	}
}

// TestExplainTakesAnything: odd identities and requests are explained too, within the bounds.
func TestExplainTakesAnything(t *testing.T) {
	odd := rapid.OneOf(rapid.String(), rapid.StringN(0, 400, 1000), rapid.SampledFrom([]string{"", "\x1b[31m", "deploy", "a.staging", "${x}", "\xff"}))
	rapid.Check(t, func(t *rapid.T) {
		p := mustCompile(t, policies.Draw(t, "policy"))
		q := ca.Question{
			Identity: ca.Identity{
				Kind: ca.CallerKind(rapid.IntRange(-1, 3).Draw(t, "kind")), Email: odd.Draw(t, "email"), Subject: odd.Draw(t, "subject"),
				Groups: rapid.SliceOfN(odd, 0, 5).Draw(t, "groups"), Claims: map[string]any{"name": odd.Draw(t, "name")},
			},
			Request: ca.Request{
				Login: odd.Draw(t, "login"), Host: odd.Draw(t, "host"), Reason: odd.Draw(t, "reason"), Rule: odd.Draw(t, "rule"),
				TTL: time.Duration(rapid.Int64().Draw(t, "ttl")),
			},
		}
		if rapid.Bool().Draw(t, "a claim of another type") {
			q.Identity.Claims["level"] = odd.Draw(t, "level")
		}
		d, x := p.Decide(context.Background(), q), p.Explain(context.Background(), q)
		if d.Outcome != x.Decision.Outcome || d.Message != x.Decision.Message {
			t.Fatalf("%+v\n%+v", d, x.Decision)
		}
		checkText(t, x)
		x.Text(rapid.IntRange(-1, 200).Draw(t, "width"))
	})
}

func TestWhoCanAsksForEach(t *testing.T) {
	p := compile(t, valuesPolicy+`
deny: [{name: no-contractors, when: claims.contractor}]
allow:
- {name: developers, when: '"developers" in identity.groups', grant: {logins: [deploy], ttl: 1h}}
- {name: jobs, when: identity.kind == "workload", require: {reason: true, login_within: 15m}, grant: {logins: [deploy], ttl: 1h}}
`)
	callers, err := policy.ReadIdentities("users.yaml", []byte(`
- {email: alice@example.com, groups: [developers]}
- {email: bob@example.com, groups: [developers], claims: {contractor: true}}
- {subject: job, kind: workload}
- {subject: odd, claims: {contractor: 3}}
- {subject: nobody}
`))
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.WhoCan(context.Background(), question(t), callers)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, x := range all {
		fmt.Fprintf(&got, "%s %s %s %d %s\n", x.Identity, x.Outcome, x.Rule, x.TTL, strings.Join(x.Needs, ", "))
	}
	want := `alice@example.com allow developers 3600 
bob@example.com deny no-contractors 0 
job needs jobs 0 a reason, a sign-in within the last 15m
odd deny  0 
nobody deny  0 
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.WhoCan(ctx, question(t), callers); err == nil {
		t.Error("no error of a caller who is gone")
	}
}
