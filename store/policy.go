package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// PolicyLoad is a policy that comes into force.
type PolicyLoad struct {
	Policy ca.PolicyRef
	// Source is the folder or repository that it was read from, Cause what made the daemon read it.
	Source, Cause string
	// Engine is the version of the expression engine that compiled it.
	Engine string
	// Blobs are its manifest and its files.
	Blobs [][]byte
	// Commit is what git says of it; nil if it is not from git.
	Commit *pb.Commit
	// Replaces is what must still be in force, for a policy that was held against it; nil if any may be.
	Replaces *ca.PolicyRef
}

// PolicyRefusal is a policy that did not come into force.
type PolicyRefusal struct {
	// Source is the folder or repository, Revision the commit, where known.
	Source, Revision string
	// Message says why, with file, line and column; Fault says what kind of reason that is.
	Message string
	Fault   pb.PolicyFault
	// Commit is what git says of it, where it could be read.
	Commit *pb.Commit
}

// LoadPolicy puts a policy in force and stores its files and their manifest. If the same policy, compiled by the same engine,
// is in force already, it does nothing. ErrExpect says that the policy which it replaces is not in force any more.
func (r *Recorder) LoadPolicy(ctx context.Context, l PolicyLoad) error {
	for {
		inForce, err := r.value(ctx, audit.PolicyFact)
		if err != nil {
			return err
		}
		compiledBy, err := r.value(ctx, audit.EngineFact)
		if err != nil {
			return err
		}
		if string(inForce) == string(audit.PolicyValue(l.Policy)) && string(compiledBy) == l.Engine {
			return nil
		}
		if l.Replaces != nil && string(inForce) != string(audit.PolicyValue(*l.Replaces)) {
			return ErrExpect
		}
		event := &pb.PolicyLoaded{
			Policy: audit.Policy(l.Policy), Source: audit.Text(l.Source), Cause: l.Cause, Engine: l.Engine, Commit: audit.Commit(l.Commit),
		}
		if previous, ok := audit.ParsePolicyValue(inForce); ok {
			event.Previous = previous.Digest[:]
		}
		entry := entryOf(&audit.Event{Event: &pb.Record_PolicyLoaded{PolicyLoaded: event}})
		entry.Blobs = l.Blobs
		entry.Expect = []Version{{Key: []byte(audit.PolicyFact), Value: inForce}, {Key: []byte(audit.EngineFact), Value: compiledBy}}
		if _, err = r.store.Append(ctx, entry); !errors.Is(err, ErrExpect) {
			return err
		}
	}
}

// RefusePolicy records that a policy did not load.
func (r *Recorder) RefusePolicy(ctx context.Context, f PolicyRefusal) error {
	return r.append(ctx, &audit.Event{Event: &pb.Record_PolicyRefused{PolicyRefused: &pb.PolicyRefused{
		Source: audit.Text(f.Source), Revision: audit.Text(f.Revision), Message: audit.Text(f.Message), Fault: f.Fault, Commit: audit.Commit(f.Commit),
	}}})
}

// PolicyCommit returns what the log says of the commit of the policy in force; nil if that is not from git.
func (r *Recorder) PolicyCommit(ctx context.Context) (*pb.Commit, error) {
	newest, err := Revisions(ctx, r.store, nil, 1)
	if err != nil || len(newest) == 0 {
		return nil, err
	}
	return newest[0].Loaded.GetCommit(), nil
}

// LastRefusal returns the commit and the fault of the newest refusal since the policy in force was loaded; no fault if there is none.
func (r *Recorder) LastRefusal(ctx context.Context) (revision string, fault pb.PolicyFault, err error) {
	value, err := r.value(ctx, audit.RefusedFact)
	if err != nil {
		return "", 0, err
	}
	revision, fault = audit.ParseRefusedValue(value)
	return revision, fault, nil
}

// AcceptPolicy records an admin's word that a commit may replace the policy in force although it does not descend from it.
func (r *Recorder) AcceptPolicy(ctx context.Context, admin ca.Caller, revision, reason string) error {
	inForce, ok, err := r.PolicyInForce(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("accept a policy: none is in force that it could replace")
	}
	_, err = r.appendOf(ctx, admin.Identity, func(caller *pb.Caller) *audit.Event {
		return &audit.Event{Event: &pb.Record_PolicyAccepted{PolicyAccepted: &pb.PolicyAccepted{
			Caller: caller, Revision: revision, Previous: audit.Policy(inForce), Reason: audit.Text(reason),
		}}}
	})
	return err
}

// Accepted says whether an admin let a commit replace this policy.
func (r *Recorder) Accepted(ctx context.Context, revision string, replaces ca.PolicyRef) (bool, error) {
	value, err := r.value(ctx, string(audit.AcceptedFact(revision)))
	return err == nil && value != nil && string(value) == string(audit.PolicyValue(replaces)), err
}

// PolicyInForce returns the policy that the log has as being in force; false if there was never one.
func (r *Recorder) PolicyInForce(ctx context.Context) (ca.PolicyRef, bool, error) {
	value, err := r.value(ctx, audit.PolicyFact)
	if err != nil || value == nil {
		return ca.PolicyRef{}, false, err
	}
	ref, ok := audit.ParsePolicyValue(value)
	if !ok {
		return ca.PolicyRef{}, false, fmt.Errorf("policy in force: the log has %x, which is none", value)
	}
	return ref, true, nil
}
