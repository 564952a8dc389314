package bolt_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"go.etcd.io/bbolt"
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

func TestRawReadsWhatOthersRefuse(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, records := filled(t, cfg, clock)
	logfile.Edit(t, path, func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte("records")).Cursor()
		c.Last()
		return c.Delete()
	})
	if _, err := bolt.OpenCopy(path, ""); err == nil {
		t.Error("a copy without its newest record was opened")
	}
	raw, err := bolt.OpenRaw(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for row, err := range raw.Records() {
		if err != nil || string(row.Value) != string(records[n]) {
			t.Fatalf("record %d is %x, %v", n, row.Value, err)
		}
		n++
	}
	if n != len(records)-1 {
		t.Errorf("%d records, want %d", n, len(records)-1)
	}
	if err := raw.Close(); err != nil {
		t.Error(err)
	}
	good := read(t, path)
	for _, tt := range []struct {
		name   string
		damage func(file []byte) []byte
		want   string
	}{
		{"nothing", func([]byte) []byte { return nil }, "beginning"},
		{"half of it", func(b []byte) []byte { return b[:len(b)/2] }, "bytes and should have"},
		{"a branch that leads to itself", func(b []byte) []byte {
			for at := 2 * page; at < len(b); at += page {
				if binary.NativeEndian.Uint16(b[at+8:]) == 1 && binary.NativeEndian.Uint64(b[at:]) == uint64(at/page) { // a branch
					binary.NativeEndian.PutUint64(b[at+16+8:], uint64(at/page))
				}
			}
			return b
		}, "is reached by two ways"},
	} {
		damaged := newPath(t)
		write(t, damaged, tt.damage(bytes.Clone(good)))
		if _, err := bolt.OpenRaw(damaged); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := bolt.OpenRaw(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a folder: %v", err)
	}
}
