package bolt

import (
	"bytes"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// archivedOf returns the record that tells of the newest archive, nil if there is none, and its index. That it is the one which was
// hashed is checked; that the tree has it follows from the root hash.
func archivedOf(tx *bbolt.Tx) (*pb.Archived, uint64, error) {
	k, stored := seekBelow(tx.Bucket(factsBucket).Cursor(), after([]byte(audit.ArchivedPrefix)))
	if !bytes.HasPrefix(k, []byte(audit.ArchivedPrefix)) {
		return nil, 0, nil
	}
	index, ok := audit.Number(stored)
	if !ok {
		return nil, 0, fmt.Errorf("the fact %q names no record", k)
	}
	record := tx.Bucket(recordsBucket).Get(number(index))
	r, err := audit.Parse(record)
	if err == nil {
		err = verifyRecord(tx, index, record)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("record %d, which tells of an archive: %w", index, err)
	}
	if a := r.GetArchived(); a != nil && bytes.Equal(k, audit.ArchivedFact(a.GetBefore())) {
		return a, index, nil
	}
	return nil, 0, fmt.Errorf("record %d does not tell of the archive that the fact %q is about", index, k)
}

// gaps finds out which records may be missing.
func (s *Store) gaps(tx *bbolt.Tx) error {
	a, _, err := archivedOf(tx)
	s.archived = a.GetBefore()
	return err
}

// mayLack says whether the records from one index on and before another may be missing.
func (s *Store) mayLack(from, before uint64) error {
	if from < before && before > s.archived {
		return fmt.Errorf("record %d is missing, and no record says that it was archived", max(from, s.archived))
	}
	return nil
}

// gap is what a fresh file has in the place of records that are not in it.
type gap struct {
	// before is the index before which records may be missing; 0 for none. The old file may lack those before lacks.
	before, lacks uint64
	// leaves tells of a record of the old file before that whether it is left out; nil for none is.
	leaves func(*pb.Record) bool
	// carry puts into the fresh file what stood at before, as far as it does not follow from the records that it has.
	carry func(fresh *Store) error
	// left is how many records were left out.
	left uint64
}

// gapOf is that of a file which is copied as it is.
func gapOf(from *bbolt.Tx) (*gap, error) {
	a, index, err := archivedOf(from)
	if a == nil || err != nil {
		return &gap{}, err
	}
	return &gap{before: a.GetBefore(), lacks: a.GetBefore(), carry: func(fresh *Store) error {
		if err := fresh.carryOver(from, a); err != nil {
			return fmt.Errorf("what record %d carries over: %w", index, err)
		}
		return nil
	}}, nil
}

// stay takes over what comes next before the end of a gap: a record, or the hash of one that is not there. Facts are put without their
// rules: those hung on records that left, and were met when the record was written.
func (w *writer) stay(record []byte, g *gap, hashes tlog.HashReader) error {
	index := w.head.size
	defer func() { w.head.size++ }()
	if record == nil {
		h, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
		if err != nil {
			return err
		}
		w.putLeaf(index, h[0])
		return nil
	}
	r, err := w.parse(record)
	if err != nil {
		return err
	}
	if g.leaves != nil && g.leaves(r) {
		g.left++
		w.putLeaf(index, tlog.RecordHash(record))
		return nil
	}
	facts, err := w.reach(r)
	if err != nil {
		return err
	}
	w.putRecord(index, record)
	for _, f := range facts {
		w.putFact(f)
	}
	return nil
}
