package ca_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// watchedLog is the real log on disk. It remembers which attempts became records, and can be told to fail.
type watchedLog struct {
	*store.Recorder
	store *bolt.Store
	t     testing.TB

	// What a test may set before it calls.
	record    func(*ca.Attempt) error // fails records
	recorded  func()                  // runs after each record
	readError error                   // fails what reads

	mu      sync.Mutex
	entries []entry
	failed  []uint64 // indexes whose signature failed
}

// entry is an attempt, and what the log holds of it.
type entry struct {
	index      uint64
	attempt    ca.Attempt
	toBeSigned []byte
	refusal    *ca.Error
	proven     bool
}

func openLog(t testing.TB, now func() time.Time) *watchedLog {
	t.Helper()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Create(filepath.Join(t.TempDir(), "log"), bolt.Config{LogKey: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close log: %v", err)
		}
	})
	return &watchedLog{Recorder: store.NewRecorder(s), store: s, t: t}
}

// putInForce makes the policy that of the log.
func (l *watchedLog) putInForce(p ca.PolicyRef) {
	l.t.Helper()
	if err := l.LoadPolicy(context.Background(), store.PolicyLoad{Policy: p, Source: "test", Cause: "start", Engine: "test"}); err != nil {
		l.t.Error(err)
	}
}

// size is the number of attempts in the log.
func (l *watchedLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// last returns the newest attempt as the log has it on disk.
func (l *watchedLog) last() entry {
	l.t.Helper()
	l.mu.Lock()
	e := l.entries[len(l.entries)-1]
	l.mu.Unlock()
	records, err := l.store.Records(context.Background(), e.index, 1)
	if err != nil || len(records) != 1 {
		l.t.Fatalf("read record %d: %d records, %v", e.index, len(records), err)
	}
	record, err := audit.Parse(records[0])
	if err != nil {
		l.t.Fatal(err)
	}
	held := audit.Recorded(record)
	e.toBeSigned, e.refusal, e.proven = held.ToBeSigned, held.Refusal, record.GetDecided().GetProven()
	return e
}

func (l *watchedLog) Record(ctx context.Context, a *ca.Attempt, build func(uint64) ([]byte, error)) (uint64, error) {
	if l.record != nil {
		if err := l.record(a); err != nil {
			return 0, err
		}
	}
	index, err := l.Recorder.Record(ctx, a, build)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	l.entries = append(l.entries, entry{index: index, attempt: *a})
	l.mu.Unlock()
	if l.recorded != nil {
		l.recorded()
	}
	return index, nil
}

func (l *watchedLog) Earlier(ctx context.Context, c ca.Caller, r ca.Request) (*ca.Recorded, error) {
	if l.readError != nil {
		return nil, l.readError
	}
	return l.Recorder.Earlier(ctx, c, r)
}

func (l *watchedLog) SignatureFailed(ctx context.Context, index uint64, authority string, cause error) error {
	l.mu.Lock()
	l.failed = append(l.failed, index)
	l.mu.Unlock()
	return l.Recorder.SignatureFailed(ctx, index, authority, cause)
}
