package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestBackupWhileIssuing takes copies of a log that is written to all the time. Each is whole, and has all that was acknowledged
// before it was begun.
func TestBackupWhileIssuing(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	ctx, stop := context.WithCancel(t.Context())
	var issuing sync.WaitGroup
	for i := range 4 {
		issuing.Go(func() {
			for ctx.Err() == nil {
				if _, err := f.Record(t, f.Grant(t, fmt.Sprint("user", i))); err != nil {
					t.Errorf("issue while a backup is taken: %v", err)
				}
			}
		})
	}
	for range 5 {
		before, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := bolt.OpenCopy(backup(t, s), cfg.LogKey.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		storetest.Check(t, c)
		if size, err := c.Size(t.Context()); err != nil || size < before {
			t.Errorf("the backup has %d records, error %v; the log had %d before", size, err, before)
		}
		if err := errors.Join(c.Whole(t.Context()), c.Close()); err != nil {
			t.Error(err)
		}
	}
	stop()
	issuing.Wait()
	if left, err := filepath.Glob(path + ".backup*"); err != nil || len(left) > 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
}

// backup takes one and returns its path.
func backup(t *testing.T, s *bolt.Store) string {
	t.Helper()
	b, err := s.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context()); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a second backup at the same time: error %v, want %v", err, store.ErrBusy)
	}
	file, err := io.ReadAll(b)
	if err != nil || int64(len(file)) != b.Bytes {
		t.Errorf("%d bytes, error %v; want %d", len(file), err, b.Bytes)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "backup.db")
	write(t, path, file)
	return path
}

func TestBackupGivenUp(t *testing.T) {
	clock := storetest.NewClock()
	path := newPath(t)
	cfg := newConfig(t, clock.Now)
	s := create(t, path, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backup(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(path + ".backup"); !os.IsNotExist(err) {
		t.Errorf("what was begun is left: %v", err)
	}
	mustClose(t, s)
	write(t, path+".backup", []byte("left by a daemon that was killed"))
	s = open(t, path, cfg)
	if _, err := os.Stat(path + ".backup"); !os.IsNotExist(err) {
		t.Errorf("what a killed daemon left is still there: %v", err)
	}
	backup(t, s)
}

// TestErasedBytesAreGone looks for what was erased in the bytes of the files.
func TestErasedBytesAreGone(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	for i := range 50 {
		for _, who := range []string{"alice", fmt.Sprint("user", i)} {
			a := f.Grant(t, who)
			a.Caller.Identity.Groups = []string{"secret-group-of-" + who, fmt.Sprint(i / 10)}
			if _, err := f.Record(t, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	admin := ca.Caller{Identity: ca.Identity{Issuer: storetest.Issuer, Subject: "keeper", Kind: ca.Person}}
	n, _, err := f.Recorder.EraseIdentity(t.Context(), admin, storetest.Issuer, "alice", "she asked for it")
	if err != nil || n != 5 {
		t.Fatalf("erased %d, error %v; want 5", n, err)
	}
	secret := []byte("secret-group-of-alice")
	if !bytes.Contains(read(t, path), secret) {
		t.Log("the file does not even hold it before it is compacted")
	}
	copied := backup(t, s)
	if bytes.Contains(read(t, copied), secret) {
		t.Error("what was erased is in a backup that was taken after")
	}
	if !bytes.Contains(read(t, copied), []byte("secret-group-of-user7")) {
		t.Error("what was not erased is not in the backup")
	}
	want := storetest.Records(t, s)
	mustClose(t, s)
	before, after, err := bolt.Compact(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != after || after > before {
		t.Errorf("compacted from %d to %d bytes, and the file has %v; error %v", before, after, info.Size(), err)
	}
	if bytes.Contains(read(t, path), secret) {
		t.Error("what was erased is in the compacted log")
	}
	s = open(t, path, cfg)
	storetest.Check(t, s)
	if got := storetest.Records(t, s); len(got) != len(want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	if head, err := audit.OpenCheckpoint(read(t, path+".head"), cfg.LogKey.Verifier()); err != nil || head.Size != uint64(len(want)) {
		t.Errorf("the head is %+v, error %v", head, err)
	}
}

func TestCompactRefuses(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	if _, _, err := bolt.Compact(path, cfg); err == nil {
		t.Error("the log of a running daemon was compacted")
	}
	mustClose(t, s)
	if _, _, err := bolt.Compact(path, newConfig(t, clock.Now)); err == nil {
		t.Error("the log of another key was compacted")
	}
	write(t, path+".new", []byte("left by one that was killed"))
	if _, _, err := bolt.Compact(path, cfg); err != nil {
		t.Error(err)
	}
}
