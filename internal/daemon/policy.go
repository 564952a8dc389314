package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store"
)

// policyInForce holds the policy that decides, and changes it together with the log.
type policyInForce struct {
	cfg         PolicyConfig
	source      string
	authorities map[string]*ca.Authority
	recorder    *store.Recorder
	store       store.Store
	logger      *slog.Logger

	// mu guards current. It is held for writing from before the record of a new policy until the policy is in force, so that
	// a request whose decision came too late for the log asks again and meets the new one.
	mu      sync.RWMutex
	current *policy.Policy
}

// rules returns the policy in force, nil if there is none yet.
func (p *policyInForce) rules() ca.Rules {
	if current := p.get(); current != nil {
		return current
	}
	return nil
}

func (p *policyInForce) get() *policy.Policy {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.current
}

// start puts the policy of the source in force. If that one is bad, the one that the log has as being in force stays, read
// back from the log; only without one the daemon cannot start.
func (p *policyInForce) start(ctx context.Context) error {
	loadErr := p.load(ctx, "start")
	if loadErr == nil {
		return nil
	}
	last, err := p.fromLog(ctx)
	if err != nil {
		return errors.Join(loadErr, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = last
	return nil
}

// load reads the source and puts it in force. A bad policy never replaces a good one: the refusal is a record.
func (p *policyInForce) load(ctx context.Context, cause string) error {
	next, revision, err := p.read()
	if err != nil {
		return p.refuse(ctx, revision, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.recorder.LoadPolicy(ctx, next.Ref(), p.source, cause, policy.Engine, next.Blobs()); err != nil {
		return fmt.Errorf("record policy %s: %w", p.source, err)
	}
	p.current = next
	ref := next.Ref()
	p.logger.Info("policy in force", "source", p.source, "cause", cause, "revision", ref.Revision,
		"digest", fmt.Sprintf("%x", ref.Digest[:6]), "dirty", ref.Dirty)
	return nil
}

// reload loads the policy for an admin, and says whether another is in force then.
func (p *policyInForce) reload(ctx context.Context) (ca.PolicyRef, bool, error) {
	before := p.get().Ref()
	if err := p.load(ctx, "reload"); err != nil {
		return ca.PolicyRef{}, false, &ca.Error{Kind: ca.Invalid, Message: err.Error() + "; the one before stays in force"}
	}
	now := p.get().Ref()
	return now, now != before, nil
}

// accept is for sources that have a history.
func (p *policyInForce) accept(context.Context, ca.Caller, string, string) (ca.PolicyRef, error) {
	return ca.PolicyRef{}, ca.Errorf(ca.Invalid, "the policy is read from a folder: commit there what is to be in force, and reload")
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

// read compiles the source and returns the revision too, where it got that far.
func (p *policyInForce) read() (*policy.Policy, string, error) {
	bundle, err := policy.ReadDir(p.source, p.cfg.AllowDirty)
	if err != nil {
		return nil, "", err
	}
	compiled, err := p.compile(bundle)
	return compiled, bundle.Revision, err
}

// compile also refuses a policy that names an Authority which this daemon does not have.
func (p *policyInForce) compile(bundle *policy.Bundle) (*policy.Policy, error) {
	compiled, err := policy.Compile(bundle)
	if err != nil {
		return nil, err
	}
	for _, name := range compiled.Authorities() {
		if p.authorities[name] == nil {
			return nil, fmt.Errorf("the policy names the authority %q, which hallpassd.yaml does not have", name)
		}
	}
	return compiled, nil
}

func (p *policyInForce) refuse(ctx context.Context, revision string, reason error) error {
	reason = fmt.Errorf("policy %s: %w", p.source, reason)
	p.logger.Error("policy refused, the one before stays in force", "source", p.source, "revision", revision, "error", reason)
	if err := p.recorder.RefusePolicy(ctx, p.source, revision, bounded(reason.Error())); err != nil {
		return errors.Join(reason, fmt.Errorf("record it: %w", err))
	}
	return reason
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

// bounded cuts an error so that it fits a record.
func bounded(s string) string {
	const limit = 4000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + " ..."
}
