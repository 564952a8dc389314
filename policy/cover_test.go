package policy_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/policy"
)

func cover(t testing.TB, p *policy.Policy, b *policy.Bundle) policy.Coverage {
	t.Helper()
	c, err := p.Cover(context.Background(), suite(t, p, b))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCoverage(t *testing.T) {
	const rules = `version: 1
environments:
  prod: {hosts: ["*.prod"]}
  lab: {hosts: ["*.lab"], authority: lab}
deny:
- name: frozen
  when: request.break_glass
allow:
- name: sre
  when: >-
    environment == "prod" &&
    "sre" in identity.groups &&
    token.bound
  grant: {logins: [deploy], ttl: 1h}
- name: everybody
  when: "true"
  grant: {logins: [guest], ttl: 1h}
`
	const header = "defaults: {now: 2026-11-23T12:00:00Z, request: {login: deploy, host: a.prod}}\ncases:\n"
	const sre = "- {name: an SRE, identity: {groups: [sre]}, expect: {outcome: allow}}\n"
	const unbound = "- {name: one whose token is not bound, identity: {groups: [sre]}, token: {bound: false}, expect: {outcome: deny}}\n"
	const other = "- {name: one who is none, token: {bound: false}, expect: {outcome: deny}}\n"
	const frozen = "- {name: an SRE in a freeze, identity: {groups: [sre]}, request: {break_glass: true}, expect: {outcome: deny}}\n"
	for _, tt := range []struct {
		name, cases string
		want        []string
		total       int
	}{
		{"a case that all conditions let through", sre, []string{
			"policy.yaml:6:3: frozen: no case makes the rule true",
			"policy.yaml:9:3: sre: no case makes the rule false",
			`policy.yaml:11:5: sre: no case makes environment == "prod" false`,
			`policy.yaml:12:5: sre: no case makes "sre" in identity.groups false`,
			"policy.yaml:13:5: sre: no case makes token.bound false",
		}, 11},
		{"what stands behind a condition that is false did not decide", other, []string{
			"policy.yaml:6:3: frozen: no case makes the rule true",
			"policy.yaml:9:3: sre: no case makes the rule true",
			`policy.yaml:11:5: sre: no case makes environment == "prod" false`,
			`policy.yaml:12:5: sre: no case makes "sre" in identity.groups true`,
			"policy.yaml:13:5: sre: no case makes token.bound true",
			"policy.yaml:13:5: sre: no case makes token.bound false",
		}, 11},
		{"a case for each", sre + unbound + other + frozen, []string{
			`policy.yaml:11:5: sre: no case makes environment == "prod" false`,
		}, 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bundle("policy.yaml", rules, "a_test.yaml", header+tt.cases)
			p, err := policy.Compile(b)
			if err != nil {
				t.Fatal(err)
			}
			c := cover(t, p, b)
			var got []string
			for _, u := range c.Missing {
				got = append(got, u.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if c.Total != tt.total || c.Covered != tt.total-len(tt.want) {
				t.Errorf("%d of %d covered", c.Covered, c.Total)
			}
		})
	}
}

// TestCoverageOfOneEnvironment: that a host is elsewhere cannot be tried.
func TestCoverageOfOneEnvironment(t *testing.T) {
	b := bundle("policy.yaml", `version: 1
environments: {prod: {hosts: ["*.prod"]}}
allow: [{name: sre, when: 'environment == "prod" && token.bound', grant: {logins: [deploy], ttl: 1h}}]
`, "a_test.yaml", `
defaults: {now: 2026-11-23T12:00:00Z, request: {login: deploy, host: a.prod}}
cases:
- {name: bound, expect: {outcome: allow}}
- {name: not bound, token: {bound: false}, expect: {outcome: deny}}
`)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	if c := cover(t, p, b); c.Percent() != 100 || c.Total != 5 {
		t.Errorf("%v %% of %d: %v", c.Percent(), c.Total, c.Missing)
	}
}

func TestCoverageOfNoRules(t *testing.T) {
	if c := cover(t, compile(t, "version: 1"), bundle()); c.Percent() != 100 {
		t.Errorf("%v %%", c.Percent())
	}
}

func TestSplitAnd(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"one condition", ` a == "b" `, []string{`a == "b"`}},
		{"two", `a && b`, []string{"a", "b"}},
		{"brackets hold together", `(a && b) && [c && d][0] && f({"x": e && g})`, []string{"(a && b)", "[c && d][0]", `f({"x": e && g})`}},
		{"|| holds all together", `a && b || c`, []string{"a && b || c"}},
		{"|| in brackets does not", `a && (b || c)`, []string{"a", "(b || c)"}},
		{"?: holds all together", `a && b ? c : d`, []string{"a && b ? c : d"}},
		{"an optional selection does not", `a.?b.orValue(c) && d[?e].orValue(f)`, []string{"a.?b.orValue(c)", "d[?e].orValue(f)"}},
		{"texts", `a == " && " && b == ' || ' && c == "\" && "`, []string{`a == " && "`, `b == ' || '`, `c == "\" && "`}},
		{"texts of several lines", `a == """ " && """ && b`, []string{`a == """ " && """`, "b"}},
		{"raw texts", `a.matches(r"^\") && b == R'\' && c`, []string{`a.matches(r"^\")`, `b == R'\'`, "c"}},
		{"comments", "a // && || \"\n&& b", []string{"a // && || \"", "b"}},
		{"runes of several bytes", `a == "ä && ö" && ü`, []string{`a == "ä && ö"`, "ü"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, policy.SplitAnd(tt.text)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPartsDecideLikeTheWhole: a rule is true, false or failing exactly as its parts say.
func TestPartsDecideLikeTheWhole(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		x, q := policies.Draw(t, "policy"), questions.Draw(t, "question")
		q.Request.Login = "deploy"
		p := mustCompile(t, x)
		parts, whole, err := p.HoldsInParts(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole, parts); diff != "" {
			t.Fatalf("%s\n%s", x, diff)
		}
	})
}

func TestReadArchive(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.txtar")
	for _, tt := range []struct{ name, text, err string }{
		{"a policy and its tests", "a note\n-- policy.yaml --\nversion: 1\n-- teams/a_test.yaml --\ncases: []\n", ""},
		{"a path out of the folder", "-- ../policy.yaml --\n", `"../policy.yaml" is no path`},
		{"another kind of file", "-- run.sh --\n", "is no path of a .yaml file"},
		{"a file twice", "-- policy.yaml --\n-- policy.yaml --\n", "policy.yaml comes twice"},
		{"too large a file", "-- policy.yaml --\n" + strings.Repeat("#\n", 1<<20), "a policy file may have"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := policy.ReadArchive(name)
			switch {
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err == "":
				if _, err := policy.Compile(b); err != nil || !slices.Equal(b.Files["teams/a_test.yaml"], []byte("cases: []\n")) {
					t.Errorf("%v, %q", err, b.Files)
				}
			case err == nil || !strings.Contains(err.Error(), tt.err):
				t.Errorf("got %v, want %s", err, tt.err)
			}
		})
	}
}
