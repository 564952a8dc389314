package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

// describing are the flags that describe a request which nobody makes. A daemon that is asked knows better.
var describing = []string{"as", "identity", "at", "login-age", "bound", "source-ip", "key-type"}

// notDescribed refuses those flags.
func notDescribed(cmd *cobra.Command, why string, more ...string) error {
	for _, name := range append(more, describing...) {
		if cmd.Flags().Changed(name) {
			return usageError(cmd, fmt.Errorf("--%s has no meaning here: %s", name, why))
		}
	}
	return nil
}

// policyExplainMine asks the daemon about the caller, now.
func (a *app) policyExplainMine(cmd *cobra.Command, name string, w wish) error {
	if err := notDescribed(cmd, "without a folder, the daemon is asked about you, now"); err != nil {
		return err
	}
	t, err := parseTarget(name)
	if err != nil {
		return usageError(cmd, fmt.Errorf("%w; with a folder, give DIR and LOGIN@HOST", err))
	}
	r, err := w.request(t)
	if err != nil {
		return err
	}
	conn, who, err := a.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := conn.DryRun(cmd.Context(), who, r)
	if err != nil {
		return a.refused(err, ask{t, "hallpass cert"})
	}
	if a.json() {
		if err := a.showAnswer(t, answer); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(a.out, explainMine(t, answer)); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return exitOf(map[pb.Outcome]ca.Outcome{pb.Outcome_OUTCOME_ALLOW: ca.Allow, pb.Outcome_OUTCOME_NEEDS: ca.NeedsMore}[answer.GetDecision().GetOutcome()])
}

// explainMine prints the answer of the daemon in the form of an explanation.
func explainMine(t target, answer *pb.DryRunResponse) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(oneLine(fmt.Sprintf(format, args...)) + "\n")
	}
	d, x := answer.GetDecision(), answer.GetExplanation()
	word := map[pb.Outcome]string{pb.Outcome_OUTCOME_ALLOW: "yes", pb.Outcome_OUTCOME_NEEDS: "not yet"}[d.GetOutcome()]
	place := ""
	if d.GetEnvironment() != "" {
		place = " in " + d.GetEnvironment()
	}
	line("%s: %s%s", cmp.Or(word, "no"), t, place)
	line("  %s", cmp.Or(x.GetReason(), d.GetMessage()))
	for _, r := range x.GetRules() {
		b.WriteString("\n")
		owner := ""
		if r.GetOwner() != "" {
			owner = ", of " + r.GetOwner()
		}
		line("%s rule %s%s", kindOfRule(r), r.GetName(), owner)
		for _, text := range append([]string{r.GetMessage()}, r.GetLacks()...) {
			if text != "" {
				line("  %s", text)
			}
		}
	}
	if n := x.GetMoreRules(); n > 0 {
		b.WriteString("\n")
		line("(%s)", plural(int(n), "more rule"))
	}
	b.WriteString("\n")
	for _, missing := range x.GetMissing() {
		line("missing  %s", missing)
	}
	if x.GetAsk() != "" {
		line("ask      %s", x.GetAsk())
	}
	switch {
	case x.GetNext() != "":
		line("next     %s", x.GetNext())
	case d.GetOutcome() == pb.Outcome_OUTCOME_ALLOW:
		line("next     hallpass cert %s", t)
	}
	return b.String()
}

// policyExplainRecorded explains a decision of the log, from its record alone.
func (a *app) policyExplainRecorded(cmd *cobra.Command, flags recordFlags, args []string) error {
	if err := notDescribed(cmd, "the record says what was asked", "ttl", "reason", "rule", "break-glass"); err != nil {
		return err
	}
	which, err := flags.which(args)
	if err != nil {
		return usageError(cmd, err)
	}
	ctx := cmd.Context()
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	found, err := findDecision(ctx, conn, who, which)
	if err != nil {
		return err
	}
	hint := fmt.Sprintf("hallpass why record:%d", which.index)
	q, err := found.question()
	switch {
	case err != nil:
		return &failure{exit: exitFailed, err: fmt.Errorf("record %d cannot be explained: %w", which.index, err), hint: hint}
	case found.was.Policy == (ca.PolicyRef{}) || found.was.Decision.Outcome == 0:
		return &failure{exit: exitFailed, hint: hint,
			err: fmt.Errorf("record %d is a refusal from before the policy was asked: %s", which.index, found.was.Refusal.Message)}
	case found.problem != nil:
		return found.problem
	}
	x := found.policy.Explain(ctx, q)
	if found.was.Review != nil {
		for _, rule := range found.was.Review.Rules {
			x.Review = append(x.Review, rule.Name)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if found.policy.Reproduce(ctx, q, found.was).Result == policy.Different {
		a.note("warning: the decision on record is another one: %s", hint)
	}
	return a.showExplanation(x)
}
