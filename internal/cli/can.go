package cli

import (
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

func (a *app) canCommand() *cobra.Command {
	var wish wish
	cmd := &cobra.Command{
		Use:   "can LOGIN@HOST",
		Short: "Ask whether you would get a certificate; nothing is issued or recorded",
		Long: `Ask what the policy would say to a request, now. Nothing is issued and nothing is recorded.

The exit code is 0 for yes, 3 for no, and 5 if something is still needed.`,
		Example: "  hallpass can deploy@db1.prod.example.com && echo yes",
		Args:    exactArgs("LOGIN@HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[0])
			if err != nil {
				return usageError(cmd, err)
			}
			return a.can(cmd, t, wish)
		},
	}
	wish.flags(cmd)
	return cmd
}

func (a *app) can(cmd *cobra.Command, t target, w wish) error {
	ctx := cmd.Context()
	r, err := w.request(t)
	if err != nil {
		return err
	}
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := conn.DryRun(ctx, who, r)
	if err != nil {
		return a.refused(err, ask{t, "hallpass cert"})
	}
	if err := a.showAnswer(t, answer); err != nil {
		return err
	}
	return a.verdict(t, answer)
}

// outcomeNames are those of JSON results.
var outcomeNames = map[pb.Outcome]string{
	pb.Outcome_OUTCOME_ALLOW: "allow",
	pb.Outcome_OUTCOME_DENY:  "deny",
	pb.Outcome_OUTCOME_NEEDS: "needs",
}

type needJSON struct {
	Kind string `json:"kind"`
	// LoginWithin is the longest age of a sign-in, in seconds.
	LoginWithin int64 `json:"login_within_seconds,omitempty"`
}

var needNames = map[ca.NeedKind]string{ca.NeedReason: "reason", ca.NeedFreshLogin: "fresh_login"}

// needs reads needs off the wire.
func needs(wire []*pb.Need) []ca.Need {
	kinds := map[pb.NeedKind]ca.NeedKind{
		pb.NeedKind_NEED_KIND_REASON:      ca.NeedReason,
		pb.NeedKind_NEED_KIND_FRESH_LOGIN: ca.NeedFreshLogin,
	}
	var out []ca.Need
	for _, n := range wire {
		out = append(out, ca.Need{Kind: kinds[n.GetKind()], LoginWithin: n.GetLoginWithin().AsDuration()})
	}
	return out
}

func (a *app) showAnswer(t target, answer *pb.DryRunResponse) error {
	d := answer.GetDecision()
	ttl := answer.GetTtl().AsDuration()
	if a.json() {
		return a.printJSON(struct {
			Login       string     `json:"login"`
			Host        string     `json:"host"`
			Outcome     string     `json:"outcome"`
			Rule        string     `json:"rule"`
			Environment string     `json:"environment"`
			Message     string     `json:"message"`
			Needs       []needJSON `json:"needs"`
			TTL         int64      `json:"ttl_seconds"`
			Principals  []string   `json:"principals"`
			Policy      string     `json:"policy"`
			// Explanation is why not; null for a yes.
			Explanation *explanationJSON `json:"explanation"`
		}{
			t.login, t.host, outcomeNames[d.GetOutcome()], d.GetRule(), d.GetEnvironment(), d.GetMessage(), needsJSON(needs(d.GetNeeds())),
			int64(ttl / time.Second), append([]string{}, answer.GetPrincipals()...), policyName(answer.GetPolicy()),
			newExplanationJSON(answer.GetExplanation()),
		})
	}
	if d.GetOutcome() == pb.Outcome_OUTCOME_ALLOW {
		fmt.Fprintf(a.out, "yes: %s for %s, by the rule %s in %s\n", t, ttl, plain(d.GetRule()), plain(d.GetEnvironment()))
	}
	return nil
}

// verdict turns a decision into the same error that a request would have got.
func (a *app) verdict(t target, answer *pb.DryRunResponse) error {
	d := answer.GetDecision()
	var reason *ca.Error
	switch d.GetOutcome() {
	case pb.Outcome_OUTCOME_ALLOW:
		return nil
	case pb.Outcome_OUTCOME_NEEDS:
		reason = &ca.Error{Kind: ca.Needs, Message: d.GetMessage(), Needs: needs(d.GetNeeds())}
	default:
		reason = &ca.Error{Kind: ca.Denied, Message: d.GetMessage()}
	}
	for _, failed := range d.GetFailed() {
		a.note("rule %s failed: %s", failed.GetRule(), failed.GetMessage())
	}
	return a.refused(&client.Refusal{
		Reason: reason, Rule: d.GetRule(), Environment: d.GetEnvironment(), Policy: policyName(answer.GetPolicy()), Explanation: answer.GetExplanation(),
	}, ask{t, "hallpass cert"})
}
