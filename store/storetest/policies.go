package storetest

import (
	"errors"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// testPolicies goes through what can become of a policy that is offered: refused, accepted by an admin's word, loaded.
func testPolicies(t *testing.T, l *log) {
	ctx, r := t.Context(), l.Recorder
	lastRefusal := func(wantRevision string, wantFault pb.PolicyFault) {
		t.Helper()
		revision, fault, err := r.LastRefusal(ctx)
		if revision != wantRevision || fault != wantFault || err != nil {
			t.Errorf("last refused: %q for %v, %v; want %q for %v", revision, fault, err, wantRevision, wantFault)
		}
	}
	accepted := func(revision string, replaces ca.PolicyRef, want bool) {
		t.Helper()
		if got, err := r.Accepted(ctx, revision, replaces); got != want || err != nil {
			t.Errorf("%s in place of %s is accepted: %v, %v; want %v", revision, replaces.Revision, got, err, want)
		}
	}
	lastRefusal("", pb.PolicyFault_POLICY_FAULT_UNSPECIFIED)
	refusal := store.PolicyRefusal{
		Source: "https://git.example.com/policy main", Revision: "other", Message: "it does not descend", Fault: pb.PolicyFault_POLICY_FAULT_NOT_A_DESCENDANT,
		Commit: &pb.Commit{Author: strings.Repeat("a", 1<<20), Subject: "\xff"}, // a commit may say anything
	}
	if err := r.RefusePolicy(ctx, refusal); err != nil {
		t.Fatal(err)
	}
	lastRefusal("other", pb.PolicyFault_POLICY_FAULT_NOT_A_DESCENDANT)

	first := l.Policy
	accepted("other", first, false)
	if err := r.AcceptPolicy(ctx, l.Grant(t, "alice").Caller, "other", "it is right"); err != nil {
		t.Fatal(err)
	}
	accepted("other", first, true)
	accepted("another", first, false)

	next := ca.PolicyRef{Digest: [32]byte{7}, Revision: "other"}
	wrong := ca.PolicyRef{Digest: [32]byte{9}, Revision: "gone"}
	load := store.PolicyLoad{Policy: next, Source: "x", Cause: "accept", Engine: "cel v1", Replaces: &wrong}
	if err := r.LoadPolicy(ctx, load); !errors.Is(err, store.ErrExpect) {
		t.Errorf("loaded in place of a policy that is not in force: %v, want %v", err, store.ErrExpect)
	}
	load.Replaces, load.Commit = &first, &pb.Commit{Author: "Alice <alice@example.com>", Signer: "alice@example.com", SigningKey: "SHA256:x"}
	if err := r.LoadPolicy(ctx, load); err != nil {
		t.Fatal(err)
	}
	lastRefusal("", pb.PolicyFault_POLICY_FAULT_UNSPECIFIED)
	accepted("other", next, false) // the word was for the policy before
	if commit, err := r.PolicyCommit(ctx); commit.GetSigningKey() != "SHA256:x" || err != nil {
		t.Errorf("the commit of the policy in force: %v, %v", commit, err)
	}
	if ref, ok, err := r.PolicyInForce(ctx); ref != next || !ok || err != nil {
		t.Errorf("policy in force: %v, %v, %v", ref, ok, err)
	}
}
