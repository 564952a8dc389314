package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"go.etcd.io/bbolt"
)

// kept is a log with a backup of an earlier state of it.
type kept struct {
	cfg    bolt.Config
	clock  *storetest.Clock
	path   string
	backup string
	// checkpoints are those before, of and after the backup.
	before, of, after []byte
	serials           map[uint64]bool
}

func newKept(t *testing.T) *kept {
	t.Helper()
	k := &kept{clock: storetest.NewClock(), path: newPath(t), serials: map[uint64]bool{}}
	k.cfg = newConfig(t, k.clock.Now)
	s, err := bolt.Create(k.path, k.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := storetest.NewFixture(t, s, k.clock.Now)
	k.before = k.grants(t, s, f, 3)
	k.of = k.grants(t, s, f, 3)
	mustClose(t, s)
	k.backup = filepath.Join(t.TempDir(), "backup.db")
	write(t, k.backup, read(t, k.path))
	if s, err = bolt.Open(k.path, k.cfg); err != nil {
		t.Fatal(err)
	}
	f.Recorder = store.NewRecorder(s)
	k.after = k.grants(t, s, f, 4)
	mustClose(t, s)
	return k
}

// grants records n of them, whose serials are new, and returns the checkpoint after.
func (k *kept) grants(t *testing.T, s *bolt.Store, f *storetest.Fixture, n int) []byte {
	t.Helper()
	for i := range n {
		index, err := f.Record(t, f.Grant(t, fmt.Sprint("user", i)))
		if err != nil {
			t.Fatal(err)
		}
		records, err := s.Records(t.Context(), index, 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.Parse(records[0])
		if err != nil {
			t.Fatal(err)
		}
		serial := audit.Serial(r.GetEpoch(), index)
		if k.serials[serial] {
			t.Fatalf("the serial %d is used twice", serial)
		}
		k.serials[serial] = true
	}
	checkpoint, err := s.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint
}

func TestRestore(t *testing.T) {
	const byClock = 94032 // five minutes each since the year began, at the time of the test
	for _, tt := range []struct {
		name    string
		lose    func(t *testing.T, k *kept)
		known   func(k *kept) [][]byte
		accept  bool
		want    string // of the error; nothing: it is restored
		missing uint64
		epoch   uint32 // 0: any
	}{
		{"over a log that is newer", func(*testing.T, *kept) {}, nil, false, "the newest 4 are missing", 0, 0},
		{"over a log that is newer, which is accepted", func(*testing.T, *kept) {}, nil, true, "", 4, 1},
		{"when all is lost and nothing is known", loseAll, nil, false, "no signed checkpoint from elsewhere", 0, 0},
		{"when all is lost and nothing is known, which is accepted", loseAll, nil, true, "", 0, 0},
		{"behind a checkpoint", loseAll, func(k *kept) [][]byte { return [][]byte{k.before, k.after} }, false, "the newest 4 are missing", 0, 0},
		{"behind a checkpoint, which is accepted", loseAll, func(k *kept) [][]byte { return [][]byte{k.after, k.before} }, true, "", 4, byClock},
		{"at a checkpoint", loseAll, func(k *kept) [][]byte { return [][]byte{k.of} }, false, "", 0, byClock},
		{"after a checkpoint", loseAll, func(k *kept) [][]byte { return [][]byte{k.before} }, false, "", 0, byClock},
		{"against a checkpoint of another history", loseAll, func(k *kept) [][]byte {
			forged, _ := k.cfg.LogKey.Sign(audit.Checkpoint{LogID: k.cfg.LogKey.ID(), Size: 4})
			return [][]byte{forged}
		}, true, "another history of the same log", 0, 0},
		{"against a checkpoint of a later epoch", loseAll, func(k *kept) [][]byte {
			later, _ := k.cfg.LogKey.Sign(audit.Checkpoint{LogID: k.cfg.LogKey.ID(), Epoch: 7, Size: 4})
			return [][]byte{later}
		}, false, "from before a restore", 0, 0},
		{"against a checkpoint of a later epoch, which is accepted", loseAll, func(k *kept) [][]byte {
			later, _ := k.cfg.LogKey.Sign(audit.Checkpoint{LogID: k.cfg.LogKey.ID(), Epoch: 7, Size: 4})
			return [][]byte{later}
		}, true, "", 1, byClock},
		{"against a checkpoint that is none", loseAll, func(*kept) [][]byte { return [][]byte{[]byte("6 records")} }, true, "checkpoint", 0, 0},
		{"over a damaged log", func(t *testing.T, k *kept) { write(t, k.path, bytes.Repeat([]byte("x"), 9000)) }, nil, false, "the newest 4 are missing", 0, 0},
		{"over an empty file", func(t *testing.T, k *kept) { write(t, k.path, nil) }, nil, true, "", 4, 1},
		{"of a damaged backup", func(t *testing.T, k *kept) {
			logfile.Edit(t, k.backup, func(tx *bbolt.Tx) error {
				b, key := tx.Bucket([]byte("records")), []byte{0, 0, 0, 0, 0, 0, 0, 3}
				return b.Put(key, bytes.Replace(b.Get(key), []byte("deploy"), []byte("myself"), 1))
			})
		}, nil, true, "was changed or damaged", 0, 0},
		{"of a backup whose facts were edited", func(t *testing.T, k *kept) {
			logfile.Edit(t, k.backup, func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts")).Put([]byte("nonce/x"), make([]byte, 16))
			})
		}, nil, true, "", 4, 1},
		{"of another log", func(t *testing.T, k *kept) {
			path := newPath(t)
			s := create(t, path, newConfig(t, k.clock.Now))
			mustClose(t, s)
			write(t, k.backup, read(t, path))
		}, nil, true, "but the log key is that of the log", 0, 0},
		{"of a file that is none", func(t *testing.T, k *kept) { write(t, k.backup, []byte("backup")) }, nil, true, "open the backup", 0, 0},
		{"of itself", func(_ *testing.T, k *kept) { k.backup = k.path }, nil, true, "the backup is the log itself", 0, 0},
		{"while a daemon runs", func(t *testing.T, k *kept) { open(t, k.path, k.cfg) }, nil, true, "stop it first", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKept(t)
			tt.lose(t, k)
			r := bolt.Restoring{From: k.backup, AcceptLoss: tt.accept, Reason: "the disk broke", By: "root (uid 0)"}
			if tt.known != nil {
				r.Known = tt.known(k)
			}
			old, _ := os.ReadFile(k.path)
			done, err := bolt.Restore(k.path, k.cfg, r)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want one with %q", err, tt.want)
				}
				if now, _ := os.ReadFile(k.path); !bytes.Equal(old, now) {
					t.Error("the log was changed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if done.Missing != tt.missing || tt.epoch != 0 && done.Restore.Epoch != tt.epoch || done.Restore.Epoch == 0 {
				t.Errorf("restored %+v, want %d missing and epoch %d", done, tt.missing, tt.epoch)
			}
			if old != nil && !bytes.Equal(old, read(t, done.Aside)) {
				t.Error("the old file is not kept")
			}
			k.goesOn(t, done)
		})
	}
}

func loseAll(t *testing.T, k *kept) {
	t.Helper()
	for _, path := range []string{k.path, k.path + ".head"} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// goesOn issues in a restored log, and reads it as an auditor and as a helper do.
func (k *kept) goesOn(t *testing.T, done *bolt.Restored) {
	t.Helper()
	s := open(t, k.path, k.cfg)
	f := storetest.NewFixture(t, s, k.clock.Now)
	signed := k.grants(t, s, f, 5)
	storetest.Check(t, s)
	now, err := audit.OpenCheckpoint(signed, k.cfg.LogKey.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if now.Epoch != done.Restore.Epoch {
		t.Errorf("the checkpoint is of epoch %d, want %d", now.Epoch, done.Restore.Epoch)
	}
	records := storetest.Records(t, s)
	if _, err := verify.Log(func(yield func([]byte, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}, signed, k.cfg.LogKey.Verifier()); err != nil {
		t.Error(err)
	}
	statements, err := store.Restores(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for signed, lost := range map[*[]byte]uint64{&k.before: 0, &k.of: 0, &k.after: 4} {
		known, err := audit.OpenCheckpoint(*signed, k.cfg.LogKey.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		gap, err := audit.Between(known, now, statements, k.cfg.LogKey.Verifier())
		if err != nil || gap.Lost != lost || len(gap.Restores) != 1 || gap.From.Size != known.Size-lost {
			t.Errorf("who knew %d records is told %+v, error %v; want %d lost", known.Size, gap, err, lost)
		}
	}
	mustClose(t, s)
}

// TestRestoreTwice loses a log again, of which only the first backup is left.
func TestRestoreTwice(t *testing.T) {
	t.Parallel()
	k := newKept(t)
	for want := uint32(1); want < 4; want++ {
		done, err := bolt.Restore(k.path, k.cfg, bolt.Restoring{From: k.backup, AcceptLoss: true})
		if err != nil {
			t.Fatal(err)
		}
		if done.Restore.Epoch != want {
			t.Fatalf("epoch %d, want %d", done.Restore.Epoch, want)
		}
		k.goesOn(t, done)
		k.clock.Move(1e9)
	}
	// And a backup of a log that was restored before.
	backup := filepath.Join(t.TempDir(), "backup.db")
	write(t, backup, read(t, k.path))
	s := open(t, k.path, k.cfg)
	f := storetest.NewFixture(t, s, k.clock.Now)
	known := k.grants(t, s, f, 1)
	mustClose(t, s)
	_, err := bolt.Restore(k.path, k.cfg, bolt.Restoring{From: backup, Known: [][]byte{k.after, known}})
	loss, ok := errors.AsType[*bolt.LossError](err)
	if !ok || loss.Behind == nil || loss.Behind.Missing == 0 {
		t.Fatalf("error %v, want a loss", err)
	}
	if _, err := bolt.Restore(k.path, k.cfg, bolt.Restoring{From: backup, Known: [][]byte{k.after, known}, AcceptLoss: true}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, open(t, k.path, k.cfg))
}

// TestRestoreInterrupted opens what a crash leaves between the steps of a restore: the old log, or the restored one.
func TestRestoreInterrupted(t *testing.T) {
	t.Parallel()
	k := newKept(t)
	old, oldHead := read(t, k.path), read(t, k.path+".head")
	done, err := bolt.Restore(k.path, k.cfg, bolt.Restoring{From: k.backup, AcceptLoss: true})
	if err != nil {
		t.Fatal(err)
	}
	restored := read(t, k.path)
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		size  uint64
	}{
		{"before the copy is complete", map[string][]byte{"": old, ".head": oldHead, ".new": restored[:len(restored)/2]}, 0},
		{"before the copy is in place", map[string][]byte{"": old, ".head": oldHead, ".new": restored, ".before-restore-x": old}, 0},
		{"before the head is written", map[string][]byte{"": restored, ".head": oldHead, ".before-restore-x": old}, done.Restore.Base.Size + 1},
		{"while the head is written", map[string][]byte{"": restored, ".head": oldHead, ".head.new": []byte("x")}, done.Restore.Base.Size + 1},
		{"before what was said of the old log is forgotten", map[string][]byte{"": restored, ".head": oldHead, ".suspect": nil}, done.Restore.Base.Size + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			for suffix, b := range tt.files {
				write(t, path+suffix, b)
			}
			s := open(t, path, k.cfg)
			storetest.Check(t, s)
			size, err := s.Size(t.Context())
			if want := max(tt.size, 0); err != nil || want != 0 && size != want {
				t.Errorf("%d records, want %d; error %v", size, want, err)
			}
			mustClose(t, s)
			if _, err := bolt.Restore(path, k.cfg, bolt.Restoring{From: k.backup, AcceptLoss: true}); err != nil {
				t.Errorf("restore again: %v", err)
			}
		})
	}
}
