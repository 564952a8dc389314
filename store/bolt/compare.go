package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"go.etcd.io/bbolt"
)

// check compares the two new files with the old one: each record and each blob is in one of them as it was, but for what an earlier
// archive carried over, which is carried over again.
func (m *move) check(tx *bbolt.Tx, archive *Copy, fresh string) error {
	now, err := openCopy(fresh, m.old.verifier)
	if err != nil {
		return fmt.Errorf("read the new log back: %w", err)
	}
	defer now.Close()
	for _, c := range []*Copy{archive, now} {
		if err := c.s.db.View(func(in *bbolt.Tx) error { return within(in, tx, m.old.end().size) }); err != nil {
			return fmt.Errorf("compare %s with the log: %w", c.s.path, err)
		}
	}
	err = archive.s.db.View(func(old *bbolt.Tx) error {
		return now.s.db.View(func(here *bbolt.Tx) error {
			for _, name := range [][]byte{recordsBucket, blobsBucket} {
				b, a := here.Bucket(name), old.Bucket(name)
				if err := tx.Bucket(name).ForEach(func(k, _ []byte) error {
					if b.Get(k) == nil && a.Get(k) == nil && !isCarried(tx, k) {
						return fmt.Errorf("%s %x is neither in the archive nor in the new log", name, k)
					}
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return errors.Join(err, m.measure(fresh))
}

// measure tells how large the files are.
func (m *move) measure(fresh string) error {
	archive, archiveErr := os.Stat(m.File)
	now, err := os.Stat(fresh)
	if err := errors.Join(archiveErr, err); err != nil {
		return err
	}
	m.out.ArchiveBytes, m.out.Bytes, m.out.BytesBefore = archive.Size(), now.Size(), m.old.file.Size()
	return nil
}

// within says whether all records, up to a size, and blobs of a file are in another as they are.
func within(in, of *bbolt.Tx, size uint64) error {
	records := of.Bucket(recordsBucket)
	c := in.Bucket(recordsBucket).Cursor()
	for k, v := c.First(); k != nil && bytes.Compare(k, number(size)) < 0; k, v = c.Next() {
		if !bytes.Equal(records.Get(k), v) {
			return fmt.Errorf("record %x is another", k)
		}
	}
	blobs := of.Bucket(blobsBucket)
	return in.Bucket(blobsBucket).ForEach(func(k, v []byte) error {
		if is := audit.Digest(v); !bytes.Equal(is[:], k) {
			return fmt.Errorf("the blob %x is not what its name says", k)
		}
		if blobs.Get(k) == nil && !isCarried(in, k) {
			return fmt.Errorf("the log has no blob %x", k)
		}
		return nil
	})
}

// isCarried tells whether a blob is what the newest archive carries over.
func isCarried(tx *bbolt.Tx, digest []byte) bool {
	a, _, err := archivedOf(tx)
	if err != nil {
		return false
	}
	for _, d := range a.GetCarried() {
		if bytes.Equal(d, digest) {
			return true
		}
	}
	return false
}
