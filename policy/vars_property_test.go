package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// TestVarsNeverChangeADecision: a policy says the same if parts of its conditions, or all of them, are vars and vars of vars. Only
// what is told of a failure names the var.
func TestVarsNeverChangeADecision(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		plain := policies.Draw(t, "policy")
		var vars []string
		var named func(n node) node
		named = func(n node) node {
			if !rapid.Bool().Draw(t, "named") {
				return n
			}
			parts := slices.Clone(n.parts)
			for i := range parts {
				parts[i] = named(parts[i])
			}
			vars = append(vars, node{n.op, n.arg, parts}.String())
			return node{op: "var", arg: fmt.Sprint("v", len(vars)-1)}
		}
		shared := model{deny: slices.Clone(plain.deny), allow: slices.Clone(plain.allow)}
		for _, rules := range [][]modelRule{shared.deny, shared.allow} {
			for i := range rules {
				rules[i].when = named(rules[i].when)
			}
		}
		text := shared.String() + "vars:\n  unused: 'true'\n"
		for i, v := range vars {
			text += fmt.Sprintf("  v%d: '%s'\n", i, v)
		}
		p, err := policy.Compile(bundle("policy.yaml", text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		q := questions.Draw(t, "question")
		want, got := mustCompile(t, plain).Decide(context.Background(), q), p.Decide(context.Background(), q)
		if diff := cmp.Diff(failuresByRule(want), failuresByRule(got), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatalf("%s\n%s", diff, text)
		}
		if diff := cmp.Diff(p.DecideWithoutIndex(context.Background(), q), got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatalf("without the index: %s\n%s", diff, text)
		}
		if x := p.Explain(context.Background(), q); cmp.Diff(x.Decision, got, cmpopts.EquateComparable(netip.Prefix{})) != "" {
			t.Fatalf("explained otherwise: %+v", x)
		}
	})
}

// failuresByRule leaves out why rules failed.
func failuresByRule(d ca.Decision) ca.Decision {
	d.Failed = slices.Clone(d.Failed)
	for i := range d.Failed {
		d.Failed[i].Message, d.Failed[i].Told = "", ""
	}
	if strings.Contains(d.Message, "could not be evaluated") {
		d.Message, _, _ = strings.Cut(d.Message, ": ")
	}
	return d
}
