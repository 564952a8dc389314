package policy_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/policy"
)

const testedPolicy = `version: 1
claims:
  contractor: {type: bool, default: false}
  level: {type: int, optional: true}
  name: {type: string}
  teams: {type: strings, optional: true}
limits: {never_logins: [root], keys: [ed25519, sk-ed25519]}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], max_ttl: 2h, authority: prod}
deny:
- name: no-contractors
  when: environment == "prod" && claims.contractor
  message: Production is for employees.
allow:
- name: developers
  when: environment == "staging" && "developers" in identity.groups
  grant: {logins: [deploy, "${claims.name}"], ttl: 4h}
- name: sre
  expires: 2026-12-31
  when: environment == "prod" && "sre" in identity.groups && token.bound
  require: {reason: true, login_within: 15m}
  grant: {logins: [deploy], scope: host, ttl: 4h}
- name: robots
  when: environment == "prod" && identity.kind == "workload" && !token.auth_time.hasValue()
  grant: {logins: [backup], scope: environment, ttl: 10m}
- name: emergency
  when: environment == "prod" && request.break_glass && request.key_type == "sk-ed25519" && request.source_ip == "10.0.0.1"
  grant: {logins: [deploy], ttl: 10m}
- name: leads
  when: claims.level.orValue(0) > 2 && claims.teams.orValue([]).exists(x, x == "db") && token.issued_at == now - duration("30s")
  grant: {logins: [lead], ttl: 1h}
`

// tested compiles testedPolicy beside the file of tests.
func tested(t testing.TB, tests string) (*policy.Policy, *policy.Bundle) {
	t.Helper()
	b := bundle("policy.yaml", testedPolicy, "some_test.yaml", tests)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	return p, b
}

func suite(t testing.TB, p *policy.Policy, b *policy.Bundle) *policy.TestSuite {
	t.Helper()
	s, err := p.ReadTests(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const goodCases = `
cases: # before what they refer to
- name: a developer gets the four hours of the rule
  identity: alice
  expect: {outcome: allow, rule: developers, ttl: 4h, principals: [deploy]}
- name: a developer asks for less
  identity: alice
  request: {ttl: 30m}
  expect: {outcome: allow, ttl: 30m}
- name: a developer asks for more
  identity: alice
  request: {ttl: 5h}
  expect: {outcome: deny, rule: developers, message: for at most 4h}
- name: a claim fills in a login
  identity: {groups: [developers], claims: {name: al}}
  request: {login: al}
  expect: {outcome: allow, principals: [al]}
- name: nobody is root
  identity: alice
  request: {login: root}
  expect: {outcome: deny, message: never_logins}
- name: SREs say why and sign in again
  identity: bob
  request: {host: db1.prod.example.com}
  token: {auth_time: 16m}
  expect: {outcome: needs, rule: sre, needs: [reason, login_within]}
- name: SREs get what the environment allows
  identity: bob
  request: {host: DB1.prod.example.com., reason: disk full}
  expect: {outcome: allow, ttl: 2h, principals: [deploy@db1.prod.example.com]}
- name: a token that names no sign-in is not fresh
  identity: bob
  request: {host: db1.prod.example.com, reason: disk full}
  token: {auth_time: none}
  expect: {outcome: needs, needs: [login_within]}
- name: SREs bring a token that is bound
  identity: bob
  request: {host: db1.prod.example.com}
  token: {bound: false}
  expect: {outcome: deny}
- name: the rule of the SREs ends with the year
  identity: bob
  now: 2027-01-01T00:00:00Z
  request: {host: db1.prod.example.com, rule: sre}
  expect: {outcome: deny, message: expired}
- name: contractors are refused whatever else they are
  identity: carol
  request: {host: db1.prod.example.com}
  expect: {outcome: deny, rule: no-contractors, message: employees}
- name: tokens of workloads are not bound and name no sign-in
  identity: {kind: workload, groups: [sre], subject: "repo:x"}
  request: {host: db1.prod.example.com, login: backup}
  expect: {outcome: allow, rule: robots, principals: [backup@prod]}
- name: what a request describes is what the rule sees
  request: {host: db1.prod.example.com, break_glass: true, key_type: sk-ed25519, source_ip: 10.0.0.1}
  expect: {outcome: allow, rule: emergency}
- name: what a token describes is what the rule sees
  identity: {claims: {level: 3, teams: [web, db]}}
  token: {issued_at: 30s}
  request: {login: lead}
  expect: {outcome: allow, rule: leads}
defaults:
  now: 2026-11-23T12:00:00Z
  request: {login: deploy, host: app1.staging.example.com}
identities:
  alice: {groups: [developers], email: alice@example.com}
  bob: {groups: [sre]}
  carol: {groups: [sre], claims: {contractor: true}}
`

func TestCasesThatPass(t *testing.T) {
	p, b := tested(t, goodCases)
	s := suite(t, p, b)
	report := p.RunTests(context.Background(), s)
	if len(report.Results) != 14 || report.Failed() != 0 {
		t.Errorf("%d results, %d failed", len(report.Results), report.Failed())
	}
	for _, r := range report.Results {
		if r.Failures != nil {
			t.Errorf("%s: %v", r.Case.Name, r.Failures)
		}
	}
	if some := s.Only(regexp.MustCompile("some_test.yaml/nobody")); len(some.Cases) != 1 || some.Cases[0].Name != "nobody is root" {
		t.Errorf("of the one case there are %d", len(some.Cases))
	}
}

// TestTestsAreNoPartOfThePolicy: a case that is added changes no decision, and so no digest.
func TestTestsAreNoPartOfThePolicy(t *testing.T) {
	with, _ := tested(t, goodCases)
	if without := compile(t, testedPolicy); with.Ref() != without.Ref() {
		t.Error("the tests changed the digest")
	}
}

// TestCasesThatFail: each expectation can fail, and says where and why.
func TestCasesThatFail(t *testing.T) {
	for _, tt := range []struct {
		name, expect, want string
	}{
		{"the outcome", "{outcome: deny, rule: sre}", "outcome: got allow, want deny: the rule developers lets you log in as deploy on app1.staging.example.com for 4h"},
		{"the rule", "{outcome: allow, rule: sre}", "rule: got developers, want sre: the rule developers lets you"},
		{"the lifetime", "{outcome: allow, ttl: 1h}", "ttl: got 4h, want 1h"},
		{"the principals", `{outcome: allow, principals: [deploy@staging]}`, "principals: got deploy, want deploy@staging"},
		{"the message", "{outcome: allow, message: nonsense}", `the message has no "nonsense": the rule developers lets`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, b := tested(t, `defaults: {now: 2026-11-23T12:00:00Z}
cases:
- name: one
  identity: {groups: [developers]}
  request: {login: deploy, host: app1.staging.example.com}
  expect: `+tt.expect+"\n")
			result := p.RunTests(context.Background(), suite(t, p, b)).Results[0]
			if len(result.Failures) != 1 {
				t.Fatalf("failures: %v", result.Failures)
			}
			f := result.Failures[0]
			if !strings.HasPrefix(f.Message, tt.want) || f.File != "some_test.yaml" || f.Line != 6 || f.Column < 12 {
				t.Errorf("got %v\nwant %s", f, tt.want)
			}
		})
	}
}

// TestTestFilesRefused: test files are as strict as policies.
func TestTestFilesRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"an unknown section", "case: []\ncases: []", `some_test.yaml:1:1: a test file has no key "case"; did you mean cases?`},
		{"no cases", "defaults: {}", "some_test.yaml:1:1: the file has no cases"},
		{"an unknown key", "cases: [{nam: x}]", `some_test.yaml:1:10: a case has no key "nam"`},
		{"a case of nothing", "cases: [{name: x}]", "the case has no expect\n"},
		{"a case without a time", "cases: [{name: x}]", "the case has no now: write a time"},
		{"a case without a host", "cases: [{name: x}]", "the case has no host"},
		{"a case without a login", "cases: [{name: x}]", "the case has no login"},
		{"a case without a name", "cases: [{}]", "some_test.yaml:1:9: the case has no name"},
		{"two cases of one name", "cases:\n- name: x\n- name: x", "some_test.yaml:3:9: the name of the case is taken: also in line 2"},
		{"an identity that is not there", "identities: {alice: {}}\ncases: [{identity: alcie}]", "some_test.yaml:2:20: no such identity \"alcie\" under identities; did you mean alice?"},
		{"a claim that is not declared", "cases: [{identity: {claims: {contracter: true}}}]", "some_test.yaml:1:30: the policy declares no claim contracter; did you mean contractor?"},
		{"a claim of another type", `cases: [{identity: {claims: {level: "3"}}}]`, "some_test.yaml:1:37: the claim level is a string, and the policy declares it as int"},
		{"a kind that is none", "cases: [{identity: {kind: robot}}]", `kind is person or workload, not "robot"`},
		{"a rule that is not there", "cases: [{expect: {outcome: allow, rule: developer}}]", "some_test.yaml:1:41: the policy has no rule developer; did you mean developers?"},
		{"an outcome that is none", "cases: [{expect: {outcome: yes}}]", "some_test.yaml:1:28: outcome is allow, deny or needs, not"},
		{"no outcome", "cases: [{expect: {}}]", "some_test.yaml:1:18: expect has no outcome"},
		{"a lifetime of a refusal", "cases: [{expect: {outcome: deny, ttl: 1h}}]", "some_test.yaml:1:39: an outcome of deny has no ttl"},
		{"needs of a grant", "cases: [{expect: {outcome: allow, needs: [reason]}}]", "an outcome of allow has no needs"},
		{"a need that is none", "cases: [{expect: {outcome: needs, needs: [luck]}}]", `needs are reason and login_within, not "luck"`},
		{"a time without a zone", "cases: [{now: 2026-11-23T12:00:00}]", "now must be a time such as 2026-11-23T12:00:00Z"},
		{"an age that is none", "cases: [{token: {auth_time: yesterday}}]", "token.auth_time must be an age such as 10m"},
		{"an address that is none", "cases: [{request: {source_ip: here}}]", "source_ip must be an address"},
		{"a type of key that is none", "cases: [{request: {key_type: dsa}}]", `no such type of key "dsa"`},
		{"a type of key that the limits refuse", "cases: [{request: {key_type: rsa}}]", "limits.keys does not allow a key of type rsa"},
		{"an anchor", "cases: &a []", "anchors and aliases are not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, b := tested(t, tt.text)
			_, err := p.ReadTests(b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestPolicyWithoutTests(t *testing.T) {
	b := bundle("policy.yaml", testedPolicy)
	p := compile(t, testedPolicy)
	if n := len(suite(t, p, b).Cases); n != 0 {
		t.Errorf("there are %d cases", n)
	}
}

// BenchmarkTests runs 500 cases, from their text on.
func BenchmarkTests(b *testing.B) {
	var text strings.Builder
	text.WriteString("defaults: {now: 2026-11-23T12:00:00Z}\ncases:\n")
	for i := range 500 {
		fmt.Fprintf(&text, `- name: case %d
  identity: {groups: [developers]}
  request: {login: deploy, host: app%d.staging.example.com}
  expect: {outcome: allow, rule: developers}
`, i, i)
	}
	p, files := tested(b, text.String())
	for b.Loop() {
		s, err := p.ReadTests(files)
		if err != nil {
			b.Fatal(err)
		}
		if n := p.RunTests(context.Background(), s).Failed(); n > 0 {
			b.Fatalf("%d cases failed", n)
		}
	}
}
