package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// maxBoundKeys is how many keys bound to one sign-in are looked at. A person has one key for each device.
const maxBoundKeys = 256

// Recorder writes the words of the core into a Store. It is the core's Log, and what it remembers it holds against the Store in each
// transaction: any number of recorders, in any number of processes, may share one.
type Recorder struct {
	store Store

	mu sync.Mutex // guards recent
	// recent are the snapshots of those who came last. That each still is the newest of its identity is expected at the commit.
	recent map[identityKey]cited
}

type identityKey struct{ issuer, subject string }

// cited is the snapshot of an identity with the digest under which a record cites it.
type cited struct {
	of     ca.Identity
	blob   []byte
	digest [32]byte
}

// maxRecent bounds Recorder.recent. A snapshot has some hundred bytes.
const maxRecent = 4096

var _ ca.Log = (*Recorder)(nil)

// NewRecorder returns a Recorder that writes to s.
func NewRecorder(s Store) *Recorder { return &Recorder{store: s, recent: map[identityKey]cited{}} }

// Record implements ca.Log. That a grant's policy is in force and its CA key is listed is settled by the facts of the record.
func (r *Recorder) Record(ctx context.Context, a *ca.Attempt, build func(serial uint64) ([]byte, error)) (uint64, error) {
	for {
		index, err := r.record(ctx, a, build)
		if !errors.Is(err, errMeanwhile) {
			return index, err
		}
	}
}

func (r *Recorder) record(ctx context.Context, a *ca.Attempt, build func(serial uint64) ([]byte, error)) (uint64, error) {
	snapshot, expect, err := r.recentSnapshot(ctx, a.Caller.Identity)
	if err != nil {
		return 0, unavailable(err)
	}
	counted := refusalsExpected(a)
	expect = append(expect, counted...)
	blobs := [][]byte{snapshot.blob}
	if lists := audit.Lists(a.Lists); lists != nil {
		blobs = append(blobs, lists)
	}
	var buildErr error
	index, err := r.store.Append(ctx, Entry{
		Build: func(slot Slot) ([]byte, error) {
			var toBeSigned []byte
			if a.Refusal == nil {
				if toBeSigned, buildErr = build(slot.Serial()); buildErr != nil {
					return nil, buildErr
				}
			}
			return slot.Marshal(audit.Decided(a, snapshot.digest, toBeSigned))
		},
		Blobs:  blobs,
		Expect: expect,
	})
	switch conflict, ok := errors.AsType[*ConflictError](err); {
	case err == nil:
		r.keep(a.Caller.Identity, snapshot)
		return index, nil
	case ok && audit.IsNonceFact(conflict.Key):
		return 0, ca.ErrNonceUsed
	case ok && audit.IsTokenFact(conflict.Key):
		return 0, ca.ErrTokenUsed
	case ok && string(conflict.Key) == audit.PolicyFact:
		return 0, ca.ErrPolicyChanged
	case ok:
		return 0, &ca.Error{Kind: ca.Unavailable, Message: fmt.Sprintf("the CA key %q is not listed in the log", a.Authority), Err: err}
	case errors.Is(err, ErrExpect):
		r.forget(a.Caller.Identity)
		if counted != nil {
			return 0, ca.ErrRefusedMeanwhile
		}
		return 0, errMeanwhile
	case buildErr != nil && errors.Is(err, buildErr):
		return 0, err
	}
	return 0, unavailable(err)
}

// Earlier implements ca.Log.
func (r *Recorder) Earlier(ctx context.Context, c ca.Caller, q ca.Request) (*ca.Recorded, error) {
	value, err := r.store.Fact(ctx, audit.NonceFact(c.Identity.Issuer, c.Identity.Subject, q.Nonce[:]))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("look up nonce: %w", err))
	}
	index, ok := audit.Number(value)
	if !ok {
		return nil, fmt.Errorf("look up nonce: its fact %x is no index", value)
	}
	stored, err := Record(ctx, r.store, index)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("a fact names a record that is not there: %w", err)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read record %d: %w", index, err))
	}
	record, err := audit.Parse(stored)
	if err != nil {
		return nil, err
	}
	if record.GetDecided() == nil {
		return nil, fmt.Errorf("read record %d: a nonce leads to it, but it is not about a request", index)
	}
	return audit.Recorded(record), nil
}

// BoundKeys implements ca.Log. Without an auth_time no key is bound.
func (r *Recorder) BoundKeys(ctx context.Context, c ca.Caller) ([][32]byte, error) {
	if c.Token.AuthTime.IsZero() {
		return nil, nil
	}
	prefix := audit.BoundPrefix(c.Identity.Issuer, c.Identity.Subject, c.Token.AuthTime)
	facts, err := r.store.Facts(ctx, prefix, nil, maxBoundKeys)
	if err != nil {
		return nil, unavailable(fmt.Errorf("look up bound keys: %w", err))
	}
	var keys [][32]byte
	for _, f := range facts {
		if digest := f.Key[len(prefix):]; len(digest) == 32 {
			keys = append(keys, [32]byte(digest))
		}
	}
	return keys, nil
}

// TokenKey implements ca.Log.
func (r *Recorder) TokenKey(ctx context.Context, c ca.Caller) (*[32]byte, error) {
	value, err := r.value(ctx, string(audit.TokenFact(c.Token.Digest[:])))
	switch {
	case err != nil:
		return nil, unavailable(err)
	case value == nil:
		return nil, nil
	case len(value) != 32:
		return nil, fmt.Errorf("look up the key of a token: its fact has %d bytes", len(value))
	}
	return (*[32]byte)(value), nil
}

// SignatureFailed implements ca.Log.
func (r *Recorder) SignatureFailed(ctx context.Context, index uint64, authority string, cause error) error {
	return r.append(ctx, &audit.Event{Event: &pb.Record_SignatureFailed{SignatureFailed: &pb.SignatureFailed{
		Decided: index, Authority: authority, Message: audit.Text(cause.Error()),
	}}})
}

// ListAuthorityKey enters a CA key into the log, if it is not there yet. The key is in SSH wire format, source is "file" or
// "agent".
func (r *Recorder) ListAuthorityKey(ctx context.Context, name string, publicKey []byte, source string) error {
	fact := audit.AuthorityFact(name, publicKey)
	event := &audit.Event{Event: &pb.Record_AuthorityKeyListed{AuthorityKeyListed: &pb.AuthorityKeyListed{
		Authority: name, PublicKey: publicKey, Source: source,
	}}}
	for {
		value, err := r.value(ctx, string(fact))
		if err != nil || audit.IsListed(value) {
			return err
		}
		// Whoever lists the same key at the same time, one record is enough.
		err = r.append(ctx, event, Version{Key: fact, Value: value})
		if !errors.Is(err, ErrExpect) {
			return err
		}
	}
}

// SignInBound implements ca.Log.
func (r *Recorder) SignInBound(ctx context.Context, c ca.Caller, key [32]byte) error {
	_, err := r.appendOf(ctx, c.Identity, func(caller *pb.Caller) *audit.Event {
		return audit.SignInBound(caller, c.Token, key)
	})
	return err
}

// CountStrangers records how many calls had no verified identity, by what was wrong with them.
func (r *Recorder) CountStrangers(ctx context.Context, from, to time.Time, counts map[string]uint64) error {
	return r.append(ctx, audit.StrangersCounted(from, to, counts))
}

// CountRefusals records how many requests of one identity were above the rate limit.
func (r *Recorder) CountRefusals(ctx context.Context, c ca.Caller, from, to time.Time, n uint64) error {
	_, err := r.appendOf(ctx, c.Identity, func(caller *pb.Caller) *audit.Event {
		return audit.RefusalsCounted(caller, from, to, n)
	})
	return err
}

// RefuseAccess records that a known identity called a method which its role does not allow.
func (r *Recorder) RefuseAccess(ctx context.Context, c ca.Caller, method, sourceIP string, policy ca.PolicyRef, refusal *ca.Error) error {
	_, err := r.appendOf(ctx, c.Identity, func(caller *pb.Caller) *audit.Event {
		return &audit.Event{Event: &pb.Record_AccessRefused{AccessRefused: &pb.AccessRefused{
			Caller: caller, Method: audit.Text(method), SourceIp: audit.Text(sourceIP), Policy: audit.Policy(policy), Refusal: audit.Refusal(refusal),
		}}}
	})
	return err
}

// appendOf appends the record of an event about an identity.
func (r *Recorder) appendOf(ctx context.Context, id ca.Identity, event func(*pb.Caller) *audit.Event, expect ...Version) (uint64, error) {
	for {
		snapshot, versions, err := r.snapshot(ctx, id)
		if err != nil {
			return 0, err
		}
		entry := entryOf(event(audit.Caller(id, audit.Digest(snapshot))))
		entry.Blobs, entry.Expect = [][]byte{snapshot}, slices.Concat(versions, expect)
		index, err := r.store.Append(ctx, entry)
		if len(versions) > 0 && len(expect) == 0 && errors.Is(err, ErrExpect) {
			continue
		}
		return index, err
	}
}

func (r *Recorder) append(ctx context.Context, event *audit.Event, expect ...Version) error {
	entry := entryOf(event)
	entry.Expect = expect
	_, err := r.store.Append(ctx, entry)
	return err
}

// errMeanwhile: the log got another snapshot of the identity, or erased the one it had, after it was looked up.
var errMeanwhile = errors.New("another snapshot of the identity meanwhile")

// snapshot returns the blob for an identity: the one that the log has, if nothing changed. A new one takes its salt from the one
// before; that this is still the newest is expected at the commit, because one that was erased must not live on in the salt of another.
func (r *Recorder) snapshot(ctx context.Context, id ca.Identity) ([]byte, []Version, error) {
	key := audit.SnapshotFact(id.Issuer, id.Subject)
	digest, err := r.value(ctx, string(key))
	if err != nil {
		return nil, nil, err
	}
	var earlier []byte
	if len(digest) == 32 {
		if earlier, err = r.store.Blob(ctx, [32]byte(digest)); err != nil && !errors.Is(err, ErrNotFound) {
			return nil, nil, fmt.Errorf("read identity snapshot: %w", err)
		}
	}
	snapshot, err := audit.Snapshot(id, earlier)
	if err != nil {
		return nil, nil, err
	}
	cites := audit.Digest(snapshot)
	notErased := Version{Key: audit.ErasedFact(cites[:])} // or a record would cite what nobody can read
	if bytes.Equal(snapshot, earlier) {
		return snapshot, []Version{notErased}, nil
	}
	return snapshot, []Version{{Key: key, Value: digest}, notErased}, nil
}

// recentSnapshot is snapshot for those who come again and again: it does not read the log for somebody who was here before.
func (r *Recorder) recentSnapshot(ctx context.Context, id ca.Identity) (cited, []Version, error) {
	r.mu.Lock()
	earlier, known := r.recent[identityKey{id.Issuer, id.Subject}]
	r.mu.Unlock()
	if !known {
		blob, expect, err := r.snapshot(ctx, id)
		return cited{id, blob, audit.Digest(blob)}, expect, err
	}
	expect := []Version{
		{Key: audit.SnapshotFact(id.Issuer, id.Subject), Value: earlier.digest[:]},
		{Key: audit.ErasedFact(earlier.digest[:])}, // whoever was about to cite it when it was erased may have made it the newest again
	}
	if reflect.DeepEqual(id, earlier.of) {
		return earlier, expect, nil
	}
	blob, err := audit.Snapshot(id, earlier.blob)
	return cited{id, blob, audit.Digest(blob)}, expect, err
}

// keep remembers the newest snapshot of an identity.
func (r *Recorder) keep(id ca.Identity, snapshot cited) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) >= maxRecent {
		clear(r.recent)
	}
	r.recent[identityKey{id.Issuer, id.Subject}] = snapshot
}

func (r *Recorder) forget(id ca.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.recent, identityKey{id.Issuer, id.Subject})
}

// value returns that of a fact, nil if there is none.
func (r *Recorder) value(ctx context.Context, key string) ([]byte, error) {
	value, err := r.store.Fact(ctx, []byte(key))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up a fact: %w", err)
	}
	return value, nil
}

func entryOf(e *audit.Event) Entry {
	return Entry{Build: func(slot Slot) ([]byte, error) { return slot.Marshal(e) }}
}

// unavailable is what the core gets for an error of the store. Whether the record is there may be in doubt: nothing is signed.
func unavailable(err error) *ca.Error {
	return &ca.Error{Kind: ca.Unavailable, Message: "the log of the CA cannot be used now: try again later", Err: err}
}
