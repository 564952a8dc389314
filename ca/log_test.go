package ca_test

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
)

// testLog keeps records in memory, with the conditions that ca.Log promises.
type testLog struct {
	mu       sync.Mutex
	records  []entry
	inForce  ca.PolicyRef
	tokens   map[[32]byte][32]byte // the key that used a token first
	bound    map[string][][32]byte
	failed   []uint64
	record   func(*ca.Attempt) error // fails records
	recorded func()                  // after each record
	// readError fails what reads.
	readError error
}

type entry struct {
	attempt    ca.Attempt
	toBeSigned []byte
	kind       ca.Kind
}

func newTestLog(testing.TB) *testLog {
	return &testLog{tokens: map[[32]byte][32]byte{}, bound: map[string][][32]byte{}}
}

func (l *testLog) putInForce(p ca.PolicyRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inForce = p
}

func (l *testLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

func (l *testLog) last() entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[len(l.records)-1]
}

func (l *testLog) Record(ctx context.Context, a *ca.Attempt, build func(uint64) ([]byte, error)) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.record != nil {
		if err := l.record(a); err != nil {
			return 0, err
		}
	}
	index := uint64(len(l.records))
	e := entry{attempt: *a}
	if a.Proven {
		if l.find(a.Caller, a.Request) >= 0 {
			return 0, ca.ErrNonceUsed
		}
		if a.Policy.Digest != l.inForce.Digest {
			return 0, ca.ErrPolicyChanged
		}
		key := sha256.Sum256(a.Request.PublicKey.Marshal())
		first, used := l.tokens[a.Caller.Token.Digest]
		if used && (first != key || a.Caller.Identity.Kind == ca.Workload) {
			return 0, ca.ErrTokenUsed
		}
		l.tokens[a.Caller.Token.Digest] = key
		if a.Caller.Token.Bound {
			l.bound[signIn(a.Caller)] = append(l.bound[signIn(a.Caller)], key)
		}
	}
	if build != nil {
		toBeSigned, err := build(index + 1)
		if err != nil {
			return 0, err
		}
		e.toBeSigned = toBeSigned
	}
	if a.Refusal != nil {
		e.kind = a.Refusal.Kind
	}
	l.records = append(l.records, e)
	if l.recorded != nil {
		l.recorded()
	}
	return index, nil
}

func signIn(c ca.Caller) string {
	return c.Identity.Issuer + " " + c.Identity.Subject + " " + c.Token.AuthTime.String()
}

func (l *testLog) find(c ca.Caller, r ca.Request) int {
	return slices.IndexFunc(l.records, func(e entry) bool {
		return e.attempt.Proven && e.attempt.Request.Nonce == r.Nonce && e.attempt.Caller.Identity.Subject == c.Identity.Subject
	})
}

func (l *testLog) Earlier(_ context.Context, c ca.Caller, r ca.Request) (*ca.Recorded, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.find(c, r)
	if l.readError != nil {
		return nil, l.readError
	}
	if i < 0 {
		return nil, nil
	}
	e := l.records[i]
	return &ca.Recorded{
		Index: uint64(i), Issuer: e.attempt.Caller.Identity.Issuer, Subject: e.attempt.Caller.Identity.Subject, Digest: e.attempt.Request.Digest,
		Authority: e.attempt.Authority, ToBeSigned: e.toBeSigned, Refusal: e.attempt.Refusal, Decision: e.attempt.Decision, Policy: e.attempt.Policy,
	}, nil
}

func (l *testLog) BoundKeys(_ context.Context, c ca.Caller) ([][32]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bound[signIn(c)], l.readError
}

func (l *testLog) SignatureFailed(_ context.Context, index uint64, _ string, _ error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, index)
	return nil
}
