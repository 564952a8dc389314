package bolt_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

func TestCopyIsReadWithoutTheKey(t *testing.T) {
	clock := storetest.NewClock()
	path, cfg := newPath(t), newConfig(t, clock.Now)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	for range 3 {
		if _, err := f.Record(t, f.Grant(t, "alice")); err != nil {
			t.Fatal(err)
		}
	}
	want := storetest.Records(t, s)
	if _, err := bolt.OpenCopy(path, ""); err == nil || !strings.Contains(err.Error(), "copy the file") {
		t.Errorf("open the file of a running daemon: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", cfg.LogKey.Verifier(), cfg.LogKey.Verifier() + "\n"} {
		c, err := bolt.OpenCopy(path, key)
		if err != nil {
			t.Fatal(err)
		}
		if got := storetest.Records(t, c); len(got) != len(want) {
			t.Errorf("the copy has %d records, want %d", len(got), len(want))
		}
		storetest.Check(t, c)
		if c.PublicKey() != cfg.LogKey.Verifier() {
			t.Errorf("the public key is %q", c.PublicKey())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := bolt.OpenCopy(path, newConfig(t, clock.Now).LogKey.Verifier()); err == nil || !strings.Contains(err.Error(), "it is the log") {
		t.Errorf("open with the key of another log: %v", err)
	}
	if _, err := bolt.OpenCopy(filepath.Join(t.TempDir(), "none.db"), ""); err == nil {
		t.Error("a copy that does not exist was opened")
	}
}
