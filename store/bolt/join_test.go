package bolt_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// However many are said to be under way, each that comes is answered, also a lone one for whom nobody joins.
func TestCallersJoinACommit(t *testing.T) {
	const callers = 100
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	var underWay, records, commits atomic.Int64
	cfg.UnderWay = func() int { return int(underWay.Load()) }
	cfg.Committed = func(c bolt.Commit) {
		records.Add(int64(c.Records))
		commits.Add(1)
	}
	path, _ := filled(t, cfg, clock)
	s := open(t, path, cfg)
	records.Store(0)
	commits.Store(0)
	underWay.Store(1000)
	if _, err := s.Append(t.Context(), storetest.Refused("nobody joins")); err != nil {
		t.Fatal(err)
	}
	underWay.Store(callers)
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			defer underWay.Add(-1)
			if _, err := s.Append(t.Context(), storetest.Refused("one of many")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := s.Close(); err != nil { // which waits until the last commit was told of
		t.Fatal(err)
	}
	if got := records.Load(); got != callers+1 {
		t.Errorf("%d records were committed, want %d", got, callers+1)
	}
	t.Logf("%d records in %d commits", records.Load(), commits.Load())
}
