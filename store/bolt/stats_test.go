package bolt_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// told collects what Config.Committed is told.
type told struct {
	mu  sync.Mutex // guards all
	all []bolt.Commit
}

func (c *told) add(n bolt.Commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, n)
}

// TestCommitsAreToldOf: each commit that wrote is told of once, with all its records, and so is one that could not.
func TestCommitsAreToldOf(t *testing.T) {
	clock := storetest.NewClock()
	var seen told
	cfg := newConfig(t, clock.Now)
	cfg.Committed = seen.add
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	const grants = 20
	var group sync.WaitGroup
	for i := range grants {
		a := f.Grant(t, fmt.Sprint("user", i))
		group.Go(func() {
			if _, err := f.Record(t, a); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	twice := f.Grant(t, "alice")
	if _, err := f.Record(t, twice); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Record(t, twice); err == nil { // commits nothing, and is told of as no commit
		t.Fatal("a nonce served twice")
	}
	clock.Move(-time.Hour)
	if _, err := f.Record(t, f.Grant(t, "alice")); err == nil {
		t.Fatal("the clock went back, and the log went on")
	}
	mustClose(t, s) // so that the last commit was told of too
	records, failed := 0, 0
	for _, c := range seen.all {
		records += c.Records
		switch {
		case c.Err != nil:
			failed++
			if !errors.Is(c.Err, store.ErrUnavailable) || c.Records != 0 {
				t.Errorf("told of a failure with %d records and %v", c.Records, c.Err)
			}
		case c.Records == 0 || c.Disk <= 0 || c.Disk > c.Took:
			t.Errorf("told of %+v", c)
		}
	}
	if want := int(s.Stats().Records); records != want || records <= grants || failed != 1 {
		t.Errorf("told of %d records and %d failures, want %d and 1", records, failed, want)
	}
}

// TestStats: what the log says of itself is what is there, also after it was opened again.
func TestStats(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	if _, err := f.Record(t, f.Grant(t, "alice")); err != nil {
		t.Fatal(err)
	}
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"written", "opened again"} {
		if got := s.Stats(); got.Records != size || !got.Time.Equal(clock.Now().Truncate(time.Microsecond)) || got.Queue != 0 ||
			got.Bytes <= 0 || got.Free <= 0 || got.Dead || got.Head > size {
			t.Errorf("%s: %+v, want %d records", when, got, size)
		}
		mustClose(t, s) // which writes the head
		if got := s.Stats().Head; got != size {
			t.Errorf("%s and closed: the head covers %d records, want %d", when, got, size)
		}
		s = open(t, path, cfg)
	}
	if got := s.Stats().Head; got != size {
		t.Errorf("opened: the head covers %d records, want %d", got, size)
	}
}
