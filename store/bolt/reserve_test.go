package bolt_test

import (
	"os"
	"testing"

	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestReserve finds zeros ahead of the pages in use while the log is open, and none when it is closed.
func TestReserve(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	size := func() int64 {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for range 2 { // what is reserved after a commit is there before the next
		if _, err := f.Record(t, f.Grant(t, "alice")); err != nil {
			t.Fatal(err)
		}
	}
	open := size()
	mustClose(t, s)
	if closed := size(); open < closed+512<<10 || closed > 1<<20 {
		t.Errorf("the log has %d bytes while it is open, and %d when it is closed", open, closed)
	}
	reopened, err := bolt.Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, reopened)
}
