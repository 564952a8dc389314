package policy_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hallpass-ssh/hallpass/ca"
)

// world is what the cases below add their rules to.
const world = `
version: 1
claims:
  contractor: {type: bool, default: false}
  level:      {type: int, optional: true}
  unix_name:  {type: string}
  teams:      {type: strings, default: []}
limits: {max_ttl: 8h, never_logins: [root]}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod:    {hosts: ["*.prod.example.com"], max_ttl: 2h, authority: prod}
`

const developers = `
allow:
- name: developers
  when: environment == "staging" && "developers" in identity.groups
  grant: {logins: [deploy, readonly], ttl: 4h}
`

type decisionCase struct {
	name   string
	rules  string
	change func(*ca.Question)
	want   ca.Outcome
	rule   string
	// message is a part of what the caller is told.
	message string
}

func same(*ca.Question) {}

func runDecisions(t *testing.T, cases []decisionCase) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			tt.change(&q)
			p := compile(t, world+tt.rules)
			d := decide(p, q)
			if d.Outcome != tt.want || d.Rule != tt.rule || !strings.Contains(d.Message, tt.message) {
				t.Errorf("got outcome %d, rule %q, message %q\nwant %d, %q, a message with %q", d.Outcome, d.Rule, d.Message, tt.want, tt.rule, tt.message)
			}
			if d.Outcome != ca.Allow && (d.TTL != 0 || len(d.Grant.Logins) > 0) {
				t.Errorf("a decision that does not allow carries a grant: %+v, %s", d.Grant, d.TTL)
			}
			if diff := cmp.Diff(d, p.DecideWithoutIndex(context.Background(), q), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("the index changes the decision: %s", diff)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	runDecisions(t, []decisionCase{
		{"a developer on staging", developers, same, ca.Allow, "developers", "the rule developers lets you log in as deploy on app1.staging.example.com for 4h"},
		{"a policy without rules", "", same, ca.Deny, "", "no rule lets you log in as deploy on app1.staging.example.com; there are no rules for staging"},
		{"a developer on prod", developers, func(q *ca.Question) { q.Request.Host = "db1.prod.example.com" }, ca.Deny, "", "there are no rules for prod"},
		{"somebody without the group", developers, func(q *ca.Question) { q.Identity.Groups = nil }, ca.Deny, "", "rules for staging: developers"},
		{"another login", developers, func(q *ca.Question) { q.Request.Login = "admin" }, ca.Deny, "",
			"no rule lets you log in as admin on app1.staging.example.com; you may log in there as deploy (rule developers), readonly (rule developers)"},
		{"a login that is never granted", developers, func(q *ca.Question) { q.Request.Login = "root" }, ca.Deny, "", "never_logins"},
		{"a login that is none", developers, func(q *ca.Question) { q.Request.Login = "deploy,root" }, ca.Deny, "", "is not a login"},
		{"no login", developers, func(q *ca.Question) { q.Request.Login = "" }, ca.Deny, "", "is not a login"},
		{"a host in capitals with a trailing dot", developers, func(q *ca.Question) { q.Request.Host = "App1.Staging.Example.COM." }, ca.Allow, "developers", ""},
		{"an unknown host", developers, func(q *ca.Question) { q.Request.Host = "app1.stagng.example.com" }, ca.Deny, "",
			"no environment has the host app1.stagng.example.com; the nearest is staging (*.staging.example.com)"},
		{"a short host name", developers, func(q *ca.Question) { q.Request.Host = "db1" }, ca.Deny, "", "use the full name of the host"},
		{"a host name that would break a principal", developers, func(q *ca.Question) { q.Request.Host = "a,b.staging.example.com" }, ca.Deny, "", "is not a host name"},
		{"no host", developers, func(q *ca.Question) { q.Request.Host = "" }, ca.Deny, "", "is not a host name"},
		{"a claim of a type that is not declared", developers, func(q *ca.Question) { q.Identity.Claims["contractor"] = "no" }, ca.Deny, "", "claim contractor"},
		{"a negative lifetime", developers, func(q *ca.Question) { q.Request.TTL = -time.Hour }, ca.Deny, "", "negative"},
	})
}

func TestDenyRules(t *testing.T) {
	runDecisions(t, []decisionCase{
		{"a deny rule that is true wins", developers + `
deny:
- {name: freeze, when: environment == "staging" && !request.break_glass, message: Frozen until Monday.}
`, same, ca.Deny, "freeze", "the rule freeze forbids you to log in as deploy on app1.staging.example.com: Frozen until Monday."},
		{"a deny rule that is false", developers + `
deny:
- {name: freeze, when: environment == "prod"}
`, same, ca.Allow, "developers", ""},
		{"a way out of a freeze", developers + `
deny:
- {name: freeze, when: environment == "staging" && !request.break_glass}
`, func(q *ca.Question) { q.Request.BreakGlass = true }, ca.Allow, "developers", ""},
		{"a deny rule that fails, refuses", developers + `
deny:
- {name: low, when: claims.level.value() < 3}
`, same, ca.Deny, "low", "the deny rule low could not be evaluated, and so refuses"},
		{"a deny rule that divides by zero", developers + `
deny:
- {name: zero, when: 1 / size(claims.teams) == 1}
`, same, ca.Deny, "zero", "division by zero"},
		{"a failure that does not matter", developers + `
deny:
- {name: zero, when: 1 / size(claims.teams) == 1 && environment == "prod"}
`, same, ca.Allow, "developers", ""},
		{"one that is true is named before one that fails", developers + `
deny:
- {name: a-fails, when: 1 / size(claims.teams) == 1}
- {name: b-is-true, when: true}
`, same, ca.Deny, "b-is-true", "forbids"},
		{"a claim with a default", developers + `
deny:
- {name: contractors, when: claims.contractor}
`, same, ca.Allow, "developers", ""},
		{"a claim that is there", developers + `
deny:
- {name: contractors, when: claims.contractor}
`, func(q *ca.Question) { q.Identity.Claims["contractor"] = true }, ca.Deny, "contractors", ""},
		{"a source address that is not known", developers + `
deny:
- {name: elsewhere, when: '!cidr("192.0.2.0/24").containsIP(request.source_ip)'}
`, func(q *ca.Question) { q.Request.SourceIP = netip.Addr{} }, ca.Deny, "elsewhere", "there is no request.source_ip"},
		{"a source address inside IPv6", developers + `
deny:
- {name: elsewhere, when: '!cidr("192.0.2.0/24").containsIP(request.source_ip)'}
`, func(q *ca.Question) { q.Request.SourceIP = netip.MustParseAddr("::ffff:192.0.2.7") }, ca.Allow, "developers", ""},
	})
}

func TestAHostWithTheNameOfAnEnvironment(t *testing.T) {
	p := compile(t, `
version: 1
environments:
  lab: {hosts: ["lab?", "pro?"]}
  prod: {hosts: ["*.prod.example.com"]}
allow:
- name: lab
  when: environment == "lab"
  grant: {logins: [deploy], scope: host, ttl: 1h}
`)
	q := question(t)
	for host, outcome := range map[string]ca.Outcome{"prod": ca.Deny, "PROD.": ca.Deny, "lab1": ca.Allow, "proc": ca.Allow} {
		q.Request.Host = host
		if d := decide(p, q); d.Outcome != outcome || outcome == ca.Deny && !strings.Contains(d.Message, "name of an environment") {
			t.Errorf("%s: got %v, %s", host, d.Outcome, d.Message)
		}
	}
}

func TestAllowRulesThatFail(t *testing.T) {
	runDecisions(t, []decisionCase{
		{"a claim that the token lacks", `
allow:
- {name: by-claim, when: claims.unix_name == "x", grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Deny, "", "could not be evaluated: by-claim (the token has no claim unix_name)"},
		{"another rule still applies", developers + `
- {name: by-claim, when: claims.unix_name == "x", grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Allow, "developers", ""},
		{"true or a failure is true", `
allow:
- {name: either, when: claims.unix_name == "x" || environment == "staging", grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Allow, "either", ""},
		{"false and a failure is false", `
allow:
- {name: both, when: claims.unix_name == "x" && environment == "prod", grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Deny, "", "there are no rules for staging"},
		{"a claim that would write lines of the log", `
allow:
- {name: by-claim, when: '{"x": true}[claims.unix_name]', grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Identity.Claims["unix_name"] = "x\ngranted\x1b[2J\u202e" }, ca.Deny, "", "no such key: x?granted?[2J?)"},
		{"an optional claim that is absent", `
allow:
- {name: level, when: claims.level.orValue(0) < 3 && !claims.level.hasValue(), grant: {logins: [deploy], ttl: 1h}}
`, same, ca.Allow, "level", ""},
		{"an optional claim that is there", `
allow:
- {name: level, when: claims.level.orValue(0) == 3, grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Identity.Claims["level"] = int64(3) }, ca.Allow, "level", ""},
		{"an email that is not known", `
allow:
- {name: mail, when: identity.email.value().endsWith("@example.com"), grant: {logins: [deploy], ttl: 1h}}
`, func(q *ca.Question) { q.Identity.Email = "" }, ca.Deny, "", "could not be evaluated: mail"},
	})
}

func TestLogins(t *testing.T) {
	const named = `
allow:
- {name: own, when: environment == "staging", grant: {logins: [readonly, "${claims.unix_name}", "u-${identity.subject}"], ttl: 1h}}
`
	runDecisions(t, []decisionCase{
		{"a login from a claim", named, func(q *ca.Question) { q.Identity.Claims["unix_name"], q.Request.Login = "al", "al" }, ca.Allow, "own", ""},
		{"a login from a claim and text", named, func(q *ca.Question) { q.Request.Login = "u-alice" }, ca.Allow, "own", ""},
		{"a plain login beside one that fails", named, func(q *ca.Question) { q.Request.Login = "readonly" }, ca.Allow, "own", ""},
		{"a claim that the token lacks", named, func(q *ca.Question) { q.Request.Login = "al" }, ca.Deny, "", "could not be evaluated: own (the token has no claim unix_name)"},
		{"a claim that is no login", named, func(q *ca.Question) { q.Identity.Claims["unix_name"], q.Request.Login = "root,deploy", "deploy" }, ca.Deny, "", `logins gave "root,deploy"`},
		{"a claim that names a login nobody may have", named, func(q *ca.Question) { q.Identity.Claims["unix_name"], q.Request.Login = "root", "root" }, ca.Deny, "", "never_logins"},
		{"a dollar sign", `
allow:
- {name: odd, when: environment == "staging", grant: {logins: ["${'a' + '}'.replace('}', 'b')}"], ttl: 1h}}
`, func(q *ca.Question) { q.Request.Login = "ab" }, ca.Allow, "odd", ""},
	})
}

func TestLifetimes(t *testing.T) {
	const long = `
allow:
- {name: long, when: environment == "staging", grant: {logins: [deploy], ttl: 12h}}
- {name: short, when: environment == "staging" && claims.contractor, grant: {logins: [deploy], ttl: 1h}}
- {name: on-prod, when: environment == "prod", grant: {logins: [deploy], ttl: 12h}}
`
	for _, tt := range []struct {
		name   string
		host   string
		asked  time.Duration
		want   time.Duration // zero for a refusal
		phrase string
	}{
		{"none asked gives the limit of the policy", "a.staging.example.com", 0, 8 * time.Hour, ""},
		{"none asked gives the limit of the environment", "a.prod.example.com", 0, 2 * time.Hour, ""},
		{"less is asked", "a.prod.example.com", time.Minute, time.Minute, ""},
		{"just the limit is asked", "a.prod.example.com", 2 * time.Hour, 2 * time.Hour, ""},
		{"a second more than the limit", "a.prod.example.com", 2*time.Hour + time.Second, 0,
			"you may log in as deploy on a.prod.example.com for at most 2h (rule on-prod), not 2h0m1s"},
		{"more than the rule would give, but the policy does not", "a.staging.example.com", 9 * time.Hour, 0, "for at most 8h (rule long), not 9h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			q.Request.Host, q.Request.TTL = tt.host, tt.asked
			d := decide(compile(t, world+long), q)
			if got := d.Outcome == ca.Allow; got != (tt.want > 0) || d.TTL != tt.want || !strings.Contains(d.Message, tt.phrase) {
				t.Errorf("got %d, %s, %q", d.Outcome, d.TTL, d.Message)
			}
		})
	}
}

func TestExpires(t *testing.T) {
	p := compile(t, world+`
allow:
- {name: dated, expires: 2026-11-23, when: environment == "staging", grant: {logins: [deploy], ttl: 1h}}
`)
	for _, tt := range []struct {
		name string
		now  time.Time
		want ca.Outcome
	}{
		{"the last second of the day", time.Date(2026, 11, 23, 23, 59, 59, 999, time.UTC), ca.Allow},
		{"the next day", time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), ca.Deny},
		{"the next day in UTC, the same elsewhere", time.Date(2026, 11, 23, 23, 0, 0, 0, time.FixedZone("", -2*3600)), ca.Deny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			q.Now = tt.now
			if d := decide(p, q); d.Outcome != tt.want {
				t.Errorf("got %d: %s", d.Outcome, d.Message)
			}
		})
	}
}

func TestGrantIsWhatTheRuleSays(t *testing.T) {
	p := compile(t, world+`
allow:
- name: full
  when: environment == "prod" && request.key_type in ["sk-ed25519", "sk-ecdsa"]
  grant:
    logins: [deploy, readonly]
    scope: host
    ttl: 90m
    force_command: /usr/bin/psql
    source_address: [10.0.0.0/8, "2001:db8::/32", "${request.source_ip}"]
    verify_required: true
    extensions: [permit-port-forwarding]
- {name: plain, when: environment == "staging", grant: {logins: [deploy], ttl: 1h}}
- {name: bare, when: environment == "staging", grant: {logins: [bare], ttl: 1h, scope: environment, extensions: []}}
`)
	q := question(t)
	q.Request.Host, q.Request.PublicKey = "db1.prod.example.com", skKey(t)
	want := ca.Decision{
		Outcome: ca.Allow, Rule: "full", TTL: 90 * time.Minute,
		Environment: ca.Environment{Name: "prod", MaxTTL: 2 * time.Hour, Authority: "prod"},
		Grant: ca.Grant{
			Logins: []string{"deploy", "readonly"}, Scope: ca.ScopeHost, TTL: 90 * time.Minute, ForceCommand: "/usr/bin/psql",
			SourceAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.7/32")},
			VerifyRequired:  true, Extensions: []ca.Extension{ca.PermitPortForwarding},
		},
		Limits: ca.Limits{
			MaxTTL: 8 * time.Hour, NeverLogins: []string{"root"},
			Keys: []ca.KeyRule{{Type: "ed25519"}, {Type: "sk-ed25519"}, {Type: "ecdsa"}, {Type: "sk-ecdsa"}, {Type: "rsa", MinBits: 3072}},
		},
	}
	ignoreMessage := cmpopts.IgnoreFields(ca.Decision{}, "Message")
	if diff := cmp.Diff(want, decide(p, q), ignoreMessage, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}

	q.Request.PublicKey = ed25519Key(t)
	if d := decide(p, q); d.Outcome != ca.Deny {
		t.Errorf("a key that is no sk key: %+v", d)
	}
	q.Request.Host = "app1.staging.example.com"
	if d := decide(p, q); d.Grant.Scope != ca.ScopeAny || cmp.Diff([]ca.Extension{ca.PermitPTY}, d.Grant.Extensions) != "" {
		t.Errorf("the defaults of a grant: %+v", d.Grant)
	}
	q.Request.Login = "bare"
	if d := decide(p, q); d.Outcome != ca.Allow || d.Grant.Scope != ca.ScopeEnvironment || len(d.Grant.Extensions) != 0 {
		t.Errorf("a grant without extensions: %+v", d)
	}
}

func TestSourceAddressThatFailsGrantsNothing(t *testing.T) {
	p := compile(t, world+`
allow:
- {name: pinned, when: environment == "staging", grant: {logins: [deploy], ttl: 1h, source_address: [10.0.0.0/8, "${request.source_ip}/24"]}}
`)
	q := question(t)
	d := decide(p, q)
	if d.Outcome != ca.Deny || len(d.Failed) != 1 || !strings.Contains(d.Failed[0].Message, "192.0.2.7/24 has bits set behind the mask") {
		t.Errorf("got %+v", d)
	}
	q.Request.SourceIP = netip.Addr{}
	if d := decide(p, q); d.Outcome != ca.Deny || len(d.Failed) != 1 {
		t.Errorf("without an address: %+v", d)
	}
}

func TestTimeRunsOut(t *testing.T) {
	p := compile(t, world+developers+`
deny:
- {name: never, when: environment == "staging" && claims.contractor}
`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := p.Decide(ctx, question(t))
	if d.Outcome != ca.Deny || d.Rule != "never" || !strings.Contains(d.Message, "no answer within") {
		t.Errorf("got %+v", d)
	}
}

func TestCostIsHeldAtRunTime(t *testing.T) {
	p := compile(t, world+`
allow:
- {name: loop, when: 'identity.groups.exists(g, g.contains("zz"))', grant: {logins: [deploy], ttl: 1h, scope: host}}
`)
	q := question(t)
	q.Identity.Groups = nil
	for range 1000 { // far longer than the estimate assumed
		q.Identity.Groups = append(q.Identity.Groups, strings.Repeat("x", 100_000))
	}
	d := decide(p, q)
	if d.Outcome != ca.Deny || len(d.Failed) != 1 || !strings.Contains(d.Failed[0].Message, "costs more than") {
		t.Errorf("got %+v", d)
	}
}
