package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// Conditions that name others: whatever has "mark" in it belongs to somebody else, or to the text of the policy.
var othersAtoms = rapid.SampledFrom([]string{
	`identity.email.orValue("") == "mark1@example.com"`, `identity.email.orValue("z") != "mark2@example.com"`, `identity.email.orValue("").startsWith("mark3")`,
	`identity.email.orValue("y") in ["mark4@example.com", "mark5@example.com"]`, `"mark-group-1" in identity.groups`,
	`!("mark-group-2" in identity.groups)`, `identity.groups.exists(g, g == "mark-group-3" || g == "dev")`,
	`identity.groups.exists_one(g, g.matches("^mark.*$"))`, `identity.subject in ["mark-s", "s"]`, `identity.subject == "mark-s"`,
	`identity.issuer == "https://mark.example.com"`, `claims.team.orValue("mark-none") == "mark-team"`, `claims.team.orValue("") != "mark-team"`,
	`claims.contractor`, `claims.team.orValue("x") == "mark-team"`, `request.reason.contains("mark-reason")`, `request.login != "mark-login"`,
	`request.source_ip in ["10.9.8.7", "mark-ip"]`, `{"mark-key": true}[identity.subject]`, `{"s": "mark-value"}[identity.subject] == "mark-value"`,
	`int("mark" + identity.subject) == 1`, `["mark-first"][1] == "x"`, `timestamp("mark-time" + identity.subject) < now`,
	`duration("mark" + identity.subject) > duration("1h")`, `cidr("mark" + identity.subject).containsIP("192.0.2.1")`, `"dev" in identity.groups`,
	`token.bound`, `request.break_glass`, `environment == "staging"`, `environment == "prod"`, `true`, `false`, `1 / size(identity.groups) == 1`,
	`now > timestamp("2026-01-01T00:00:00Z")`, `token.auth_time.value() > now - duration("15m")`, `request.key_type == "sk-ed25519"`,
})

var othersPolicies = rapid.Custom(func(t *rapid.T) string {
	var b strings.Builder
	b.WriteString(`
version: 1
shared_trust: true
claims: {contractor: {type: bool, default: false}, team: {type: string, optional: true}}
environments:
  staging: {hosts: ["*.staging"]}
  prod: {hosts: ["*.prod"], authority: prod}
deny:
`)
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }
	for i := range rapid.IntRange(1, 3).Draw(t, "deny rules") {
		fmt.Fprintf(&b, "- {name: d%d, owner: team-d, when: %s, message: Say please.}\n", i,
			quote(conditionText(othersAtoms).Draw(t, "deny")+rapid.SampledFrom([]string{"", ` && request.host.startsWith("a")`, " && false"}).Draw(t, "rest")))
	}
	b.WriteString("allow:\n")
	for i := range rapid.IntRange(1, 6).Draw(t, "allow rules") {
		fmt.Fprintf(&b, "- {name: a%d, owner: team-a, when: %s, %s}\n", i, quote(conditionText(othersAtoms).Draw(t, "allow")), rapid.SampledFrom([]string{
			"grant: {logins: [deploy], ttl: 1h}", "require: {reason: true, login_within: 15m}, grant: {logins: [deploy], ttl: 2h}",
			`grant: {logins: [deploy, "${claims.team.orValue('mark login')}"], ttl: 1h}`,
			`grant: {logins: ["${claims.team.value()}"], ttl: 1h}`,
			`grant: {logins: ["${{'mark-key': 'x'}[identity.subject]}"], ttl: 1h}`,
			`expires: 2026-01-01, grant: {logins: [deploy], ttl: 1h}`,
			`grant: {logins: [deploy], ttl: 30m, source_address: ["${'mark' + request.source_ip}"]}`,
		}).Draw(t, "grant"))
	}
	return b.String()
})

// command is what a hint may be: something to type, with placeholders for what only the caller knows.
var hintForm = regexp.MustCompile(`^(hallpass login --(fresh|key FILE) && )*hallpass cert( --ttl [0-9hms]+| --reason '\.\.\.'| --break-glass| --rule [a-z0-9.-]+)* [^ ]+$`)

// TestWhatACallerIsTold: nothing that stands in a condition, and nothing of anybody else, reaches a caller, neither in the
// explanation nor in the decision; and what is advised is true.
func TestWhatACallerIsTold(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		text, q := othersPolicies.Draw(t, "policy"), questions.Draw(t, "question")
		p, err := policy.Compile(bundle("policy.yaml", text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		q.Identity.Claims = map[string]any{}
		q.Identity.Email = rapid.SampledFrom([]string{"", "dave@example.com"}).Draw(t, "email")
		if rapid.Bool().Draw(t, "has an address") {
			q.Request.SourceIP = netip.MustParseAddr("203.0.113.9")
		}
		d := p.Decide(context.Background(), q)
		x := p.Tell(context.Background(), q, d)
		if (x == nil) != (d.Outcome == ca.Allow) {
			t.Fatalf("outcome %d, explanation %v", d.Outcome, x)
		}
		told, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		all := string(told) + d.Message
		for _, f := range d.Failed {
			all += f.Told
			if f.Told == "" {
				t.Fatalf("nothing is told of %+v", f)
			}
		}
		if strings.Contains(strings.ToLower(all), "mark") || strings.Contains(all, "10.9.8.7") {
			t.Fatalf("%s\n%s", all, text)
		}
		if x != nil {
			checkTold(t, p, q, d, x)
		}
	})
}

// checkTold holds an explanation to the decision, and its advice to the policy.
func checkTold(t *rapid.T, p *policy.Policy, q ca.Question, d ca.Decision, x *ca.Explanation) {
	if x.Reason == "" || x.Next == "" && x.Ask == "" {
		t.Fatalf("it says neither why nor what to do: %+v", x)
	}
	if d.Rule != "" && (len(x.Rules) == 0 || x.Rules[0].Name != d.Rule) {
		t.Fatalf("the rule %s decided, and the explanation begins with another: %+v", d.Rule, x.Rules)
	}
	for _, r := range x.Rules {
		if !r.Deny && len(r.Lacks) == 0 && q.Request.Rule == "" && x.Rules[0].Name == r.Name {
			t.Fatalf("no, and the first rule lacks nothing: %+v\n%s", r, d.Message)
		}
	}
	if x.Next == "" {
		return
	}
	if !hintForm.MatchString(x.Next) {
		t.Fatalf("not a command: %s", x.Next)
	}
	if again := typed(q, x.Next); p.Decide(context.Background(), again).Outcome != ca.Allow {
		t.Fatalf("%s leads to: %s", x.Next, p.Decide(context.Background(), again).Message)
	}
}

// typed types a command.
func typed(q ca.Question, command string) ca.Question {
	q.Request.TTL, q.Request.Reason, q.Request.BreakGlass, q.Request.Rule = 0, "", false, ""
	words := strings.Fields(command)
	for i, word := range words {
		switch word {
		case "--fresh":
			q.Token.AuthTime, q.Token.Bound = q.Now, true
		case "--key":
			q.Request.PublicKey, _ = policy.KeyOfType("sk-ed25519")
		case "--ttl":
			q.Request.TTL, _ = time.ParseDuration(words[i+1])
		case "--reason":
			q.Request.Reason = "INC-42"
		case "--break-glass":
			q.Request.BreakGlass = true
		case "--rule":
			q.Request.Rule = words[i+1]
		}
	}
	q.Request.Login, q.Request.Host, _ = strings.Cut(words[len(words)-1], "@")
	return q
}

// TestTell: what callers read, word by word.
func TestTell(t *testing.T) {
	const rules = `
version: 1
claims:
  level: {type: int, optional: true}
  unix_name: {type: string}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod:    {hosts: ["*.prod.example.com"], authority: prod}
  lab:     {hosts: ["*.lab.example.com"], authority: prod}
shared_trust: true
deny:
- name: too-low
  when: environment == "lab" && int(string(claims.level.value()) + "secret") > 3
allow:
- {name: ops, owner: ops-team, when: environment == "prod" && "ops" in identity.groups, grant: {logins: [deploy], ttl: 1h}}
- {name: by-name, when: environment == "prod" && claims.unix_name == "secret", grant: {logins: [deploy], ttl: 1h}}
- {name: fresh, owner: fresh-team, when: environment == "staging" && token.bound, require: {login_within: 5m}, grant: {logins: [deploy], ttl: 1h}}
- {name: sk, when: environment == "staging" && request.key_type == "sk-ed25519", grant: {logins: [admin], ttl: 1h}}
- {name: lab, when: environment == "lab", grant: {logins: [deploy], ttl: 1h}}
- {name: two, when: environment == "prod" && identity.subject == "secret", require: {reason: true}, grant: {logins: [tunnel], ttl: 37m}}
`
	p := compile(t, rules)
	for _, tt := range []struct {
		name   string
		change func(*ca.Question)
		want   ca.Explanation
	}{
		{"a group, and a claim that is not there", func(q *ca.Question) { q.Request.Host = "db1.prod.example.com" }, ca.Explanation{
			Reason: "no rule lets you log in as deploy on db1.prod.example.com",
			Rules: []ca.ExplainedRule{
				{Name: "by-name", Lacks: []string{"it cannot be evaluated for your claim unix_name"}},
				{Name: "ops", Owner: "ops-team", Lacks: []string{"you are not in the group that it asks for"}},
			},
			Missing: []string{"a condition that can be evaluated for you"}, Ask: "who looks after the rule by-name",
		}},
		{"a sign-in that is too old", func(*ca.Question) {}, ca.Explanation{
			Reason:  "the rule fresh lets you log in as deploy on app1.staging.example.com once you sign in again (the last sign-in may be at most 5m old)",
			Rules:   []ca.ExplainedRule{{Name: "fresh", Owner: "fresh-team", Lacks: []string{"it asks for a sign-in within the last 5m"}}},
			Missing: []string{"a sign-in within the last 5m"}, Next: "hallpass login --fresh && hallpass cert deploy@app1.staging.example.com",
		}},
		{"a job, which signs in nowhere", func(q *ca.Question) {
			q.Identity.Kind, q.Token.AuthTime = ca.Workload, time.Time{}
		}, ca.Explanation{
			Reason:  "the rule fresh lets you log in as deploy on app1.staging.example.com once you sign in again (the last sign-in may be at most 5m old)",
			Rules:   []ca.ExplainedRule{{Name: "fresh", Owner: "fresh-team", Lacks: []string{"it asks for a sign-in within the last 5m"}}},
			Missing: []string{"a sign-in within the last 5m"}, Ask: "fresh-team, who answers for the rule fresh",
		}},
		{"a key of the wrong type", func(q *ca.Question) { q.Request.Login = "admin" }, ca.Explanation{
			Reason: "no rule lets you log in as admin on app1.staging.example.com",
			Rules: []ca.ExplainedRule{
				{Name: "sk", Lacks: []string{"it does not hold for the type of your key, ed25519"}},
				{Name: "fresh", Owner: "fresh-team", Lacks: []string{"it lets you log in as deploy, not as admin", "it asks for a sign-in within the last 5m"}},
			},
			Missing: []string{"a key of the type sk-ed25519"}, Next: "hallpass login --key FILE && hallpass cert admin@app1.staging.example.com",
		}},
		{"a deny rule that fails", func(q *ca.Question) {
			q.Request.Host, q.Identity.Claims["level"] = "x.lab.example.com", int64(2)
		}, ca.Explanation{
			Reason: "the deny rule too-low could not be evaluated, and so refuses to let you log in as deploy on x.lab.example.com: " +
				"what it asks for is not there, or not of the right form",
			Rules:   []ca.ExplainedRule{{Name: "too-low", Deny: true, Lacks: []string{"it cannot be evaluated for your claim level"}}},
			Missing: []string{"the rule too-low not to refuse"}, Ask: "who looks after the rule too-low",
		}},
		{"a rule by name that is for others", func(q *ca.Question) {
			q.Request.Host, q.Request.Rule = "db1.prod.example.com", "ops"
		}, ca.Explanation{
			Reason:  "the rule \"ops\" does not let you log in as deploy on db1.prod.example.com",
			Rules:   []ca.ExplainedRule{{Name: "ops", Owner: "ops-team", Lacks: []string{"you are not in the group that it asks for"}}},
			Missing: []string{"a group that you are not in"}, Ask: "ops-team, who answers for the rule ops",
		}},
		{"what a rule grants, which is for others", func(q *ca.Question) {
			q.Request.Host, q.Request.Login, q.Request.TTL = "db1.prod.example.com", "tunnel", 2*time.Hour
		}, ca.Explanation{
			Reason:  "no rule lets you log in as tunnel on db1.prod.example.com",
			Rules:   []ca.ExplainedRule{{Name: "two", Lacks: []string{"it does not hold for who you are"}}},
			Missing: []string{"a condition that holds for you"}, Ask: "who looks after the rule two",
		}},
		{"a host that could be one of several, of which the policy opens one", func(q *ca.Question) {
			q.Request.Host, q.Token.AuthTime = "app1", noon
		}, ca.Explanation{
			Reason: "no environment has the host app1", Missing: []string{"the full name of the host, such as app1.staging.example.com"},
			Next: "hallpass cert deploy@app1.staging.example.com",
		}},
		{"no host name", func(q *ca.Question) { q.Request.Host = "$(reboot)" }, ca.Explanation{
			Reason: `"$(reboot)" is not a host name`, Ask: "who looks after the policy",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			tt.change(&q)
			got := p.Tell(t.Context(), q, p.Decide(t.Context(), q))
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
