package storetest

import (
	"errors"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"golang.org/x/mod/sumdb/tlog"
)

// testProofs proves every record of logs of all sizes up to 40, and each size by each larger one.
func testProofs(t *testing.T, l *log) {
	var seen []audit.Checkpoint
	for size := uint64(len(Records(t, l))); size <= 40; size++ {
		signed, n, err := store.NewestCheckpoint(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		now, err := audit.ReadCheckpoint(signed)
		if err != nil || now.Size != n || n != size {
			t.Fatalf("the newest checkpoint is of %d records, and says %d (%v), want %d", n, now.Size, err, size)
		}
		for index := range size {
			p, err := store.ProveRecord(t.Context(), l, index)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(p.Inclusion, int64(size), now.Root, int64(index), tlog.RecordHash(p.Record)); err != nil {
				t.Errorf("record %d of %d: %v", index, size, err)
			}
		}
		seen = append(seen, now)
		for _, old := range seen {
			proof, err := store.ProveConsistency(t.Context(), l, old.Size, size)
			if err != nil {
				t.Fatal(err)
			}
			if old.Size < size {
				err = tlog.CheckTree(proof, int64(size), now.Root, int64(old.Size), old.Root)
			}
			if err != nil {
				t.Errorf("from %d to %d records: %v", old.Size, size, err)
			}
		}
		if _, err := l.Append(t.Context(), Refused("one more")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.ProveRecord(t.Context(), l, 1000); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a record that is not there: %v", err)
	}
	for _, sizes := range [][2]uint64{{0, 1}, {2, 1}} {
		if _, err := store.ProveConsistency(t.Context(), l, sizes[0], sizes[1]); !errors.Is(err, store.ErrBeyond) {
			t.Errorf("from %d to %d: %v", sizes[0], sizes[1], err)
		}
	}
	if _, err := l.Hashes(t.Context(), []int64{1 << 40}); err == nil {
		t.Error("a hash that is not there was returned")
	}
}
