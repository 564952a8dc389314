package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// BenchmarkDecide asks policies of which two rules could match, whatever their number. Each form is a way to write the rules of
// teams that the index knows; refused is somebody of no team, who is told which rules there are.
func BenchmarkDecide(b *testing.B) {
	for _, form := range []struct {
		name, when string
		groups     []string
		want       ca.Outcome
	}{
		{"plain", `environment == %q && "team-%d" in identity.groups && token.bound`, []string{"everybody", "team-4", "team-6", "berlin"}, ca.Allow},
		{"either", `("team-%[2]d" in identity.groups || "lead-%[2]d" in identity.groups) && environment in [%[1]q, "other"] && token.bound`, []string{"everybody", "lead-4", "team-6", "berlin"}, ca.Allow},
		{"exists", `identity.groups.exists(g, g == "team-%[2]d") && token.bound && environment == %[1]q`, []string{"everybody", "team-4", "team-6", "berlin"}, ca.Allow},
		{"refused", `environment == %q && "team-%d" in identity.groups && token.bound`, []string{"everybody", "berlin"}, ca.Deny},
	} {
		for _, n := range []int{10, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/rules=%d", form.name, n), func(b *testing.B) {
				p := teams(b, form.when, n)
				q := question(b)
				q.Identity.Groups = form.groups
				for b.Loop() {
					if d := decide(p, q); d.Outcome != form.want {
						b.Fatal(d.Message)
					}
				}
			})
		}
	}
}

// teams is a policy of n rules, half of them for staging.
func teams(b *testing.B, when string, n int) *policy.Policy {
	b.Helper()
	var text strings.Builder
	text.WriteString("version: 1\nclaims: {contractor: {type: bool, default: false}}\nenvironments:\n  staging: {hosts: [\"*.staging.example.com\"]}\n" +
		"  prod: {hosts: [\"*.prod.example.com\"], authority: prod}\n  other: {hosts: [\"*.other.example.com\"], authority: other}\n" +
		"deny:\n- {name: contractors, when: environment == \"prod\" && claims.contractor}\nallow:\n")
	for i := range n {
		fmt.Fprintf(&text, "- {name: team-%d, when: '%s', grant: {logins: [deploy], ttl: 2h}}\n", i, fmt.Sprintf(when, []string{"staging", "prod"}[i%2], i))
	}
	p, err := policy.Compile(bundle("policy.yaml", text.String()))
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func BenchmarkCompileExample(b *testing.B) {
	dir := b.TempDir()
	if err := policy.WriteExample(dir, policy.ExampleParams{}); err != nil {
		b.Fatal(err)
	}
	files, err := policy.ReadDir(dir, false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := policy.Compile(files); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTell explains a refusal to a caller, whatever the number of rules.
func BenchmarkTell(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var text strings.Builder
			text.WriteString(world + "allow:\n")
			for i := range n {
				fmt.Fprintf(&text, "- {name: team-%d, when: environment == %q && \"team-%d\" in identity.groups && token.bound, grant: {logins: [deploy], ttl: 2h}}\n",
					i, []string{"staging", "prod"}[i%2], i)
			}
			p, err := policy.Compile(bundle("policy.yaml", text.String()))
			if err != nil {
				b.Fatal(err)
			}
			q := question(b)
			d := decide(p, q)
			for b.Loop() {
				if x := p.Tell(b.Context(), q, d); len(x.Rules) != 3 {
					b.Fatal(x)
				}
			}
		})
	}
}
