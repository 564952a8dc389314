package policy_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/policy"
)

// recordedRefusal is what the log has of a refusal, and the question that the log has of it.
func recordedRefusal(t testing.TB, p *policy.Policy, q ca.Question, d ca.Decision) (*ca.Recorded, ca.Question) {
	t.Helper()
	snapshot, err := audit.Snapshot(q.Identity, nil)
	if err != nil {
		t.Fatal(err)
	}
	kind := ca.Denied
	if d.Outcome == ca.NeedsMore {
		kind = ca.Needs
	}
	event := audit.Decided(&ca.Attempt{
		Caller: ca.Caller{Identity: q.Identity, Token: q.Token}, Request: q.Request, Now: q.Now, Policy: p.Ref(), Decision: d,
		Refusal: &ca.Error{Kind: kind, Message: d.Message},
	}, audit.Digest(snapshot), nil)
	text, err := audit.Marshal(event, 7, q.Now, 0)
	if err != nil {
		t.Fatal(err)
	}
	record, err := audit.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := audit.Question(record.GetDecided(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Recorded(record), again
}

// TestReproduceRefusals: every decision comes out the same from its record, through the log's own words. Grants have
// certificates, which TestWhy shows.
func TestReproduceRefusals(t *testing.T) {
	questions, key := questions(ed25519Key(t)), t
	rapid.Check(t, func(t *rapid.T) {
		p, q := mustCompile(t, policies.Draw(t, "policy")), questions.Draw(t, "question")
		d := p.Decide(context.Background(), q)
		if d.Outcome == ca.Allow {
			return
		}
		was, again := recordedRefusal(key, p, q, d)
		if got := p.Reproduce(context.Background(), again, was); got.Result != policy.Same {
			t.Fatalf("%s: %v\nrecorded %+v\nnow      %+v", got.Result, got.Differences, d, got.Decision)
		}
	})
}

func TestReproduceTellsWhatDiffers(t *testing.T) {
	const text = `
version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
allow:
- name: developers
  when: environment == "staging" && "developers" in identity.groups
  require: {reason: true, login_within: 15m}
  grant: {logins: [deploy], ttl: 2h}
`
	p := compile(t, text)
	other := compile(t, text+"deny:\n- {name: nobody, when: \"true\"}\n")
	q := question(t)
	d := p.Decide(t.Context(), q)
	for _, tt := range []struct {
		name   string
		by     *policy.Policy
		change func(*ca.Recorded, *ca.Question)
		want   policy.Reproduction
	}{
		{"nothing", p, func(*ca.Recorded, *ca.Question) {}, policy.Reproduction{Result: policy.Same}},
		{"files that were not committed when they decided", p, func(r *ca.Recorded, _ *ca.Question) {
			r.Policy.Dirty, r.Policy.Revision = true, "0123456789abcdef"
		}, policy.Reproduction{Result: policy.Same}},
		{"a better message", p, func(r *ca.Recorded, _ *ca.Question) { r.Decision.Message = "no" }, policy.Reproduction{Result: policy.Same}},
		{"the order of needs", p, func(r *ca.Recorded, _ *ca.Question) {
			n := r.Decision.Needs
			r.Decision.Needs = []ca.Need{n[1], n[0]}
		}, policy.Reproduction{Result: policy.Same}},
		{"a need that was not told", p, func(r *ca.Recorded, _ *ca.Question) { r.Decision.Needs = r.Decision.Needs[:1] },
			policy.Reproduction{Result: policy.Different, Differences: []policy.Difference{
				{What: "needs", Recorded: "a reason", Now: "a reason, a sign-in within the last 15m"},
			}}},
		{"another rule", p, func(r *ca.Recorded, _ *ca.Question) { r.Decision.Rule = "ops" },
			policy.Reproduction{Result: policy.Different, Differences: []policy.Difference{{What: "rule", Recorded: "ops", Now: "developers"}}}},
		{"another environment", p, func(r *ca.Recorded, _ *ca.Question) { r.Decision.Environment.Name = "prod" },
			policy.Reproduction{Result: policy.Different, Differences: []policy.Difference{{What: "environment", Recorded: "prod", Now: "staging"}}}},
		{"a sign-in that was fresher", p, func(_ *ca.Recorded, q *ca.Question) { q.Token.AuthTime = q.Now.Add(-time.Minute) },
			policy.Reproduction{Result: policy.Different, Differences: []policy.Difference{
				{What: "needs", Recorded: "a reason, a sign-in within the last 15m", Now: "a reason"},
			}}},
		{"another policy", other, func(*ca.Recorded, *ca.Question) {}, policy.Reproduction{Result: policy.Different}},
		{"no policy", p, func(r *ca.Recorded, _ *ca.Question) { r.Policy, r.Decision = ca.PolicyRef{}, ca.Decision{} },
			policy.Reproduction{Result: policy.NotAsked, Reason: "refused before the policy was asked"}},
		{"no decision", p, func(r *ca.Recorded, _ *ca.Question) { r.Decision = ca.Decision{} },
			policy.Reproduction{Result: policy.NotAsked, Reason: "refused before the policy came to a decision"}},
		{"a fault of the daemon", p, func(r *ca.Recorded, _ *ca.Question) { r.Refusal.Kind = ca.Internal },
			policy.Reproduction{Result: policy.NotAsked, Reason: "a fault of the daemon: what is recorded is not all that the policy saw"}},
		{"a grant without its certificate", p, func(r *ca.Recorded, _ *ca.Question) { r.Refusal = nil },
			policy.Reproduction{Result: policy.Different}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			was, again := recordedRefusal(t, p, q, d)
			tt.change(was, &again)
			got := tt.by.Reproduce(t.Context(), again, was)
			got.Decision = ca.Decision{}
			if tt.want.Differences == nil && tt.want.Result == policy.Different {
				if len(got.Differences) == 0 {
					t.Error("different, and in nothing")
				}
				got.Differences = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
