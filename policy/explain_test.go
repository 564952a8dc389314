package policy_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// TestExplainAgreesWithDecide: the answer is that of Decide, and the rules and conditions shown are what it follows from.
func TestExplainAgreesWithDecide(t *testing.T) {
	questions := questions(ed25519Key(t))
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, q := mustCompile(t, policies.Draw(t, "policy")), questions.Draw(t, "question")
		d, x := p.Decide(context.Background(), q), p.Explain(context.Background(), q)
		if diff := cmp.Diff(d, x.Decision, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatal(diff)
		}
		shown := map[string]policy.ExplainedRule{}
		for _, r := range x.Rules {
			shown[r.Name] = r
			checkResult(t, r)
		}
		r, ok := shown[d.Rule]
		tooLong := d.Outcome == ca.Deny && r.Kind == "allow"
		switch {
		case d.Rule == "":
		case !ok:
			t.Fatalf("the rule %s decided and is not shown:\n%s", d.Rule, x.Text(100))
		case d.Outcome == ca.Allow && r.Result != policy.True,
			d.Outcome == ca.Deny && r.Kind == "deny" && r.Result == policy.False,
			d.Outcome == ca.NeedsMore && !onlyFalse(r, "require"),
			tooLong && (!onlyTrue(r, "ttl", "require") || onlyTrue(r, "require")):
			t.Fatalf("%s\n%s", d.Message, x.Text(100))
		}
		if d.Outcome != ca.Allow && d.Environment.Name != "" && q.Request.Rule == "" {
			for _, r := range x.Rules {
				if r.Kind == "allow" && r.Result == policy.True && x.Rules[0].Kind != "deny" {
					t.Fatalf("no, and yet a rule that gives it:\n%s", x.Text(100))
				}
			}
		}
		for _, failed := range d.Failed {
			if r, ok := shown[failed.Rule]; ok && r.Result != policy.Failed {
				t.Fatalf("the rule %s failed and is shown as %s:\n%s", failed.Rule, r.Result, x.Text(100))
			}
		}
		checkText(t, x)
	})
}

// checkResult holds what is said of a rule against its conditions: a part that is false makes the condition false, else one
// that fails makes it fail; it is never true then.
func checkResult(t *rapid.T, r policy.ExplainedRule) {
	want := policy.True
	for _, c := range r.Conditions {
		if (c.Result == policy.Failed) != (c.Error != "") {
			t.Fatalf("%s: %+v", r.Name, c)
		}
		if c.Part == "when" && (c.Result == policy.False || c.Result == policy.Failed && want == policy.True) {
			want = c.Result
		}
	}
	if slices.ContainsFunc(r.Conditions, func(c policy.Condition) bool { return c.Part == "expires" && c.Result == policy.False }) {
		if r.Result == policy.True { // decisions do not ask it
			t.Fatalf("%s has ended and is shown as %s", r.Name, r.Result)
		}
		return
	}
	if want == policy.True && r.Kind == "allow" {
		if (r.Result == policy.True) != onlyTrue(r) {
			t.Fatalf("%s is shown as %s: %+v", r.Name, r.Result, r.Conditions)
		}
		return
	}
	if r.Result != want {
		t.Fatalf("%s is shown as %s, its conditions give %s: %+v", r.Name, r.Result, want, r.Conditions)
	}
}

// onlyTrue says whether all conditions are true, but for those of some parts.
func onlyTrue(r policy.ExplainedRule, but ...string) bool {
	for _, c := range r.Conditions {
		if !slices.Contains(but, c.Part) && c.Result != policy.True {
			return false
		}
	}
	return true
}

// onlyFalse says whether the conditions of one part, and no others, are false.
func onlyFalse(r policy.ExplainedRule, part string) bool { return onlyTrue(r, part) && !onlyTrue(r) }

// checkText holds the forms of an explanation to their bounds.
func checkText(t *rapid.T, x policy.Explanation) {
	if _, err := json.Marshal(x); err != nil {
		t.Fatal(err)
	}
	missing := len(x.Missing) > 0
	if x.Outcome == "" || x.Message == "" || x.Next == "" || len(x.Rules) > 0 && missing != (x.Decision.Outcome != ca.Allow) {
		t.Fatalf("something is left unsaid: %+v", x)
	}
	for _, r := range x.Rules {
		for _, c := range r.Conditions {
			for _, s := range []string{c.Text, c.Error} {
				if utf8.RuneCountInString(s) > 100 {
					t.Fatalf("%d runes: %s", utf8.RuneCountInString(s), s)
				}
			}
			for _, v := range c.Values {
				if utf8.RuneCountInString(v.Value) > 100 {
					t.Fatalf("%d runes: %s", utf8.RuneCountInString(v.Value), v.Value)
				}
			}
		}
	}
	for line := range strings.Lines(x.Text(50)) {
		line = strings.TrimSuffix(line, "\n")
		unprintable := strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) })
		if unprintable || utf8.RuneCountInString(line) > 50 && strings.Contains(strings.TrimSpace(line), " ") {
			t.Fatalf("the line %q of\n%s", line, x.Text(50))
		}
	}
	if n := strings.Count(x.Text(100), "\n"); n > 60 {
		t.Fatalf("%d lines are no screen:\n%s", n, x.Text(100))
	}
}
