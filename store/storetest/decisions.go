package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
)

// racers is how many use one thing at once.
const racers = 32

// race records many attempts at once, of which exactly one may be taken; every other must fail with want.
func race(t *testing.T, l *log, want error, attempt func() *ca.Attempt) {
	t.Helper()
	for range 8 {
		var attempts [racers]*ca.Attempt
		for i := range attempts {
			attempts[i] = attempt()
		}
		before := len(Records(t, l))
		errs := [racers]error{}
		var wg sync.WaitGroup
		for i, a := range attempts {
			wg.Go(func() { _, errs[i] = l.Recorder.Record(context.Background(), a, l.Build(a)) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
		}
		if won != 1 || len(Records(t, l)) != before+1 {
			t.Errorf("%d won and %d records were written, want one", won, len(Records(t, l))-before)
		}
	}
}

func testRaceNonce(t *testing.T, l *log) {
	var first *ca.Attempt
	n := 0
	race(t, l, ca.ErrNonceUsed, func() *ca.Attempt {
		a := l.Grant(t, "alice")
		if n++; n%racers == 1 {
			first = a
		}
		a.Request.Nonce = first.Request.Nonce
		return a
	})
	// Nonces are an identity's own.
	other := l.Grant(t, "bob")
	other.Request.Nonce = first.Request.Nonce
	l.mustRecord(t, other)
}

func testRaceToken(t *testing.T, l *log) {
	var first *ca.Attempt
	n := 0
	race(t, l, ca.ErrTokenUsed, func() *ca.Attempt {
		a := l.Grant(t, "ci")
		if n++; n%racers == 1 {
			first = a
		}
		a.Caller.Identity.Kind, a.Caller.Token.Bound = ca.Workload, false
		a.Caller.Token.Digest, a.Request.PublicKey = first.Caller.Token.Digest, first.Request.PublicKey
		return a
	})
}

func testUnboundToken(t *testing.T, l *log) {
	first := l.Grant(t, "alice")
	first.Caller.Token.Bound = false
	l.mustRecord(t, first)

	same := l.Grant(t, "alice")
	same.Caller.Token, same.Request.PublicKey = first.Caller.Token, first.Request.PublicKey
	l.mustRecord(t, same)

	thief := l.Grant(t, "alice")
	thief.Caller.Token = first.Caller.Token
	if _, err := l.Record(t, thief); !errors.Is(err, ca.ErrTokenUsed) {
		t.Errorf("another key with the same token: error %v, want %v", err, ca.ErrTokenUsed)
	}
	bound := l.Grant(t, "alice")
	bound.Caller.Token.Digest = first.Caller.Token.Digest
	l.mustRecord(t, bound) // a token that is bound to a key needs no memory of its first
}

func testExpiry(t *testing.T, l *log) {
	first := l.Grant(t, "ci")
	first.Caller.Identity.Kind, first.Caller.Token.Bound = ca.Workload, false
	first.Caller.Token.Expires = l.clock.Now()
	l.mustRecord(t, first)
	again := func() *ca.Attempt {
		a := l.Grant(t, "ci")
		a.Caller.Identity.Kind, a.Caller.Token, a.Request.Nonce = ca.Workload, first.Caller.Token, first.Request.Nonce
		a.Caller.Token.Expires = l.clock.Now() // who verifies the log wants one that serves
		return a
	}
	l.clock.Move(15*time.Minute - time.Second)
	if _, err := l.Record(t, again()); !errors.Is(err, ca.ErrNonceUsed) {
		t.Errorf("just before the nonce is forgotten: error %v, want %v", err, ca.ErrNonceUsed)
	}
	fresh := again()
	fresh.Request.Nonce = l.Grant(t, "ci").Request.Nonce
	if _, err := l.Record(t, fresh); !errors.Is(err, ca.ErrTokenUsed) {
		t.Errorf("just before the token is forgotten: error %v, want %v", err, ca.ErrTokenUsed)
	}
	l.clock.Move(time.Second)
	l.mustRecord(t, again())
	if _, err := l.Record(t, again()); !errors.Is(err, ca.ErrNonceUsed) && !errors.Is(err, ca.ErrTokenUsed) {
		t.Errorf("used again: error %v", err)
	}
	// Many more than a commit forgets at once.
	for range 200 {
		l.mustRecord(t, l.Grant(t, "ci"))
	}
	l.clock.Move(time.Hour)
	for range 3 {
		l.mustRecord(t, l.Grant(t, "ci"))
	}
}

func testUnproven(t *testing.T, l *log) {
	a := l.Grant(t, "alice")
	refused := *a
	refused.Proven, refused.Authority, refused.Policy, refused.Decision = false, "", ca.PolicyRef{}, ca.Decision{}
	refused.Caller.Token.Bound = false
	refused.Refusal = ca.Errorf(ca.Unauthenticated, "the signature does not verify")
	l.mustRecord(t, &refused)
	l.mustRecord(t, &refused)
	if earlier, err := l.Recorder.Earlier(t.Context(), a.Caller, a.Request); err != nil || earlier != nil {
		t.Errorf("found %v by the nonce of a request that is not proven, error %v", earlier, err)
	}
	a.Caller.Token.Bound = false
	l.mustRecord(t, a)

	// Nor does a request that could not even be read.
	unread := *a
	unread.Request = ca.Request{Digest: a.Request.Digest}
	unread.Proven, unread.Authority, unread.Refusal = false, "", ca.Errorf(ca.Invalid, "no request: \xff")
	l.mustRecord(t, &unread)
}

func testBoundKeys(t *testing.T, l *log) {
	a := l.Grant(t, "alice")
	second := l.Grant(t, "alice")
	second.Caller.Token.AuthTime = a.Caller.Token.AuthTime
	later := l.Grant(t, "alice")
	later.Caller.Token.AuthTime = a.Caller.Token.AuthTime.Add(time.Minute)
	unbound := l.Grant(t, "alice")
	unbound.Caller.Token.Bound = false
	other := l.Grant(t, "bob")
	for _, attempt := range []*ca.Attempt{a, second, later, unbound, other} {
		l.mustRecord(t, attempt)
	}
	got, err := l.Recorder.BoundKeys(t.Context(), a.Caller)
	if err != nil {
		t.Fatal(err)
	}
	want := [][32]byte{audit.Digest(a.Request.PublicKey.Marshal()), audit.Digest(second.Request.PublicKey.Marshal())}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b [32]byte) bool { return string(a[:]) < string(b[:]) })); diff != "" {
		t.Errorf("keys bound to the sign-in (-want +got):\n%s", diff)
	}
	a.Caller.Token.AuthTime = time.Time{}
	if got, err := l.Recorder.BoundKeys(t.Context(), a.Caller); err != nil || len(got) != 0 {
		t.Errorf("without auth_time: %d keys, error %v", len(got), err)
	}
}

func testPolicyInForce(t *testing.T, l *log) {
	late := l.Grant(t, "alice")
	dirty := policy("two")
	dirty.Dirty = true
	l.load(t, policy("two"))
	if _, err := l.Record(t, late); !errors.Is(err, ca.ErrPolicyChanged) {
		t.Errorf("granted by the policy before: error %v, want %v", err, ca.ErrPolicyChanged)
	}
	late.Policy = dirty
	if _, err := l.Record(t, late); !errors.Is(err, ca.ErrPolicyChanged) {
		t.Errorf("granted by another state of the policy: error %v, want %v", err, ca.ErrPolicyChanged)
	}
	late.Policy = policy("two")
	l.mustRecord(t, late)
	// A refusal gives nothing away, whatever policy made it.
	denied := l.Grant(t, "alice")
	denied.Refusal, denied.Authority, denied.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
	l.mustRecord(t, denied)
}

func testListedKey(t *testing.T, l *log) {
	a := l.Grant(t, "alice")
	a.Authority = "prod" // whose key is listed under another name only
	if _, err := l.Record(t, a); ca.KindOf(err) != ca.Unavailable {
		t.Errorf("a key that is not listed for the Authority: error %v", err)
	}
	rogue := *l.Fixture
	rogue.Authority = newKey(t)
	b := l.Grant(t, "alice")
	if _, err := rogue.Record(t, b); ca.KindOf(err) != ca.Unavailable {
		t.Errorf("a key that is not listed: error %v", err)
	}
	if err := l.Recorder.ListAuthorityKey(t.Context(), "prod", l.Authority.Marshal(), "agent"); err != nil {
		t.Fatal(err)
	}
	l.mustRecord(t, a)
	// The store holds a grant to its own serial, whoever builds it.
	c := l.Grant(t, "alice")
	if _, err := l.Recorder.Record(t.Context(), c, func(serial uint64) ([]byte, error) { return l.Build(c)(serial + 1) }); err == nil {
		t.Error("a certificate with the serial of another record was taken")
	}
	fault := errors.New("no")
	if _, err := l.Recorder.Record(t.Context(), c, func(uint64) ([]byte, error) { return nil, fault }); !errors.Is(err, fault) {
		t.Errorf("a certificate that cannot be built: error %v, want %v", err, fault)
	}
}

func testEarlier(t *testing.T, l *log) {
	granted := l.Grant(t, "alice")
	index := l.mustRecord(t, granted)
	got, err := l.Recorder.Earlier(t.Context(), granted.Caller, granted.Request)
	if err != nil {
		t.Fatal(err)
	}
	toBeSigned, err := l.Build(granted)(audit.Serial(0, index))
	if err != nil {
		t.Fatal(err)
	}
	want := &ca.Recorded{
		Index: index, Issuer: Issuer, Subject: "alice", Digest: granted.Request.Digest, Authority: "default", ToBeSigned: toBeSigned,
		Decision: ca.Decision{Outcome: ca.Allow, Rule: "sre-on-prod", Environment: ca.Environment{Name: "prod"}}, Policy: l.Policy,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an earlier grant (-want +got):\n%s", diff)
	}

	needs := l.Grant(t, "alice")
	needs.Authority = ""
	needs.Decision = ca.Decision{
		Outcome: ca.NeedsMore, Rule: "sre-on-prod", Message: "sign in again", Environment: ca.Environment{Name: "prod"},
		Needs:  []ca.Need{{Kind: ca.NeedReason}, {Kind: ca.NeedFreshLogin, LoginWithin: 15 * time.Minute}},
		Failed: []ca.FailedRule{{Rule: "other", Message: "no such key"}},
	}
	needs.Refusal = &ca.Error{Kind: ca.Needs, Message: "sign in again", Needs: needs.Decision.Needs}
	index = l.mustRecord(t, needs)
	if got, err = l.Recorder.Earlier(t.Context(), needs.Caller, needs.Request); err != nil {
		t.Fatal(err)
	}
	want = &ca.Recorded{
		Index: index, Issuer: Issuer, Subject: "alice", Digest: needs.Request.Digest, Decision: needs.Decision, Policy: l.Policy, Refusal: needs.Refusal,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an earlier refusal (-want +got):\n%s", diff)
	}
	if got, err = l.Recorder.Earlier(t.Context(), l.Grant(t, "alice").Caller, l.Grant(t, "alice").Request); got != nil || err != nil {
		t.Errorf("found %v for a fresh nonce, error %v", got, err)
	}
	if err := l.Recorder.SignatureFailed(t.Context(), 3, "default", errors.New("agent: failure")); err != nil {
		t.Error(err)
	}
}

func testSnapshots(t *testing.T, l *log) {
	digests := map[string]bool{}
	for i := range 6 {
		a := l.Grant(t, "alice")
		if i%2 == 1 { // a refusal before the policy was asked knows no claims
			a.Caller.Identity.Claims = nil
		}
		if i > 3 { // the order of groups says nothing
			a.Caller.Identity.Groups = []string{"developers", "sre"}
		}
		index := l.mustRecord(t, a)
		records, err := l.Records(t.Context(), index, 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.Parse(records[0])
		if err != nil {
			t.Fatal(err)
		}
		digests[string(r.GetDecided().GetCaller().GetSnapshot())] = true
	}
	if len(digests) != 2 {
		t.Errorf("%d snapshots of two states of an identity", len(digests))
	}
}

func testFetchedLists(t *testing.T, l *log) {
	digests := map[string]bool{}
	for i := range 4 {
		a := l.Grant(t, "alice")
		a.Lists = []ca.FetchedList{{Name: "oncall", Fetched: a.Now.Add(-time.Duration(i) * time.Minute), Members: []string{"alice@example.com"}}}
		if i == 3 {
			a.Lists[0].Members = append(a.Lists[0].Members, "bob@example.com")
		}
		records, err := l.Records(t.Context(), l.mustRecord(t, a), 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.Parse(records[0])
		if err != nil {
			t.Fatal(err)
		}
		d := r.GetDecided()
		digests[string(d.GetLists())] = true
		snapshot, err := l.Blob(t.Context(), [32]byte(d.GetCaller().GetSnapshot()))
		if err != nil {
			t.Fatal(err)
		}
		lists, err := l.Blob(t.Context(), [32]byte(d.GetLists()))
		if err != nil {
			t.Fatal(err)
		}
		q, err := audit.Question(d, snapshot, lists)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a.Lists, q.Lists); diff != "" {
			t.Errorf("lists (-asked +recorded):\n%s", diff)
		}
	}
	if len(digests) != 2 {
		t.Errorf("%d blobs of two states of a list", len(digests))
	}
}

func testAlreadySo(t *testing.T, l *log) {
	before := len(Records(t, l))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := l.Recorder.ListAuthorityKey(context.Background(), "default", l.Authority.Marshal(), "file"); err != nil {
				t.Error(err)
			}
			if err := l.Recorder.LoadPolicy(context.Background(), store.PolicyLoad{Policy: l.Policy, Source: "/elsewhere", Cause: "reload", Engine: "cel v1"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if after := len(Records(t, l)); after != before {
		t.Errorf("%d records more, although nothing changed", after-before)
	}
	for range 10 {
		wg.Go(func() {
			if err := l.Recorder.LoadPolicy(context.Background(), store.PolicyLoad{Policy: l.Policy, Source: "/etc/policy", Cause: "start", Engine: "cel v2"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if after := len(Records(t, l)); after != before+1 {
		t.Errorf("%d records more for a new engine, want 1", after-before)
	}
	if ref, ok, err := l.Recorder.PolicyInForce(t.Context()); ref != l.Policy || !ok || err != nil {
		t.Errorf("policy in force: %v, %v, %v", ref, ok, err)
	}
}

func testEveryKind(t *testing.T, l *log) {
	ctx, r, caller := t.Context(), l.Recorder, l.Grant(t, "alice").Caller
	index := l.mustRecord(t, l.Grant(t, "alice"))
	from, to := l.clock.Now(), l.clock.Now().Add(time.Minute)
	before := len(Records(t, l))
	for name, err := range map[string]error{
		"signature failed":     r.SignatureFailed(ctx, index, "default", errors.New("agent went away")),
		"policy refused":       r.RefusePolicy(ctx, store.PolicyRefusal{Source: "/etc/policy", Revision: "abc", Message: "policy.yaml:3:1: no such key\xff"}),
		"strangers counted":    r.CountStrangers(ctx, from, to, map[string]uint64{"expired": 3, "bad signature": 1}),
		"refusals counted":     r.CountRefusals(ctx, caller, from, to, 7),
		"access refused":       r.RefuseAccess(ctx, caller, "/hallpass.v1.AuditService/GetRecord", "192.0.2.7", l.Policy, ca.Errorf(ca.Denied, "auditors only")),
		"access without rules": r.RefuseAccess(ctx, caller, "/x", "", ca.PolicyRef{}, ca.Errorf(ca.Denied, "no")),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := len(Records(t, l)); after != before+6 {
		t.Errorf("%d records, want 6", after-before)
	}
	found, err := store.List(ctx, l, store.Query{Issuer: Issuer, Subject: "alice", Limit: 10})
	if err != nil || len(found) != 4 {
		t.Errorf("%d records are about alice, want 4; error %v", len(found), err)
	}
}

// testSize holds the record of a usual grant to a size of which four fit into a page of 4 KB that is filled to nine tenths.
func testSize(t *testing.T, l *log) {
	const limit = 890
	l.Policy.Revision = "8f14e45fceea167a5a36dedd4bea2543c0ffee00"
	l.load(t, l.Policy)
	a := l.Grant(t, "00u1a2b3c4d5e6f7g8h9")
	a.Request.Reason = "INC-20211: the primary does not answer, looking at its disks"
	index := l.mustRecord(t, a)
	records, err := l.Records(t.Context(), index, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(records[0]); got >= limit {
		t.Errorf("the record of a usual grant has %d bytes, want less than %d", got, limit)
	}
}
