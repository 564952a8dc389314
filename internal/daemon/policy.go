package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// policyInForce holds the policy that decides, and changes it together with the log. Whatever reads the source runs in start or,
// after that, in follow, one at a time; everything else may be called at any time.
type policyInForce struct {
	policyGate
	source  policySource
	store   store.Store
	logger  *slog.Logger
	metrics *policyMetrics

	// current is read by every request and never waited for. It is set after the record of a policy is durable, so it may be behind
	// the log for a moment; a request whose decision comes too late for the log is told so, and waits in newer until current is not.
	current  atomic.Pointer[policy.Policy]
	changing atomic.Pointer[change] // while a record is being written

	asks  chan ask      // what follow is asked to do
	pokes chan struct{} // a poke that nobody waits for
	ended chan struct{} // closed once follow has ended

	last refusal // owned by whoever reads the source: what was recorded last and still holds
	late bool    // likewise: that the source was not reached for too long was said
}

// change is a policy that is being recorded.
type change struct{ settled chan struct{} }

// rules returns the policy in force, nil if there is none yet.
func (p *policyInForce) rules() ca.Rules {
	if current := p.get(); current != nil {
		return current
	}
	return nil
}

func (p *policyInForce) get() *policy.Policy { return p.current.Load() }

// newer waits until the policy in force is another than the one which the log says is in force no longer.
func (p *policyInForce) newer(ctx context.Context, than ca.PolicyRef) {
	for p.get().Ref() == than {
		c := p.changing.Load()
		if c == nil {
			return // it has just been settled, or the log is wrong, and the core gives up after a few times
		}
		select {
		case <-c.settled:
		case <-ctx.Done():
			return
		}
	}
}

// put records a policy and puts it in force. Requests go on under the one before until the record is durable.
func (p *policyInForce) put(ctx context.Context, next *policy.Policy, load store.PolicyLoad) error {
	c := &change{settled: make(chan struct{})}
	p.changing.Store(c)
	defer func() {
		p.changing.Store(nil)
		close(c.settled)
	}()
	load.Policy, load.Engine, load.Blobs, load.Source = next.Ref(), policy.Engine, next.Blobs(), p.source.name()
	switch err := p.recorder.LoadPolicy(ctx, load); {
	case errors.Is(err, store.ErrExpect):
		return errors.New("another policy came into force meanwhile: try again")
	case err != nil:
		return fmt.Errorf("record policy %s: %w", p.source.name(), err)
	}
	p.current.Store(next)
	ref := next.Ref()
	p.logger.Info("policy in force", "source", p.source.name(), "cause", load.Cause, "revision", ref.Revision,
		"digest", fmt.Sprintf("%x", ref.Digest[:6]), "dirty", ref.Dirty)
	p.tell(ctx, next)
	return nil
}

// tell shows in the metrics what is in force, and since when.
func (p *policyInForce) tell(ctx context.Context, inForce *policy.Policy) {
	newest, err := store.Revisions(ctx, p.store, nil, 1)
	if err != nil || len(newest) == 0 {
		p.logger.Error("find out since when the policy is in force", "error", err)
		return
	}
	p.metrics.inForce(inForce, newest[0].Time)
}

// start puts the policy of the source in force. If that one is bad, the one that the log has as being in force stays, read
// back from the log; only without one the daemon cannot start. A source that cannot be reached may have left a copy here.
func (p *policyInForce) start(ctx context.Context) error {
	last, refused, err := p.recorder.LastRefusal(ctx)
	if err != nil {
		return err
	}
	p.last = refusal{fault: refused, revision: last}
	loadErr := p.load(ctx, causeStart)
	if loadErr == nil {
		return nil
	}
	before, err := p.fromLog(ctx)
	if err == nil {
		p.current.Store(before)
		p.tell(ctx, before)
		return nil
	}
	if p.last.fault == pb.PolicyFault_POLICY_FAULT_UNREADABLE {
		unreachable := p.last
		if b, copyErr := p.source.kept(); copyErr == nil && b != nil && p.take(ctx, b, nil, causeStart) == nil {
			p.logger.Warn("going on with the copy of the policy that was fetched before", "revision", b.Revision)
			p.last = unreachable
			p.metrics.alarm(unreachable.fault)
			return nil
		}
	}
	return errors.Join(loadErr, err)
}

// files returns the files of a policy that the log has.
func (p *policyInForce) files(ctx context.Context, ref ca.PolicyRef) (map[string][]byte, error) {
	bundle, err := p.bundle(ctx, ref)
	if err != nil {
		return nil, err
	}
	return bundle.Files, nil
}

func (p *policyInForce) bundle(ctx context.Context, ref ca.PolicyRef) (*policy.Bundle, error) {
	return policy.ReadManifest(ref, func(digest [32]byte) ([]byte, error) { return p.store.Blob(ctx, digest) })
}

// fromLog compiles the policy that the log has as being in force, from its blobs.
func (p *policyInForce) fromLog(ctx context.Context) (*policy.Policy, error) {
	ref, ok, err := p.recorder.PolicyInForce(ctx)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("and the log has no earlier policy to go on with")
	}
	bundle, err := p.bundle(ctx, ref)
	if err != nil {
		return nil, err
	}
	compiled, err := p.compile(bundle)
	if err != nil {
		return nil, err
	}
	p.logger.Warn("going on with the policy that was in force before", "revision", ref.Revision, "digest", fmt.Sprintf("%x", ref.Digest[:6]))
	return compiled, nil
}

// commitOf is how a record tells of the commit of a bundle; nil if it has none.
func commitOf(b *policy.Bundle) *pb.Commit {
	if b == nil || b.Commit == nil {
		return nil
	}
	c := &pb.Commit{Author: b.Commit.Author, Subject: b.Commit.Subject, Signer: b.Commit.Signer, SigningKey: b.Commit.SigningKey}
	if !b.Commit.Time.IsZero() {
		c.Time = timestamppb.New(b.Commit.Time)
	}
	return c
}
