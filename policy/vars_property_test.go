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
	rapid.Check(t, func(t *rapid.T) {
		plain := policies.Draw(t, "policy")
		named, vars := plain, []string{}
		name := func(condition string) string {
			if !rapid.Bool().Draw(t, "named") {
				return condition
			}
			if parts := strings.SplitN(condition, " && ", 2); len(parts) == 2 && !strings.Contains(condition, "||") && rapid.Bool().Draw(t, "in parts") {
				vars = append(vars, parts[0])
				condition = fmt.Sprintf("vars.v%d && %s", len(vars)-1, parts[1])
			}
			vars = append(vars, condition)
			return fmt.Sprintf("vars.v%d", len(vars)-1)
		}
		named.deny, named.allow = nil, nil
		for _, r := range plain.deny {
			named.deny = append(named.deny, denyText{r.name, name(r.when)})
		}
		for _, r := range plain.allow {
			named.allow = append(named.allow, allowText{r.name, name(r.when), r.rest})
		}
		text := named.String() + "vars:\n  unused: 'true'\n"
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
		d.Failed[i].Message = ""
	}
	if strings.Contains(d.Message, "could not be evaluated") {
		d.Message, _, _ = strings.Cut(d.Message, ": ")
	}
	return d
}
