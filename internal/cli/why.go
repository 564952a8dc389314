package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

func (a *app) whyCommand() *cobra.Command {
	var flags recordFlags
	cmd := &cobra.Command{
		Use:   "why SERIAL | record:N",
		Short: "Show why a decision came out as it did, and whether it does again (for auditors and admins)",
		Long: `Show a decision of the log with all that it rests on: what was asked, by whom, and the answer; the policy that decided, with its commit,
author and signer; the text of the rule as it was then; every input; and the decision made again, here and now, from the record
alone.

A plain number is the serial of a certificate, which is what sshd logs. The record of a refusal is given as record:N, or with
--record. A line of sshd's log may be given whole: the serial is found in it.

The exit code is 0 if the decision comes out the same, or cannot be made again because there was none or its inputs were erased,
and 1 if it comes out otherwise: that is a mistake in a program, or a log that somebody changed.`,
		Example: "  hallpass why 13\n  hallpass why record:12\n  hallpass why 'hallpass1 i=12 s=alice r=sre-on-prod p=3f2a9c1d0b7e'",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			which, err := flags.which(args)
			if err != nil {
				return usageError(cmd, err)
			}
			return a.why(cmd.Context(), which)
		},
	}
	flags.flags(cmd)
	return cmd
}

func (a *app) why(ctx context.Context, which whichRecord) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	found, err := findDecision(ctx, conn, who, which)
	if err != nil {
		return err
	}
	again := found.again(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.showWhy(newWhyJSON(found, again)); err != nil {
		return err
	}
	if again.Result == string(policy.Different) {
		return &failure{exit: exitFailed, hint: "keep a copy of the log, and ask with the hallpass that is as old as the record",
			err: fmt.Errorf("record %d does NOT come out the same: a mistake in a program, or a log that somebody changed", found.record.GetIndex())}
	}
	if again.Result == cannotTell {
		return fmt.Errorf("record %d cannot be decided again: %s", found.record.GetIndex(), again.Reason)
	}
	return nil
}

// foundDecision is a decision of the log with what it cites.
type foundDecision struct {
	record  *pb.Record
	decided *pb.Decided
	was     *ca.Recorded
	// snapshot and lists are nil if they were erased, or if the record cites none.
	snapshot, lists []byte
	// loaded is the record that put the policy in force; nil if no policy was asked.
	loaded *pb.Revision
	// policy is nil if there is none, or if problem says why it cannot be used.
	policy  *policy.Policy
	problem error
}

func findDecision(ctx context.Context, conn *client.Client, who client.SignIn, which whichRecord) (*foundDecision, error) {
	entry, err := conn.GetRecord(ctx, who, which.index)
	if _, archived := archivedBy(err); which.serial != 0 && ca.KindOf(err) == ca.NotFound && !archived {
		return nil, ca.Errorf(ca.NotFound, "no certificate has the serial %d: %v", which.serial, err)
	}
	if err != nil {
		return nil, err
	}
	f := &foundDecision{snapshot: entry.GetSnapshot(), lists: entry.GetLists()}
	if f.record, err = audit.Parse(entry.GetRecord()); err != nil {
		return nil, err
	}
	if got := f.record.GetIndex(); got != which.index {
		return nil, fmt.Errorf("asked for record %d, and the CA answered with record %d", which.index, got)
	}
	if f.decided = f.record.GetDecided(); f.decided == nil {
		return nil, notDecided(f.record, which)
	}
	if which.serial != 0 {
		if len(f.decided.GetToBeSigned()) == 0 {
			return nil, &failure{exit: exitFailed, err: fmt.Errorf("no certificate has the serial %d: record %d is a refusal", which.serial, which.index),
				hint: fmt.Sprintf("hallpass why record:%d; or record:%d, if that is what you meant", which.index, which.serial)}
		}
		if audit.Serial(f.record.GetEpoch(), which.index) != which.serial {
			return nil, fmt.Errorf("no certificate has the serial %d: record %d is of another epoch", which.serial, which.index)
		}
	}
	f.was = audit.Recorded(f.record)
	if f.was.Policy == (ca.PolicyRef{}) {
		return f, nil
	}
	if f.loaded, err = loadedBefore(ctx, conn, who, which.index, f.decided.GetPolicy()); err != nil {
		return nil, err
	}
	f.policy, f.problem = policyOf(ctx, conn, who, f.was.Policy)
	return f, ctx.Err()
}

// notDecided says that a record is no decision, and where to look instead.
func notDecided(record *pb.Record, which whichRecord) error {
	f := &failure{exit: exitFailed, hint: fmt.Sprintf("hallpass audit show %d", which.index)}
	f.err = fmt.Errorf("record %d is no decision", which.index)
	if which.serial != 0 {
		f.err = fmt.Errorf("no certificate has the serial %d: record %d is no decision", which.serial, which.index)
		f.hint += fmt.Sprintf("; if you meant the record: hallpass why record:%d", which.serial)
	}
	if failed := record.GetSignatureFailed(); failed != nil {
		f.hint = fmt.Sprintf("hallpass why record:%d, whose signature failed", failed.GetDecided())
	}
	return f
}

// loadedBefore finds the load that put a policy in force before a record. That is the last one before it, or for a refusal that was
// written while the policy changed, one more back.
func loadedBefore(ctx context.Context, conn *client.Client, who client.SignIn, index uint64, ref *pb.PolicyRef) (*pb.Revision, error) {
	page := &pb.ListRevisionsRequest{Before: index, PageSize: 2}
	for {
		answer, err := conn.ListRevisions(ctx, who, page)
		if err != nil {
			return nil, err
		}
		for _, r := range answer.GetRevisions() {
			if p := r.GetLoaded().GetPolicy(); bytes.Equal(p.GetDigest(), ref.GetDigest()) && p.GetRevision() == ref.GetRevision() && p.GetDirty() == ref.GetDirty() {
				return r, nil
			}
		}
		page.PageToken, page.PageSize = answer.GetNextPageToken(), 1000
		if page.PageToken == "" {
			return nil, fmt.Errorf("record %d cites the policy %s, and no record before it puts that in force", index, short(policyName(ref)))
		}
	}
}

// policyOf gets the files of a policy and compiles them.
func policyOf(ctx context.Context, conn *client.Client, who client.SignIn, ref ca.PolicyRef) (*policy.Policy, error) {
	_, files, err := conn.GetRevision(ctx, who, fmt.Sprintf("%x", ref.Digest))
	if err != nil {
		return nil, err
	}
	return compileFiles(files, ref)
}

// compileFiles compiles the files that the CA sent of a policy. That they are the right ones is shown by their digest.
func compileFiles(files map[string][]byte, ref ca.PolicyRef) (*policy.Policy, error) {
	p, err := policy.Compile(&policy.Bundle{Files: files, Source: "the log", Revision: ref.Revision, Dirty: ref.Dirty})
	if err != nil {
		return nil, fmt.Errorf("this hallpass cannot compile the policy (%s): %w", policy.Engine, err)
	}
	if p.Ref().Digest != ref.Digest {
		return nil, errors.New("the files that the CA sent are not those that the record cites")
	}
	return p, nil
}

// What else can come of deciding again, besides what policy.Verification says.
const (
	erased     = "inputs erased"
	cannotTell = "cannot tell"
)

// againJSON is a decision made again.
type againJSON struct {
	// Result is "same", "different", "not asked", "inputs erased" or "cannot tell".
	Result string `json:"result"`
	// Reason says why there is nothing to compare.
	Reason string `json:"reason,omitempty"`
	// Engine is that of this program; EngineThen that of the daemon when it loaded the policy.
	Engine      string              `json:"engine"`
	EngineThen  string              `json:"engine_then,omitempty"`
	Outcome     string              `json:"outcome,omitempty"`
	Rule        string              `json:"rule,omitempty"`
	Environment string              `json:"environment,omitempty"`
	Message     string              `json:"message,omitempty"`
	Needs       []needJSON          `json:"needs,omitempty"`
	Differences []policy.Difference `json:"differences,omitempty"`

	question *ca.Question
}

// question is what the policy was asked.
func (f *foundDecision) question() (ca.Question, error) {
	return audit.Question(f.decided, nonEmpty(f.snapshot), nonEmpty(f.lists))
}

// again makes the decision again.
func (f *foundDecision) again(ctx context.Context) againJSON {
	out := againJSON{Engine: policy.Engine, EngineThen: f.loaded.GetLoaded().GetEngine()}
	q, err := f.question()
	switch {
	case errors.Is(err, audit.ErrErased):
		out.Result, out.Reason = erased, "what the policy saw of the caller was erased from the log"
		return out
	case err != nil:
		out.Result, out.Reason = cannotTell, err.Error()
		return out
	}
	out.question = &q
	if f.was.Policy == (ca.PolicyRef{}) {
		out.Result, out.Reason = string(policy.NotAsked), "refused before the policy was asked"
		return out
	}
	if f.problem != nil {
		out.Result, out.Reason = cannotTell, f.problem.Error()
		return out
	}
	r := f.policy.Reproduce(ctx, q, f.was)
	out.Result, out.Reason, out.Differences = string(r.Result), r.Reason, r.Differences
	if r.Result != policy.NotAsked {
		out.Outcome, out.Rule, out.Environment, out.Message = outcomeWords[r.Decision.Outcome], r.Decision.Rule, r.Decision.Environment.Name, r.Decision.Message
		if len(r.Decision.Needs) > 0 {
			out.Needs = needsJSON(r.Decision.Needs)
		}
	}
	return out
}

// nonEmpty is nil for what the wire leaves out.
func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// digits writes a number that may pass 2^53.
func digits(n uint64) string { return strconv.FormatUint(n, 10) }
