package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// reviewed is a policy with these review rules.
func reviewed(rules string) string {
	return `version: 1
claims:
  level: {type: int, optional: true}
  unix_name: {type: string}
environments:
  staging: {hosts: ["*.staging.example.com"]}
lists:
  oncall: {url: "https://example.com/oncall", max_age: 1h}
vars:
  named: claims.unix_name == "alice"
  urgent: request.break_glass
allow:
- name: developers
  when: '"developers" in identity.groups'
  grant: {logins: [deploy, root], ttl: 2h}
review:
` + rules
}

// names are the review rules that ask, those that failed with a question mark.
func names(r ca.Review) []string {
	out := []string{}
	for _, rule := range r.Rules {
		if rule.Failed != "" {
			rule.Name += "?"
		}
		out = append(out, rule.Name)
	}
	return out
}

func TestReview(t *testing.T) {
	no := ca.Errorf(ca.Denied, "no")
	ago := func(ages ...time.Duration) (all []time.Time) {
		for _, age := range ages {
			all = append(all, noon.Add(-age))
		}
		return all
	}
	for _, tt := range []struct {
		name   string
		when   string
		change func(*ca.Settled)
		asks   bool
	}{
		{"a grant", `decision.outcome == "granted"`, func(*ca.Settled) {}, true},
		{"a refusal is no grant", `decision.outcome == "granted"`, func(s *ca.Settled) { s.Refusal = no }, false},
		{"a refusal", `decision.outcome == "denied"`, func(s *ca.Settled) { s.Refusal = no }, true},
		{"the words are those of the log", `decision.outcome == "not_found"`, func(s *ca.Settled) { s.Refusal = ca.Errorf(ca.NotFound, "x") }, true},
		{"a login", `request.login == "root"`, func(s *ca.Settled) { s.Request.Login = "root" }, true},
		{"another login", `request.login == "root"`, func(*ca.Settled) {}, false},
		{"an emergency, by way of vars", `vars.urgent`, func(s *ca.Settled) { s.Request.BreakGlass = true }, true},
		{"a rule", `decision.rule == "developers"`, func(*ca.Settled) {}, true},
		{"no rule", `decision.rule == ""`, func(s *ca.Settled) { s.Decision.Rule = "" }, true},
		{"an environment", `environment == "staging"`, func(*ca.Settled) {}, true},
		{"the first use", `decision.first_use`, func(s *ca.Settled) { s.History.FirstUse = new(true) }, true},
		{"a later use", `decision.first_use`, func(s *ca.Settled) { s.History.FirstUse = new(false) }, false},
		{"a refusal is no use", `decision.first_use`, func(s *ca.Settled) { s.Refusal = no }, false},
		{"a refusal counts itself", `decision.refusals == 1`, func(s *ca.Settled) { s.Refusal = no }, true},
		{"a grant does not", `decision.refusals == 0`, func(*ca.Settled) {}, true},
		{"those within an hour", `decision.refusals == 3`, func(s *ca.Settled) {
			s.Refusal, s.History.Refused = no, ago(2*time.Hour, time.Hour, time.Hour-time.Second, 0)
		}, true},
		{"many are 32", `decision.refusals == 32`, func(s *ca.Settled) {
			s.Refusal, s.History.Refused = no, slices.Repeat(ago(time.Minute), 32)
		}, true},
		{"a claim that is not there", `claims.level.orValue(0) > 2`, func(*ca.Settled) {}, false},
		{"a list that is not at hand asks", `identity.email.orValue("") in lists.oncall`, func(*ca.Settled) {}, true},
		{"unless it does not matter", `request.break_glass && identity.email.orValue("") in lists.oncall`, func(*ca.Settled) {}, false},
		{"what fails asks", `int(request.reason) > 0`, func(s *ca.Settled) { s.Request.Reason = "no number" }, true},
		{"of a request that was not read nothing is known", `request.login + request.host + request.source_ip + request.key_type + environment == ""`, func(s *ca.Settled) {
			s.Request, s.Decision, s.Refusal = ca.Request{}, ca.Decision{}, no
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, reviewed(fmt.Sprintf("- {name: look, when: '%s', within: 3d, message: Look at it.}", tt.when)))
			q := question(t)
			s := ca.Settled{Question: q, Decision: decide(p, q)}
			tt.change(&s)
			got := p.Review(t.Context(), s)
			if asks := len(got.Rules) == 1; asks != tt.asks {
				t.Fatalf("asks: %t, want %t: %+v", asks, tt.asks, got)
			}
			if tt.asks && (!got.Due.Equal(noon.Add(72*time.Hour)) || got.Rules[0].Message != "Look at it.") || !tt.asks && !got.Due.IsZero() {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestReviewRulesTogether(t *testing.T) {
	p := compile(t, reviewed(`- {name: weekly, when: 'true'}
- {name: broken, when: 'int(request.reason) > 0', within: 30d}
- {name: daily, when: 'true', within: 24h}
- {name: never, when: 'false', within: 1s}
`))
	q := question(t)
	got := p.Review(t.Context(), ca.Settled{Question: q, Decision: decide(p, q)})
	if want := []string{"broken?", "daily", "weekly"}; !slices.Equal(names(got), want) || !got.Due.Equal(noon.Add(24*time.Hour)) {
		t.Errorf("got %v, due %s; want %v within a day", names(got), got.Due, want)
	}
	if wants, any := p.Reviews(); !any || wants != (ca.Wants{}) {
		t.Errorf("they want %+v", wants)
	}
	p = compile(t, reviewed("- {name: first, when: decision.first_use}\n- {name: burst, when: decision.refusals > 5}\n"))
	if wants, any := p.Reviews(); !any || wants != (ca.Wants{FirstUse: true, Refusals: true}) {
		t.Errorf("they want %+v", wants)
	}
	if got := compile(t, policyWithLists).Review(t.Context(), ca.Settled{Question: q}); len(got.Rules) != 0 {
		t.Errorf("a policy without review rules asks: %+v", got)
	}
}

// policyWithLists is one without review rules.
const policyWithLists = "version: 1\nenvironments:\n  staging: {hosts: [\"*.staging.example.com\"]}\n"

// TestReproduceReview holds recorded reviews against the policy.
func TestReproduceReview(t *testing.T) {
	p := compile(t, reviewed("- {name: first, when: decision.first_use}\n- {name: grants, when: decision.outcome == \"granted\", message: Look.}\n"))
	q := question(t)
	d := decide(p, q)
	honest := func() *ca.Recorded {
		r := p.Review(t.Context(), ca.Settled{Question: q, Decision: d, History: ca.History{FirstUse: new(true)}})
		return &ca.Recorded{Decision: d, Policy: p.Ref(), Review: &r}
	}
	for name, tt := range map[string]struct {
		lie  func(*ca.Recorded)
		what string
	}{
		"as it was":           {func(*ca.Recorded) {}, ""},
		"a rule is left out":  {func(r *ca.Recorded) { r.Review.Rules = r.Review.Rules[1:] }, "review"},
		"all are left out":    {func(r *ca.Recorded) { r.Review = nil }, "history review"},
		"a rule is made up":   {func(r *ca.Recorded) { r.Review.Rules[0].Name = "other" }, "review"},
		"a message is other":  {func(r *ca.Recorded) { r.Review.Rules[1].Message = "Do not look." }, "review"},
		"it is due later":     {func(r *ca.Recorded) { r.Review.Due = r.Review.Due.Add(time.Hour) }, "due"},
		"the past is unknown": {func(r *ca.Recorded) { r.Review.History.FirstUse = nil }, "history review"},
		"the past is other":   {func(r *ca.Recorded) { r.Review.History.FirstUse = new(false) }, "review"},
	} {
		was := honest()
		tt.lie(was)
		var got []string
		for _, d := range p.ReproduceReview(t.Context(), q, was) {
			got = append(got, d.What)
		}
		if strings.Join(got, " ") != tt.what {
			t.Errorf("%s: differences in %q, want %q", name, got, tt.what)
		}
	}
}

func TestReviewInTestsOfAPolicy(t *testing.T) {
	b := bundle("policy.yaml", reviewed("- {name: first, when: decision.first_use}\n- {name: burst, when: decision.refusals >= 5}\n"), "a_test.yaml", `defaults:
  now: 2026-11-23T12:00:00Z
  request: {login: deploy, host: app1.staging.example.com}
  identity: {groups: [developers]}
cases:
- name: first use
  history: {first_use: true}
  expect: {outcome: allow, review: [first]}
- name: later use
  expect: {outcome: allow, review: []}
- name: burst
  identity: {groups: []}
  history: {refused: 4}
  expect: {outcome: deny, review: [burst]}
- name: wrong
  expect: {outcome: allow, review: [burst, first]}
`)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	suite, err := p.ReadTests(b)
	if err != nil {
		t.Fatal(err)
	}
	report := p.RunTests(t.Context(), suite)
	for _, r := range report.Results {
		wrong := r.Case.Name == "wrong"
		if (len(r.Failures) > 0) != wrong || wrong && !strings.Contains(r.Failures.Error(), "review: got none, want burst, first") {
			t.Errorf("%s: %v", r.Case.Name, r.Failures)
		}
	}
	for name, text := range map[string]string{
		"no review rule frist; did you mean first?": "review: [frist]}",
		"history.refused is 0 to 32 refusals":       "review: []}\n  history: {refused: 33}",
	} {
		b.Files["a_test.yaml"] = []byte("cases:\n- name: x\n  now: 2026-11-23T12:00:00Z\n  request: {login: deploy, host: h}\n  expect: {outcome: deny, " + text + "\n")
		if _, err := p.ReadTests(b); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one with %q", err, name)
		}
	}
}

func TestReviewInDifferences(t *testing.T) {
	for _, tt := range []struct{ before, after, want string }{
		{"- {name: look, when: 'true'}", "- {within: 7d, when: true, name: look}", ""},
		{"- {name: look, when: 'true'}", "- {name: look, when: 'true', within: 36h, message: Look.}", "review rule look: within 7d -> 36h; review rule look: message added Look."},
		{"- {name: look, when: request.break_glass}", "- {name: look, when: 'request.break_glass && decision.outcome == \"granted\"'}",
			`review rule look: when added decision.outcome == "granted"`},
		{"- {name: look, when: 'true'}", "- {name: see, when: 'true', owner: us}", "review rule look: removed; review rule see: added"},
	} {
		changes, err := policy.Diff(compile(t, reviewed(tt.before)), compile(t, reviewed(tt.after)))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, c.String())
		}
		if strings.Join(got, "; ") != tt.want {
			t.Errorf("from %s to %s: %q, want %q", tt.before, tt.after, got, tt.want)
		}
	}
}

func TestReviewInWarningsAndCoverage(t *testing.T) {
	b := bundle("policy.yaml", "version: 1\nclaims:\n  level: {type: int, default: 0}\nenvironments:\n  staging: {hosts: [\"*.staging.example.com\"]}\n"+
		"review:\n- name: look\n  when: claims.level > 3 && decision.refusals > 2\n", "a_test.yaml", `cases:
- name: refused thrice
  now: 2026-11-23T12:00:00Z
  request: {login: deploy, host: app1.staging.example.com}
  identity: {claims: {level: 4}}
  history: {refused: 2}
  expect: {outcome: deny, review: [look]}
`)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.ReadTests(b)
	if err != nil {
		t.Fatal(err)
	}
	found, err := p.Warnings(t.Context(), noon, s)
	if err != nil || len(found) != 1 || found[0].Name != "no-owner" || found[0].Line != 7 {
		t.Errorf("warnings %v, error %v; want that nobody answers for the rule in line 7", found, err)
	}
	c, err := p.Cover(t.Context(), s)
	if err != nil || c.Total != 6 || c.Covered != 3 {
		t.Errorf("coverage %+v, error %v; want 3 of 6", c, err)
	}
	text := []byte("review:\n- message: Look.\n  within: 1d\n  when: decision.first_use # why\n  owner: us\n  name: look\n")
	want := "review:\n- name: look\n  owner: us\n  when: decision.first_use # why\n  within: 1d\n  message: Look.\n"
	if got, err := policy.Format("policy.yaml", text); err != nil || string(got) != want {
		t.Errorf("formatted:\n%s\nerror %v, want:\n%s", got, err, want)
	}
}
