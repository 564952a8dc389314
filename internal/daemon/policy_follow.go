package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// What made the daemon look at the source.
const (
	causeStart  = "start"
	causeReload = "reload"
	causePoll   = "poll"
	causeAccept = "accept"
)

const (
	// askPatience is how long somebody who asks for a look at the source is kept waiting: less than the deadline of a call.
	askPatience = 25 * time.Second
	// startPatience is how long a start waits for the source if there is a policy to go on with. The next look takes its time.
	startPatience = 5 * time.Second
)

// ask is something to do for somebody who waits.
type ask struct {
	do     func(ctx context.Context) error
	answer chan error // has room for it
}

// follow looks at the source whenever it is time to, and whenever somebody asks, until ctx is done.
func (p *policyInForce) follow(ctx context.Context) {
	defer close(p.ended)
	poll, _ := p.source.rhythm()
	var due <-chan time.Time
	if poll > 0 {
		tick := time.NewTicker(poll)
		defer tick.Stop()
		due = tick.C
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-due:
			_ = p.load(ctx, causePoll) // logged and recorded there; the policy before stays
			p.watchAge()
		case <-p.pokes:
			_ = p.load(ctx, causeReload)
		case a := <-p.asks:
			a.answer <- a.do(ctx)
		}
	}
}

// poke makes follow look soon. Nobody learns what came of it.
func (p *policyInForce) poke() {
	select {
	case p.pokes <- struct{}{}:
	default: // it will look anyway
	}
}

// ask has follow do something, and waits until it is done. What is done goes on if the one who asked gives up.
func (p *policyInForce) ask(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	a := ask{do, make(chan error, 1)}
	busy := ca.Errorf(ca.Unavailable, "the source of the policy does not answer yet; `hallpass policy log` shows later what came of it")
	select {
	case p.asks <- a:
	case <-ctx.Done():
		return busy
	case <-p.ended:
		return ca.Errorf(ca.Unavailable, "the CA is ending")
	}
	select {
	case err := <-a.answer:
		return err
	case <-ctx.Done():
		return busy
	}
}

// reload loads the policy for an admin, and says whether another is in force then.
func (p *policyInForce) reload(ctx context.Context) (ref ca.PolicyRef, changed bool, err error) {
	err = p.ask(ctx, func(ctx context.Context) error {
		before := p.get().Ref()
		if err := p.load(ctx, causeReload); err != nil {
			return refused(err)
		}
		ref = p.get().Ref()
		changed = ref != before
		return nil
	})
	if err != nil {
		return ca.PolicyRef{}, false, err
	}
	return ref, changed, nil
}

func refused(err error) error {
	reason, separator := err.Error(), "; "
	if strings.Contains(reason, "\n") { // it ends with a line of the policy
		separator = "\n"
	}
	return &ca.Error{Kind: ca.Invalid, Message: reason + separator + "the policy before stays in force"}
}

// load reads the source and puts it in force. A bad policy never replaces a good one: the refusal is a record.
func (p *policyInForce) load(ctx context.Context, cause string) error {
	b, err := p.read(ctx, cause)
	if err == nil || b != nil {
		p.metrics.looked(p.now())
		p.late = false
	}
	return p.take(ctx, b, err, cause)
}

func (p *policyInForce) read(ctx context.Context, cause string) (*policy.Bundle, error) {
	if cause == causeStart {
		_, ok, err := p.recorder.PolicyInForce(ctx)
		if err != nil {
			return nil, err
		}
		if ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, startPatience)
			defer cancel()
		}
	}
	b, err := p.source.read(ctx)
	if err == nil && b.Uncommitted {
		p.logger.Warn("the folder of the policy has changes that are not committed: what is committed counts", "source", p.source.name(), "revision", b.Revision)
	}
	return b, err
}

// take holds a bundle to everything that a policy is held to, and puts it in force. Its signature comes first: what nobody vouches
// for is not even read.
func (p *policyInForce) take(ctx context.Context, b *policy.Bundle, readErr error, cause string) error {
	next, load, err := p.examine(ctx, b, readErr, cause)
	switch unchanged := err == nil && next == p.get(); {
	case unchanged && cause != causePoll:
		p.logger.Info("policy unchanged", "source", p.source.name(), "cause", cause, "revision", b.Revision)
	case !unchanged && err == nil:
		err = p.put(ctx, next, load)
	}
	switch {
	case err == nil:
		p.last = refusal{}
		p.metrics.good()
		return nil
	case ctx.Err() != nil: // the daemon ends: that is nobody's fault
		return ctx.Err()
	}
	return p.refuse(ctx, b, err, cause)
}

// examine compiles a policy that may come into force, and says how to record it.
func (p *policyInForce) examine(ctx context.Context, b *policy.Bundle, readErr error, cause string) (*policy.Policy, store.PolicyLoad, error) {
	load := store.PolicyLoad{Cause: cause}
	inForce, any, err := p.recorder.PolicyInForce(ctx)
	if err != nil {
		return nil, load, err
	}
	if b == nil {
		return nil, load, readErr
	}
	if any {
		load.Replaces = &inForce
	}
	if b.Commit != nil || readErr == nil {
		if err := p.signed(ctx, b, inForce); err != nil {
			return nil, load, err
		}
		if load.Cause, err = p.follows(ctx, b, inForce, cause); err != nil {
			return nil, load, err
		}
	}
	if readErr != nil {
		return nil, load, readErr
	}
	load.Commit = commitOf(b)
	if current := p.get(); current != nil && b.Revision != "" && !b.Dirty && !inForce.Dirty && current.Ref() == inForce && b.Revision == inForce.Revision {
		return current, load, nil // the same commit is the same policy
	}
	next, err := p.compile(b)
	if err != nil {
		return nil, load, err
	}
	return next, load, p.tested(ctx, b, next)
}

// follows refuses a commit that does not descend from the one in force, unless an admin let it. It returns the cause of the load.
func (p *policyInForce) follows(ctx context.Context, b *policy.Bundle, inForce ca.PolicyRef, cause string) (string, error) {
	if inForce.Revision == "" || inForce.Revision == b.Revision || b.Revision == "" || cause == causeAccept {
		return cause, nil
	}
	if ok, err := p.source.descends(ctx, b.Revision, inForce.Revision); err != nil || ok {
		return cause, err
	}
	accepted, err := p.recorder.Accepted(ctx, b.Revision, inForce)
	if err != nil {
		return cause, err
	}
	if accepted {
		return causeAccept, nil
	}
	what := "the branch was rewritten, or is another"
	if back, err := p.source.descends(ctx, inForce.Revision, b.Revision); err == nil && back {
		what = "the branch was set back"
	}
	return cause, &policy.Fault{Kind: pb.PolicyFault_POLICY_FAULT_NOT_A_DESCENDANT, Err: fmt.Errorf(
		"commit %.12s does not descend from %.12s, which is in force: %s. Find out who did that; if it is right, an admin says so: "+
			"hallpass policy accept %s --reason WHY", b.Revision, inForce.Revision, what, b.Revision)}
}

// refuse raises the alarm, and records the refusal unless that would repeat the last one.
func (p *policyInForce) refuse(ctx context.Context, b *policy.Bundle, reason error, cause string) error {
	reason = fmt.Errorf("policy %s: %w", p.source.name(), reason)
	r := refusal{fault: faultOf(reason), message: bounded(reason.Error())}
	if b != nil {
		r.revision = b.Revision
	}
	p.metrics.alarm(r.fault)
	again := r.again(p.last, cause)
	if again && cause == causePoll {
		p.last = r
		return reason
	}
	p.logger.Error("policy refused, the one before stays in force", "source", p.source.name(), "revision", r.revision,
		"fault", faultWord(r.fault), "error", reason)
	if again {
		p.last = r
		return reason
	}
	err := p.recorder.RefusePolicy(ctx, store.PolicyRefusal{
		Source: p.source.name(), Revision: r.revision, Message: r.message, Fault: r.fault, Commit: commitOf(b),
	})
	if err != nil {
		return errors.Join(reason, fmt.Errorf("record it: %w", err))
	}
	p.metrics.refused(r.fault)
	p.last = r
	return reason
}

// watchAge says once that the source was not reached for too long.
func (p *policyInForce) watchAge() {
	_, most := p.source.rhythm()
	if old := p.metrics.sourceAge(); most > 0 && old > most && !p.late {
		p.late = true
		p.logger.Warn("the policy may be out of date: its repository was not reached for too long", "source", p.source.name(),
			"age", old.Round(time.Second).String(), "max_age", most.String())
	}
}

// accept lets the newest commit of the branch come into force although it does not descend from the one that is. It is held to
// everything else before an admin's word for it is recorded.
func (p *policyInForce) accept(ctx context.Context, admin ca.Caller, revision, reason string) (ref ca.PolicyRef, err error) {
	if _, follows := p.source.(*repositorySource); !follows {
		return ca.PolicyRef{}, ca.Errorf(ca.Invalid, "the policy is read from a folder: commit there what is to be in force, and reload")
	}
	err = p.ask(ctx, func(ctx context.Context) error {
		ref, err = p.acceptNow(ctx, admin, revision, reason)
		return err
	})
	if err != nil {
		return ca.PolicyRef{}, err
	}
	return ref, nil
}

func (p *policyInForce) acceptNow(ctx context.Context, admin ca.Caller, revision, reason string) (ca.PolicyRef, error) {
	inForce := p.get().Ref()
	b, readErr := p.source.read(ctx)
	switch {
	case b == nil:
		return inForce, refused(p.take(ctx, b, readErr, causeAccept))
	case b.Revision != revision:
		return inForce, ca.Errorf(ca.Invalid, "the newest commit of the branch is %s, not %.12s: accept that one, or push the other", b.Revision, revision)
	case inForce.Revision == revision:
		return inForce, ca.Errorf(ca.Invalid, "the commit %.12s is in force already", revision)
	}
	p.metrics.looked(p.now())
	next, load, err := p.examine(ctx, b, readErr, causeAccept)
	if err != nil {
		return inForce, refused(p.refuse(ctx, b, err, causeAccept))
	}
	if ok, err := p.source.descends(ctx, revision, inForce.Revision); err == nil && ok {
		return inForce, ca.Errorf(ca.Invalid, "the commit %.12s descends from the one in force, so there is nothing to accept: reload", revision)
	}
	if err := p.recorder.AcceptPolicy(ctx, admin, revision, reason); err != nil {
		return inForce, fmt.Errorf("record that the policy was accepted: %w", err)
	}
	if err := p.put(ctx, next, load); err != nil {
		return inForce, err
	}
	p.last = refusal{}
	p.metrics.good()
	return next.Ref(), nil
}
