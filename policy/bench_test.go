package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// BenchmarkDecide asks policies of which two rules could match, whatever their number.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var text strings.Builder
			text.WriteString(world + "deny:\n- {name: contractors, when: environment == \"prod\" && claims.contractor}\nallow:\n")
			for i := range n {
				fmt.Fprintf(&text, "- {name: team-%d, when: environment == %q && \"team-%d\" in identity.groups && token.bound, grant: {logins: [deploy], ttl: 2h}}\n",
					i, []string{"staging", "prod"}[i%2], i)
			}
			p, err := policy.Compile(bundle("policy.yaml", text.String()))
			if err != nil {
				b.Fatal(err)
			}
			q := question(b)
			q.Identity.Groups = []string{"everybody", "team-4", "team-6", "berlin"}
			for b.Loop() {
				if d := decide(p, q); d.Outcome != ca.Allow {
					b.Fatal(d.Message)
				}
			}
		})
	}
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
