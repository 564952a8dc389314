package policy_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// recipe is a policy of docs/policy-cookbook.md with its files and tests.
type recipe struct {
	title, tests string
	blocks       []string // as they stand on the page
	bundle       *policy.Bundle
}

// cookbook reads the page. Each recipe is completed with the environments with which the page begins.
func cookbook(t *testing.T) []recipe {
	t.Helper()
	text, err := os.ReadFile("../docs/policy-cookbook.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := regexp.MustCompile("(?m)^## ").Split(string(text), -1)
	blocks := regexp.MustCompile("(?ms)^```([a-z ]*)\n(.*?)^```\n")
	first := blocks.FindStringSubmatch(sections[0])[2]
	var all []recipe
	for _, section := range sections[1:] {
		title, _, _ := strings.Cut(section, "\n")
		r := recipe{title: title, bundle: bundle()}
		for _, b := range blocks.FindAllStringSubmatch(section, -1) {
			if b[1] != "yaml file" {
				r.blocks = append(r.blocks, b[2])
			}
			switch b[1] {
			case "yaml":
				r.bundle.Files["policy.yaml"] = []byte(completed(b[2], first))
			case "yaml file":
				name, _, _ := strings.Cut(strings.TrimPrefix(b[2], "# "), "\n")
				r.bundle.Files[name] = []byte(b[2])
			case "yaml tests":
				r.tests = b[2]
				r.bundle.Files["recipe_test.yaml"] = []byte(b[2])
			default:
				t.Errorf("%s: a block of kind %q is not tested", title, b[1])
			}
		}
		all = append(all, r)
	}
	if len(all) < 10 {
		t.Fatalf("the page has %d recipes: did its form change?", len(all))
	}
	return all
}

// Every recipe compiles, has no warning, is formatted, and does what its tests promise: it lets somebody in and keeps somebody out, and
// each of its conditions is tried both ways.
func TestCookbook(t *testing.T) {
	for _, r := range cookbook(t) {
		t.Run(r.title, func(t *testing.T) {
			p, err := policy.Compile(r.bundle)
			if err != nil {
				t.Fatal(err)
			}
			s := suite(t, p, r.bundle)
			for _, got := range p.RunTests(t.Context(), s).Results {
				if len(got.Failures) > 0 {
					t.Errorf("%s: %v", got.Case.Name, got.Failures)
				}
			}
			if !strings.Contains(r.tests, "outcome: allow") || !strings.Contains(r.tests, "outcome: deny") {
				t.Error("its tests do not show both what it allows and what it denies")
			}
			found, err := p.Warnings(t.Context(), noon, s)
			if err != nil || len(found) > 0 {
				t.Errorf("warnings: %v, %v", found, err)
			}
			for _, text := range r.blocks {
				if formatted, err := policy.Format("policy.yaml", []byte(text)); err != nil || string(formatted) != text {
					t.Errorf("not formatted: %v\n%s", err, text)
				}
			}
			if c := cover(t, p, r.bundle); c.Percent() < 100 {
				t.Errorf("its tests cover %.0f%%: %v", c.Percent(), c.Missing)
			}
		})
	}
}

// A token of a job that lacks one of the claims is refused, whichever it is.
func TestCookbookOnTokensWithoutAClaim(t *testing.T) {
	found := 0
	for _, r := range cookbook(t) {
		var tests struct {
			Defaults struct {
				Identity struct {
					Kind, Issuer, Subject string
					Claims                map[string]any
				}
				Request struct{ Login, Host string }
			}
		}
		if err := yaml.Unmarshal([]byte(r.tests), &tests); err != nil {
			t.Fatal(err)
		}
		who, asked := tests.Defaults.Identity, tests.Defaults.Request
		if who.Kind != "workload" {
			continue
		}
		found++
		p, err := policy.Compile(r.bundle)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(claims map[string]any) (ca.Outcome, error) {
			q := question(t)
			var err error
			q.Identity, err = p.Declare(ca.Caller{Identity: ca.Identity{Kind: ca.Workload, Issuer: who.Issuer, Subject: who.Subject}, Claims: claims})
			q.Token, q.Request.Login, q.Request.Host = ca.Token{IssuedAt: noon}, asked.Login, asked.Host
			return decide(p, q).Outcome, err
		}
		if got, err := ask(who.Claims); got != ca.Allow || err != nil {
			t.Errorf("%s: with all claims %v, %v", r.title, got, err)
		}
		for _, name := range slices.Sorted(maps.Keys(who.Claims)) {
			without := maps.Clone(who.Claims)
			delete(without, name)
			if got, err := ask(without); got != ca.Deny || err != nil {
				t.Errorf("%s: without %s: %v, %v", r.title, name, got, err)
			}
			for _, wrong := range []any{true, nil, []any{who.Claims[name]}, map[string]any{}} {
				without[name] = wrong
				if _, err := ask(without); err == nil || !strings.Contains(err.Error(), "the claim "+name) {
					t.Errorf("%s: with %T for %s: %v", r.title, wrong, name, err)
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("the page has %d recipes for jobs, want GitHub and GitLab", found)
	}
}

// Ten thousand groups, as some directories send them, are no way in and no way to stop the others.
func TestCookbookOnTenThousandGroups(t *testing.T) {
	for _, r := range cookbook(t) {
		p, err := policy.Compile(r.bundle)
		if err != nil {
			t.Fatal(err)
		}
		q := question(t)
		q.Identity.Groups = nil
		for i := range 10_000 {
			q.Identity.Groups = append(q.Identity.Groups, fmt.Sprintf("group-%05d", i))
		}
		if d := decide(p, q); d.Outcome == ca.Allow {
			t.Errorf("%s: in by %s", r.title, d.Rule)
		}
	}
}
