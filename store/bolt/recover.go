package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// suspectSuffix is that of the file which says that the outcome of a commit was in doubt.
	suspectSuffix = ".suspect"
	freshSuffix   = ".new"
	// rebuildBatch is how many records, or blobs, a transaction of a rebuild writes.
	rebuildBatch = 500
)

// recoverSuspect does nothing unless a commit ended in doubt. Then the pages that the system holds in memory may never have
// reached the disk, so it builds a fresh file from the records, syncs it, and puts it in the place of the old one.
func recoverSuspect(path string, cfg Config) error {
	marker, fresh := path+suspectSuffix, path+freshSuffix
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	// The lock of the old file is held until the new one is in its place.
	old, err := open(path, cfg, openSuspect)
	if err != nil {
		return err
	}
	defer old.db.Close()
	if err := checkTree(path); err != nil {
		return err
	}
	if err := removeLeft(fresh); err != nil {
		return err
	}
	if err := guard(func() error { return old.rebuild(fresh) }); err != nil {
		return fmt.Errorf("copy it to %s: %w", fresh, err)
	}
	if err := putInPlace(fresh, path); err != nil {
		return err
	}
	return errors.Join(os.Remove(marker), syncDir(filepath.Dir(path)))
}

// openSuspect lets a meta page be invalid: it may be the one whose write failed.
func openSuspect(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	valid, err := readMetaPages(f)
	if err == nil {
		err = checkLength(f, valid)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// rebuild makes a new file from the records and blobs of the log: hashes and facts follow from them. The result has the root
// hash that was signed, or there is an error.
func (s *Store) rebuild(path string) error {
	err := makeFile(path, s.cfg, func(fresh *Store) error { return s.copyTo(fresh) })
	if err != nil {
		return err
	}
	// Read it back as any other log.
	again, err := openExisting(path, s.cfg)
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	return again.db.Close()
}

// makeFile makes a new log that fill fills, and syncs it.
func makeFile(path string, cfg Config, fill func(*Store) error) error {
	s, err := open(path, cfg, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|os.O_CREATE|os.O_EXCL, mode)
	})
	if err != nil {
		return err
	}
	s.db.NoSync = true // until all is written
	if err = s.createBuckets(); err == nil {
		err = fill(s)
	}
	return errors.Join(err, s.db.Sync(), s.db.Close())
}

// copyTo fills a new file with all that is in the log.
func (s *Store) copyTo(fresh *Store) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		checkpoint, err := s.verifyOwner(tx)
		if err != nil {
			return err
		}
		if last, _ := tx.Bucket(recordsBucket).Cursor().Last(); !bytes.Equal(last, number(checkpoint.Size-1)) {
			return fmt.Errorf("its last record is %x, but %d records were signed: records are missing or were added", last, checkpoint.Size)
		}
		g, err := gapOf(tx)
		if err != nil {
			return err
		}
		if _, err := fresh.copyRecords(tx, checkpoint, g); err != nil {
			return err
		}
		if err := fresh.copyBlobs(tx, nil); err != nil {
			return err
		}
		return fresh.db.Update(func(to *bbolt.Tx) error {
			return to.Bucket(metaBucket).Put(checkpointKey, tx.Bucket(metaBucket).Get(checkpointKey))
		})
	})
}

// copyRecords takes over the records that the checkpoint covers, but for what is left out of them, and returns how they end.
func (s *Store) copyRecords(from *bbolt.Tx, checkpoint audit.Checkpoint, g *gap) (head, error) {
	c, hashes := from.Bucket(recordsBucket).Cursor(), hashReader(from)
	k, record := c.First()
	var end head
	index := &audit.Index{}
	for end.size < checkpoint.Size {
		batch := min(checkpoint.Size-end.size, rebuildBatch)
		if end.size < g.before {
			batch = min(batch, g.before-end.size)
		} else if end.size == g.before && g.before > 0 {
			if err := g.carry(s); err != nil {
				return end, err
			}
			index = nil // to be read from the file
		}
		var changed map[fingerprint]place
		if err := s.db.Update(func(tx *bbolt.Tx) error {
			w := writer{tx: tx, verifier: s.verifier, head: end, index: index, expiring: &s.expiring}
			for range batch {
				var here []byte
				if at := w.head.size; len(k) == 8 && binary.BigEndian.Uint64(k) == at {
					here = record
					k, record = c.Next()
				} else if at >= g.lacks {
					return fmt.Errorf("record %d is missing, and no record says that it was archived", at)
				}
				if err := w.take(here, g, hashes); err != nil {
					return err
				}
			}
			w.prune()
			end, index, changed = w.head, w.index, w.changed
			return nil
		}); err != nil {
			return end, err
		}
		s.expiring.merge(changed)
	}
	return end, s.db.View(func(tx *bbolt.Tx) error {
		root, err := tlog.TreeHash(int64(end.size), hashReader(tx))
		if err == nil && root != checkpoint.Root {
			err = fmt.Errorf("its %d records have the root hash %v, but %v was signed", end.size, root, checkpoint.Root)
		}
		return err
	})
}

// take appends the next record as it is, or what stands for it.
func (w *writer) take(record []byte, g *gap, hashes tlog.HashReader) error {
	if w.head.size < g.before {
		return w.stay(record, g, hashes)
	}
	return w.replay(record)
}

// replay appends a record as it is.
func (w *writer) replay(record []byte) error {
	r, err := w.parse(record)
	if err != nil {
		return err
	}
	facts, err := w.reach(r)
	if err != nil {
		return err
	}
	for _, f := range facts {
		if !f.Allows(w.value(f.Key)) {
			return fmt.Errorf("record %d contradicts what stands: fact %q", r.GetIndex(), f.Key)
		}
	}
	w.put(built{record, r, facts}, nil, nil)
	return nil
}

// parse reads the record at the end of the log.
func (w *writer) parse(record []byte) (*pb.Record, error) {
	r, err := audit.Parse(record)
	if err == nil && r.GetIndex() != w.head.size {
		err = fmt.Errorf("record %d stands where record %d should be", r.GetIndex(), w.head.size)
	}
	return r, err
}

// reach goes to the time and the epoch of a record, and returns what follows from it.
func (w *writer) reach(r *pb.Record) ([]audit.Fact, error) {
	facts, err := audit.Facts(r)
	if err == nil {
		err = w.follows(r)
	}
	if err == nil {
		w.head.time, w.head.epoch = r.GetTime().AsTime(), r.GetEpoch()
	}
	return facts, err
}

// follows holds a record against the epoch that it comes in: only a restore begins another, as the log key said.
func (w *writer) follows(r *pb.Record) error {
	switch restored := r.GetRestored(); {
	case restored == nil && r.GetEpoch() != w.head.epoch:
		return fmt.Errorf("record %d is of epoch %d, and no restore began that", r.GetIndex(), r.GetEpoch())
	case restored != nil:
		said, err := audit.OpenRestore([]byte(restored.GetStatement()), w.verifier)
		if err != nil {
			return fmt.Errorf("record %d: %w", r.GetIndex(), err)
		}
		root, err := tlog.TreeHash(int64(w.head.size), hashReader(w.tx))
		if err != nil {
			return err
		}
		if said.Epoch != r.GetEpoch() || said.Base.Epoch != w.head.epoch || said.Base.Size != w.head.size || said.Base.Root != root {
			return fmt.Errorf("record %d tells of a restore from another state than the one before it", r.GetIndex())
		}
	}
	return nil
}

// copyBlobs takes over the blobs, but for those that are left out.
func (s *Store) copyBlobs(from *bbolt.Tx, without map[[32]byte]bool) error {
	c := from.Bucket(blobsBucket).Cursor()
	k, blob := c.First()
	for k != nil {
		if err := s.db.Update(func(tx *bbolt.Tx) error {
			for range rebuildBatch {
				if k == nil {
					break
				}
				if digest := audit.Digest(blob); string(digest[:]) != string(k) {
					return fmt.Errorf("the blob %x is not what its name says: it was changed or damaged", k)
				}
				if !without[[32]byte(k)] {
					if err := putBlob(tx, k, blob); err != nil {
						return err
					}
				}
				k, blob = c.Next()
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
