package policy_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/long"
	"github.com/hallpass-ssh/hallpass/policy"
)

// perPolicy is how many questions each policy is asked, because a policy costs more to make than to ask. With the 100 checks of
// rapid, the properties below try 800 random policies and 10,400 identities and requests a run, other ones each time.
const perPolicy = 13

// check holds a property against random policies. It runs beside the others. HALLPASS_LONG, as in make e2e, asks for 12,000 policies.
func check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	t.Parallel()
	for range long.Rounds(1, 15) {
		rapid.Check(t, property)
	}
}

// ask asks some random questions.
func ask(t *rapid.T, questions *rapid.Generator[ca.Question], property func(ca.Question)) {
	for range perPolicy {
		property(questions.Draw(t, "question"))
	}
}

// TestModelAgrees: an independent reading of docs/policy.md comes to the same outcome, rule and lifetime.
func TestModelAgrees(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		m := policies.Draw(t, "policy")
		p := mustCompile(t, m)
		ask(t, questions, func(q ca.Question) {
			d := p.Decide(context.Background(), q)
			outcome, rule, ttl := m.decide(q)
			if d.Outcome != outcome || d.Rule != rule || d.TTL != ttl {
				t.Fatalf("the policy says %d by %q for %s, the model %d by %q for %s\n%s\n%s", d.Outcome, d.Rule, d.TTL, outcome, rule, ttl, d.Message, m)
			}
		})
	})
}

// TestIndexNeverChangesADecision: same outcome, same rule, same grant, same failures told to the caller. The index may only
// spare a rule that is false; and a rule that is false does not fail.
func TestIndexNeverChangesADecision(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		p := mustCompile(t, policies.Draw(t, "policy"))
		ask(t, questions, func(q ca.Question) {
			with, without := p.Decide(context.Background(), q), p.DecideWithoutIndex(context.Background(), q)
			if diff := cmp.Diff(without, with, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Fatal(diff)
			}
		})
	})
}

// TestGrantsStayWithinLimits is I4 as far as policy can hold it.
func TestGrantsStayWithinLimits(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		p := mustCompile(t, policies.Draw(t, "policy"))
		ask(t, questions, func(q ca.Question) {
			d := p.Decide(context.Background(), q)
			if d.Outcome != ca.Allow {
				if d.TTL != 0 || d.Grant.Logins != nil {
					t.Fatalf("no, and yet a grant: %+v", d)
				}
				return
			}
			if d.TTL <= 0 || d.TTL > d.Grant.TTL || d.TTL > d.Limits.MaxTTL || d.Environment.MaxTTL > 0 && d.TTL > d.Environment.MaxTTL ||
				q.Request.TTL > 0 && d.TTL != q.Request.TTL {
				t.Fatalf("lifetime %s: %+v", d.TTL, d)
			}
			if !slices.Contains(d.Grant.Logins, q.Request.Login) || slices.Contains(d.Grant.Logins, "root") || d.Grant.Scope == 0 || d.Rule == "" {
				t.Fatalf("%+v", d)
			}
			if q.Request.Rule != "" && d.Rule != q.Request.Rule {
				t.Fatalf("asked for rule %s, got %s", q.Request.Rule, d.Rule)
			}
		})
	})
}

// TestMoreRulesOfDenyAndLessOfAllowNeverHelp: adding a deny rule or taking an allow rule away never turns no into yes.
func TestMoreRulesOfDenyAndLessOfAllowNeverHelp(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		m := policies.Draw(t, "policy")
		before := mustCompile(t, m)
		if rapid.Bool().Draw(t, "add a deny rule") || len(m.allow) == 0 {
			m.deny = append(slices.Clone(m.deny), modelRule{name: "more", when: condition(denyAtoms, "or", "not").Draw(t, "more")})
		} else {
			i := rapid.IntRange(0, len(m.allow)-1).Draw(t, "rule to remove")
			m.allow = slices.Delete(slices.Clone(m.allow), i, i+1)
		}
		after := mustCompile(t, m)
		ask(t, questions, func(q ca.Question) {
			was, is := before.Decide(context.Background(), q), after.Decide(context.Background(), q)
			// An allow rule taken away may have been the one that was chosen though it needed more: by the order of choice one
			// that needs nothing is always chosen first, so that never opens anything.
			if is.Outcome == ca.Allow && was.Outcome != ca.Allow {
				t.Fatalf("before: %s\nafter: %s", was.Message, is.Message)
			}
		})
	})
}

// TestAnErrorNeverTurnsNoIntoYes is I7: with a part of a condition replaced by one that fails, nothing is allowed that the
// careful reading of it does not allow: that a part of a deny rule is true, and one of an allow rule false.
func TestAnErrorNeverTurnsNoIntoYes(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		m := policies.Draw(t, "policy")
		inDeny := len(m.deny) > 0 && rapid.Bool().Draw(t, "in a deny rule")
		if !inDeny && len(m.allow) == 0 {
			return
		}
		with := func(part string) *policy.Policy {
			rules := map[bool][]modelRule{true: m.deny, false: m.allow}[inDeny]
			rules = slices.Clone(rules)
			rules[0].when = node{op: "and", parts: []node{rules[0].when, {op: part}}}
			changed := model{m.deny, rules}
			if inDeny {
				changed = model{rules, m.allow}
			}
			return mustCompile(t, changed)
		}
		careful := map[bool]string{true: "true", false: "false"}[inDeny]
		failing, reading := with("fails"), with(careful)
		ask(t, questions, func(q ca.Question) {
			if failing.Decide(context.Background(), q).Outcome == ca.Allow && reading.Decide(context.Background(), q).Outcome != ca.Allow {
				t.Fatalf("a failure allows what the careful reading does not\n%s", m)
			}
		})
	})
}

// TestLosingNeverHelps: nor does taking away a claim or a group for which no deny rule asks, nor an email or the binding of the
// token for which none asks in the negative.
func TestLosingNeverHelps(t *testing.T) {
	questions := questions(ed25519Key(t))
	check(t, func(t *rapid.T) {
		m := positivePolicies.Draw(t, "policy")
		p := mustCompile(t, m)
		ask(t, questions, func(q ca.Question) {
			before := p.Decide(context.Background(), q)
			less := q
			less.Identity.Claims = maps.Clone(q.Identity.Claims)
			if rapid.Bool().Draw(t, "lose a claim") {
				delete(less.Identity.Claims, rapid.SampledFrom([]string{"contractor", "level", "name"}).Draw(t, "claim"))
			} else if n := len(q.Identity.Groups); n > 0 {
				lost := q.Identity.Groups[rapid.IntRange(0, n-1).Draw(t, "group")]
				less.Identity.Groups = slices.DeleteFunc(slices.Clone(q.Identity.Groups), func(g string) bool { return g == lost })
			}
			if after := p.Decide(context.Background(), less); after.Outcome == ca.Allow && before.Outcome != ca.Allow {
				t.Fatalf("before: %s\nafter: %s\n%s", before.Message, after.Message, m)
			}
		})
	})
}

// TestNarrowerNeverHelps: if all that a difference says of two policies is that it is narrower, or of no effect, then it turns no
// no into a yes, and no lifetime into a longer one by the same rule.
func TestNarrowerNeverHelps(t *testing.T) {
	questions := questions(ed25519Key(t))
	var narrowed atomic.Int64
	check(t, func(t *rapid.T) {
		m := policies.Draw(t, "policy")
		if len(m.allow) == 0 {
			return
		}
		before, changed := mustCompile(t, m), model{slices.Clone(m.deny), slices.Clone(m.allow)}
		r := &changed.allow[rapid.IntRange(0, len(m.allow)-1).Draw(t, "rule")]
		other := condition(allowAtoms, "or", "not").Draw(t, "condition")
		switch rapid.IntRange(0, 5).Draw(t, "change") {
		case 0:
			r.when = node{op: rapid.SampledFrom([]string{"and", "or"}).Draw(t, "operator"), parts: []node{r.when, other}}
		case 1:
			if len(r.when.parts) > 1 {
				r.when.parts = r.when.parts[1:]
			}
		case 2:
			r.ttl = rapid.SampledFrom([]time.Duration{10 * time.Minute, 3 * time.Hour}).Draw(t, "ttl")
		case 3:
			r.reason, r.fresh = !r.reason, rapid.Bool().Draw(t, "fresh")
		case 4:
			r.logins, r.command = []string{"deploy"}, !r.command
		case 5:
			if len(changed.deny) > 0 {
				d := &changed.deny[0]
				d.when = node{op: rapid.SampledFrom([]string{"and", "or"}).Draw(t, "operator"), parts: []node{d.when, condition(denyAtoms, "not").Draw(t, "deny")}}
			}
		}
		after := mustCompile(t, changed)
		changes, err := policy.Diff(before, after)
		if err != nil {
			t.Fatal(err)
		}
		narrower := !slices.ContainsFunc(changes, func(c policy.Changed) bool { return c.Effect != policy.Narrower })
		if narrower && len(changes) > 0 {
			narrowed.Add(1)
		}
		ask(t, questions, func(q ca.Question) {
			was, is := before.Decide(context.Background(), q), after.Decide(context.Background(), q)
			if len(changes) == 0 && (was.Outcome != is.Outcome || was.Rule != is.Rule) {
				t.Fatalf("no difference, and yet: %s\n%s\n%s\n%s", was.Message, is.Message, m, changed)
			}
			if narrower && is.Outcome == ca.Allow && (was.Outcome != ca.Allow || was.Rule == is.Rule && is.TTL > was.TTL) {
				t.Fatalf("%v, and yet: %s\n%s\n%s\n%s", changes, was.Message, is.Message, m, changed)
			}
		})
	})
	if narrowed.Load() == 0 {
		t.Error("no change was narrower: did the random changes change?")
	}
}
