// Package storetest is the one suite that every backend of the log passes. After each test it verifies the log from outside and
// rebuilds every fact from the records.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// Backend makes logs.
type Backend struct {
	// Create makes a new log and returns it with a func that opens it again, after it was closed.
	Create func(t testing.TB, now func() time.Time) (s store.Store, reopen func() store.Store)
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, *log)
	}{
		{"a new log has its genesis and a checkpoint over it", testGenesis},
		{"records are read back as they were built", testReadBack},
		{"an entry that fails takes no index", testFailsAlone},
		{"entries that fail in a crowd fail alone", testCrowd},
		{"an expected version that does not hold refuses the entry", testExpect},
		{"of many who use one nonce exactly one wins", testRaceNonce},
		{"of many who use one workload token exactly one wins", testRaceToken},
		{"an unbound token belongs to its first key", testUnboundToken},
		{"a token and a nonce are free again once they expired", testExpiry},
		{"a request that is not proven uses nothing up", testUnproven},
		{"a key stays bound to the sign-in that it was bound to", testBoundKeys},
		{"a grant needs the policy that is in force", testPolicyInForce},
		{"a grant needs a CA key that is listed", testListedKey},
		{"the same attempt is found again with all it led to", testEarlier},
		{"an unchanged identity has one snapshot", testSnapshots},
		{"fetched lists come back, and unchanged ones are one blob", testFetchedLists},
		{"the record of a usual grant is small", testSize},
		{"what is so already appends nothing", testAlreadySo},
		{"policies are refused, accepted and loaded", testPolicies},
		{"every kind of record can be written", testEveryKind},
		{"the time of the log never goes back", testTime},
		{"a caller that gave up is not waited for", testCancelled},
		{"a follower sees each record once and in order", testFollow},
		{"the log goes on after it was closed and opened", testReopen},
		{"records are listed newest first, by identity and by time", testList},
		{"records are found by what they are about", testSearch},
		{"records are found in more than a chapter", testChapters},
		{"people are found by the email that was last seen", testDirectory},
		{"facts are listed by prefix, descending", testFacts},
		{"blobs are kept once and found by their digest", testBlobs},
		{"each record is proven, and that the log only grows", testProofs},
		{"an erased identity is gone, and comes back under another salt", testErase},
		{"a snapshot that was erased meanwhile is not stored again", testEraseMeanwhile},
		{"identities are erased while they ask", testEraseRace},
		{"a review is open until somebody else looked, once", testReview},
		{"of those that are due, the earliest is found first", testReviewOrder},
		{"refusals at the same time count each other", testRefusalsCount},
		{"the first use of a rule is known", testFirstUse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, b)
			tt.test(t, l)
			Check(t, l.Store)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Clock is a clock that tests set.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)} }

// Now reads the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move moves the clock.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Check verifies a whole log: as an outsider does, with the key that its genesis names; that its facts are those that follow
// from its records; and that it has each blob that it cites.
func Check(t testing.TB, s store.Reader) {
	t.Helper()
	ctx := t.Context()
	checkpoint, err := s.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	records := Records(t, s)
	first, err := audit.Parse(records[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Log(sequence(records), checkpoint, first.GetGenesis().GetLogPublicKey()); err != nil {
		t.Errorf("verify the log: %v", err)
	}
	facts, cited := project(t, records)
	stored, err := s.Facts(ctx, nil, nil, len(facts)+100)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range stored {
		got[string(f.Key)] = string(f.Value)
	}
	if diff := cmp.Diff(facts, got); diff != "" {
		t.Errorf("the facts that follow from the records (-) are not those that are stored (+):\n%s", diff)
	}
	for _, digest := range cited {
		blob, err := s.Blob(ctx, digest)
		if _, erased := facts[string(audit.ErasedFact(digest[:]))]; erased {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a blob that was erased: error %v, want %v", err, store.ErrNotFound)
			}
			continue
		}
		if err != nil {
			t.Errorf("a blob that a record cites: %v", err)
		} else if audit.Digest(blob) != digest {
			t.Errorf("blob %x has other bytes", digest)
		}
	}
}

// project rebuilds the facts from the records, each with its rule, and returns those that did not expire; and the blobs cited.
func project(t testing.TB, records [][]byte) (facts map[string]string, cited [][32]byte) {
	t.Helper()
	type fact struct {
		value   []byte
		expires time.Time
	}
	all := map[string]fact{}
	var index audit.Index
	var now time.Time
	stands := func(key string) []byte {
		if f, ok := all[key]; ok && (f.expires.IsZero() || now.Before(f.expires)) {
			return f.value
		}
		return nil
	}
	for i, record := range records {
		r, err := audit.Parse(record)
		if err != nil {
			t.Fatal(err)
		}
		now = r.GetTime().AsTime()
		derived, err := audit.Facts(r)
		if err != nil {
			t.Fatal(err)
		}
		indexed, err := index.Add(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range append(derived, indexed...) {
			if !f.Allows(stands(string(f.Key))) {
				t.Errorf("record %d should not be there: it breaks the rule of the fact %q", i, f.Key)
			}
			switch f.Rule {
			case audit.Holds:
			case audit.Ends:
				delete(all, string(f.Key))
			default:
				all[string(f.Key)] = fact{f.Value, f.Expires}
			}
		}
		if d := r.GetDecided(); d != nil {
			cited = append(cited, [32]byte(d.GetCaller().GetSnapshot()))
			if lists := d.GetLists(); lists != nil {
				cited = append(cited, [32]byte(lists))
			}
		}
	}
	facts = map[string]string{}
	for key := range all {
		if value := stands(key); value != nil {
			facts[key] = string(value)
		}
	}
	return facts, cited
}

// Records returns all records.
func Records(t testing.TB, s store.Reader) [][]byte {
	t.Helper()
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	records, err := s.Records(t.Context(), 0, int(size)+1)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(records)) != size {
		t.Fatalf("the log has %d records, but says %d", len(records), size)
	}
	return records
}

func sequence(records [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Refused is an entry that says nothing but that a policy did not load.
func Refused(message string) store.Entry {
	return store.Entry{Build: func(slot store.Slot) ([]byte, error) {
		return slot.Marshal(&audit.Event{Event: &pb.Record_PolicyRefused{PolicyRefused: &pb.PolicyRefused{Message: message}}})
	}}
}

func testGenesis(t *testing.T, l *log) {
	records := Records(t, l)
	r, err := audit.Parse(records[0])
	if err != nil {
		t.Fatal(err)
	}
	if r.GetGenesis() == nil || r.GetTime().AsTime() != l.clock.Now() {
		t.Errorf("record 0 is %v, want a genesis at %s", r, l.clock.Now())
	}
	if _, err := l.Append(t.Context(), store.Entry{Build: func(slot store.Slot) ([]byte, error) {
		return slot.Marshal(&audit.Event{Event: &pb.Record_Genesis{Genesis: &pb.Genesis{Format: audit.Format}}})
	}}); err == nil {
		t.Error("a second genesis was taken")
	}
}

func testReadBack(t *testing.T, l *log) {
	size := uint64(len(Records(t, l)))
	var want [][]byte
	for i := range 20 {
		var built []byte
		entry := Refused(fmt.Sprintf("message %d", i))
		build := entry.Build
		entry.Build = func(slot store.Slot) (record []byte, err error) {
			built, err = build(slot)
			return built, err
		}
		index, err := l.Append(t.Context(), entry)
		if err != nil || index != size+uint64(i) {
			t.Fatalf("append %d: index %d, error %v", i, index, err)
		}
		want = append(want, built)
	}
	got, err := l.Records(t.Context(), size, 100)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-appended +read):\n%s", diff)
	}
	part, err := l.Records(t.Context(), size+5, 3)
	if err != nil || len(part) != 3 || !bytes.Equal(part[0], want[5]) {
		t.Errorf("3 records from %d: got %d of them, error %v", size+5, len(part), err)
	}
	beyond, err := l.Records(t.Context(), size+20, 3)
	if err != nil || len(beyond) != 0 {
		t.Errorf("records beyond the end: got %d, error %v", len(beyond), err)
	}
}

func testFailsAlone(t *testing.T, l *log) {
	before := len(Records(t, l))
	fault := errors.New("no")
	for name, build := range map[string]func(store.Slot) ([]byte, error){
		"its build fails":                   func(store.Slot) ([]byte, error) { return nil, fault },
		"its build panics":                  func(store.Slot) ([]byte, error) { panic("no") },
		"it is no record":                   func(store.Slot) ([]byte, error) { return []byte("no"), nil },
		"it is empty":                       func(store.Slot) ([]byte, error) { return nil, nil },
		"it is for another place":           otherSlot(func(s *store.Slot) { s.Index++ }),
		"it is of another time":             otherSlot(func(s *store.Slot) { s.Time = s.Time.Add(time.Second) }),
		"it is of another epoch":            otherSlot(func(s *store.Slot) { s.Epoch++ }),
		"it is larger than a record may be": func(store.Slot) ([]byte, error) { return make([]byte, audit.MaxRecord+1), nil },
		"it comes from a newer program":     newer,
	} {
		if index, err := l.Append(t.Context(), store.Entry{Build: build}); err == nil {
			t.Errorf("%s: was appended at %d", name, index)
		} else if name == "its build fails" && !errors.Is(err, fault) {
			t.Errorf("%s: error is %v, want one that wraps the cause", name, err)
		}
	}
	if after := len(Records(t, l)); after != before {
		t.Errorf("%d records after failures, %d before", after, before)
	}
	if index, err := l.Append(t.Context(), Refused("still alive")); err != nil || index != uint64(before) {
		t.Errorf("append after failures: index %d, error %v", index, err)
	}
}

func otherSlot(change func(*store.Slot)) func(store.Slot) ([]byte, error) {
	return func(slot store.Slot) ([]byte, error) {
		change(&slot)
		return Refused("elsewhere").Build(slot)
	}
}

// newer appends a field that no version 1 has.
func newer(slot store.Slot) ([]byte, error) {
	record, err := Refused("from the future").Build(slot)
	return append(record, 0xf8, 0x3f, 1), err
}

func testCrowd(t *testing.T, l *log) {
	const n = 200
	before := len(Records(t, l))
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			entry := Refused("fine")
			if i%3 == 0 {
				entry.Build = func(store.Slot) ([]byte, error) { return nil, errors.New("no") }
			}
			_, errs[i] = l.Append(context.Background(), entry)
		})
	}
	wg.Wait()
	want := before
	for i, err := range errs {
		if (err != nil) != (i%3 == 0) {
			t.Errorf("entry %d: error %v", i, err)
		}
		if i%3 != 0 {
			want++
		}
	}
	if got := len(Records(t, l)); got != want {
		t.Errorf("%d records, want %d", got, want)
	}
}

func testExpect(t *testing.T, l *log) {
	inForce, err := l.Fact(t.Context(), []byte(audit.PolicyFact))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		expect store.Version
		want   error
	}{
		{"the value that stands", store.Version{Key: []byte(audit.PolicyFact), Value: inForce}, nil},
		{"another value", store.Version{Key: []byte(audit.PolicyFact), Value: []byte("other")}, store.ErrExpect},
		{"an empty value", store.Version{Key: []byte(audit.PolicyFact), Value: []byte{}}, store.ErrExpect},
		{"nothing where something is", store.Version{Key: []byte(audit.PolicyFact)}, store.ErrExpect},
		{"nothing where nothing is", store.Version{Key: []byte("none")}, nil},
		{"something where nothing is", store.Version{Key: []byte("none"), Value: []byte{}}, store.ErrExpect},
	} {
		entry := Refused(tt.name)
		entry.Expect = []store.Version{tt.expect}
		if _, err := l.Append(t.Context(), entry); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
}
