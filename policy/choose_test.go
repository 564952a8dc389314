package policy_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
)

func TestChoose(t *testing.T) {
	const any = `when: environment == "staging"`
	runDecisions(t, []decisionCase{
		{"fewest extensions", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h, extensions: [permit-pty, permit-port-forwarding]}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h}}
`, same, ca.Allow, "b", ""},
		{"then most critical options", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h, force_command: /bin/true}}
- {name: c, ` + any + `, grant: {logins: [deploy], ttl: 3h, force_command: /bin/true, source_address: [10.0.0.0/8]}}
`, same, ca.Allow, "c", ""},
		{"then the shorter lifetime", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 2h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Allow, "b", ""},
		{"then the name, whatever the order", `
allow:
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Allow, "a", ""},
		{"a lifetime that only one rule gives", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 3h}}
`, func(q *ca.Question) { q.Request.TTL = 2 * time.Hour }, ca.Allow, "b", ""},
		{"the longest lifetime is named", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 3h}}
`, func(q *ca.Question) { q.Request.TTL = 4 * time.Hour }, ca.Deny, "b", "for at most 3h (rule b), not 4h"},
		{"a rule that asks for nothing more before one that does", `
allow:
- {name: a, ` + any + `, require: {reason: true}, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h, extensions: [permit-pty, permit-user-rc]}}
`, same, ca.Allow, "b", ""},
		{"the one with less power once its needs are met", `
allow:
- {name: a, ` + any + `, require: {reason: true}, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h}}
`, func(q *ca.Question) { q.Request.Reason = "INC-7" }, ca.Allow, "a", ""},
		{"the one that was named", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h}}
`, func(q *ca.Question) { q.Request.Rule = "b" }, ca.Allow, "b", ""},
		{"the one that was named still has needs", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, require: {reason: true}, grant: {logins: [deploy], ttl: 2h}}
`, func(q *ca.Question) { q.Request.Rule = "b" }, ca.NeedsMore, "b", "once you say a reason"},
		{"the one that was named gives less", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, ` + any + `, grant: {logins: [deploy], ttl: 2h}}
`, func(q *ca.Question) { q.Request.Rule, q.Request.TTL = "a", 2*time.Hour }, ca.Deny, "a", "for at most 1h (rule a)"},
		{"a name that no rule has", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Request.Rule = "z" }, ca.Deny, "", `there is no rule "z"; these do: a`},
		{"a named rule that does not apply", `
allow:
- {name: a, ` + any + `, grant: {logins: [deploy], ttl: 1h}}
- {name: b, when: environment == "prod", grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Request.Rule = "b" }, ca.Deny, "", `the rule "b" does not let you log in as deploy on app1.staging.example.com; these do: a`},
		{"a named rule that has expired", `
allow:
- {name: a, ` + any + `, expires: 2026-01-01, grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Request.Rule = "a" }, ca.Deny, "", `: it has expired`},
		{"a named rule that denies", `
deny:
- {name: a, when: environment == "prod"}
`, func(q *ca.Question) { q.Request.Rule = "a" }, ca.Deny, "", "a is a deny rule"},
	})
}

func TestNeeds(t *testing.T) {
	p := compile(t, world+`
allow:
- name: careful
  when: environment == "staging"
  require: {reason: true, login_within: 15m}
  grant: {logins: [deploy], ttl: 1h}
`)
	reason := ca.Need{Kind: ca.NeedReason}
	login := ca.Need{Kind: ca.NeedFreshLogin, LoginWithin: 15 * time.Minute}
	for _, tt := range []struct {
		name   string
		change func(*ca.Question)
		want   []ca.Need
	}{
		{"no reason and an old sign-in", same, []ca.Need{reason, login}},
		{"a reason of blanks", func(q *ca.Question) { q.Request.Reason = " \t" }, []ca.Need{reason, login}},
		{"a reason and an old sign-in", func(q *ca.Question) { q.Request.Reason = "x" }, []ca.Need{login}},
		{"a reason and a sign-in just in time", func(q *ca.Question) {
			q.Request.Reason, q.Token.AuthTime = "x", noon.Add(-15*time.Minute)
		}, nil},
		{"a reason and a sign-in a second too old", func(q *ca.Question) {
			q.Request.Reason, q.Token.AuthTime = "x", noon.Add(-15*time.Minute-time.Second)
		}, []ca.Need{login}},
		{"an issuer that does not say when", func(q *ca.Question) { q.Request.Reason, q.Token.AuthTime = "x", time.Time{} }, []ca.Need{login}},
		{"a sign-in that lies in the future", func(q *ca.Question) {
			q.Request.Reason, q.Token.AuthTime = "x", noon.Add(time.Hour)
		}, []ca.Need{login}},
		{"a clock that is a minute ahead", func(q *ca.Question) {
			q.Request.Reason, q.Token.AuthTime = "x", noon.Add(time.Minute)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			tt.change(&q)
			d := decide(p, q)
			if diff := cmp.Diff(tt.want, d.Needs); diff != "" {
				t.Error(diff)
			}
			if want := map[bool]ca.Outcome{true: ca.Allow, false: ca.NeedsMore}[tt.want == nil]; d.Outcome != want || d.Rule != "careful" {
				t.Errorf("got outcome %d of rule %q", d.Outcome, d.Rule)
			}
		})
	}
}
