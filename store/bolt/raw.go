package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// Raw is a copy of a log of which nothing is believed but that it is a bbolt file in good order: what Open and OpenCopy would refuse
// can be read here, so that somebody can say what is wrong with it. Its methods are safe for concurrent use.
type Raw struct {
	path string
	db   *bbolt.DB
}

// Row is an entry of a bucket.
type Row struct{ Key, Value []byte }

// RawFact is a fact as stored.
type RawFact struct {
	Key, Value []byte
	Expires    time.Time // zero for never
	Record     uint64    // from which one that expires is said to follow
}

// OpenRaw opens a copy. Close it when done.
func OpenRaw(path string) (*Raw, error) {
	r := &Raw{path: path}
	var err error
	if r.db, err = openReadOnly(path); err == nil {
		if err = r.checkBuckets(); err != nil {
			err = errors.Join(err, r.db.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open copy of a log %s: %w", path, err)
	}
	return r, nil
}

func (r *Raw) checkBuckets() error {
	return r.view(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("it is no log: it has no bucket %s", name)
			}
		}
		if format := tx.Bucket(metaBucket).Get(formatKey); len(format) != 1 || format[0] != audit.Format {
			return fmt.Errorf("its format is %x, this program knows %d: use a newer program", format, audit.Format)
		}
		if err := tx.Bucket(metaBucket).ForEach(func(key, _ []byte) error {
			if !slices.ContainsFunc([][]byte{formatKey, checkpointKey, factsKey, archiveKey}, func(k []byte) bool { return bytes.Equal(k, key) }) {
				return fmt.Errorf("it says something of %q, which this program does not know", key)
			}
			return nil
		}); err != nil {
			return err
		}
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if !slices.ContainsFunc(buckets, func(b []byte) bool { return bytes.Equal(b, name) }) {
				return fmt.Errorf("it has a bucket %q, which this program does not know", name)
			}
			return nil
		})
	})
}

func (r *Raw) view(read func(tx *bbolt.Tx) error) error {
	return guard(func() error { return r.db.View(read) })
}

// Checkpoint returns the signed checkpoint, whoever signed it; nil if there is none.
func (r *Raw) Checkpoint() (checkpoint []byte, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		checkpoint = bytes.Clone(tx.Bucket(metaBucket).Get(checkpointKey))
		return nil
	})
	return checkpoint, err
}

// FactsVersion is that of its facts: those of another than audit.FactsVersion cannot be held against the records.
func (r *Raw) FactsVersion() (version int, err error) {
	err = r.view(func(tx *bbolt.Tx) (err error) {
		version, err = factsVersionOf(tx)
		return err
	})
	return version, err
}

// Records are the stored records, by key.
func (r *Raw) Records() iter.Seq2[Row, error] { return r.rows(recordsBucket) }

// Hashes are the stored hashes of the tree, by key.
func (r *Raw) Hashes() iter.Seq2[Row, error] { return r.rows(hashesBucket) }

// Blobs are the stored blobs, by key.
func (r *Raw) Blobs() iter.Seq2[Row, error] { return r.rows(blobsBucket) }

// Facts are the stored facts, also those that expired, and the index.
func (r *Raw) Facts() iter.Seq2[RawFact, error] {
	return func(yield func(RawFact, error) bool) {
		for _, bucket := range [][]byte{factsBucket, expiringBucket, indexBucket} {
			for row, err := range r.rows(bucket) {
				f := RawFact{Key: row.Key, Value: row.Value}
				if err == nil && !bytes.Equal(bucket, expiringBucket) && (bytes.HasPrefix(row.Key, indexPrefix) != bytes.Equal(bucket, indexBucket) || audit.Expires(row.Key)) {
					err = fmt.Errorf("the fact %q is stored among the %s, where nobody looks for it", row.Key, bucket)
				}
				if err == nil && bytes.Equal(bucket, expiringBucket) {
					f, err = rawExpiring(row)
				}
				if !yield(f, err) || err != nil {
					return
				}
			}
		}
	}
}

func rawExpiring(row Row) (RawFact, error) {
	p, key, err := cutPlace(row.Key)
	return RawFact{Key: key, Value: row.Value, Expires: time.Unix(int64(p.expires), 0), Record: p.index}, err
}

// Blob returns the bytes stored under a digest, whatever they are; nil if there are none.
func (r *Raw) Blob(digest [32]byte) (blob []byte, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		blob = bytes.Clone(tx.Bucket(blobsBucket).Get(digest[:]))
		return nil
	})
	return blob, err
}

// Archived returns the record which the facts say tells of the newest archive, whatever it says; nil if there is none.
func (r *Raw) Archived() (record []byte, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		k, stored := seekBelow(tx.Bucket(factsBucket).Cursor(), after([]byte(audit.ArchivedPrefix)))
		if bytes.HasPrefix(k, []byte(audit.ArchivedPrefix)) && len(stored) == 8 {
			record = bytes.Clone(tx.Bucket(recordsBucket).Get(stored))
		}
		return nil
	})
	return record, err
}

// ArchiveFrom returns the index before which records are in earlier archives, if this is an archive, and whether it says that it is one.
func (r *Raw) ArchiveFrom() (from uint64, is bool, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		from, is = audit.Number(tx.Bucket(metaBucket).Get(archiveKey))
		return nil
	})
	return from, is, err
}

// Record returns the record stored for an index, whatever it is; nil if there is none.
func (r *Raw) Record(index uint64) (record []byte, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		record = bytes.Clone(tx.Bucket(recordsBucket).Get(number(index)))
		return nil
	})
	return record, err
}

// Leaf returns the hash stored for a record.
func (r *Raw) Leaf(index uint64) (h tlog.Hash, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		hashes, err := hashReader(tx).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
		if err == nil {
			h = hashes[0]
		}
		return err
	})
	return h, err
}

// Resume returns the index of a log after the records before an index, a multiple of audit.BlockSize, from its stored pages.
func (r *Raw) Resume(before uint64) (*audit.Index, error) {
	index := &audit.Index{}
	err := r.view(func(tx *bbolt.Tx) error {
		index.Begin(before / audit.ChapterSize)
		for index.Next() < before {
			if err := index.Resume(table(tx, index.Next()/audit.BlockSize)); err != nil {
				return err
			}
		}
		return nil
	})
	return index, err
}

// rows reads a bucket in order. What it yields is a copy: a page that faults must do so here.
func (r *Raw) rows(bucket []byte) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		tx, err := r.db.Begin(false)
		if err != nil {
			yield(Row{}, err)
			return
		}
		defer func() { _ = tx.Rollback() }() // of a transaction that only read
		var c *bbolt.Cursor
		for {
			var row Row
			if err := guard(func() error {
				var k, v []byte
				if c == nil {
					c = tx.Bucket(bucket).Cursor()
					k, v = c.First()
				} else {
					k, v = c.Next()
				}
				if row = (Row{bytes.Clone(k), bytes.Clone(v)}); k != nil && v == nil {
					return fmt.Errorf("what is stored under %x in %s is no value", k, bucket)
				}
				return nil
			}); err != nil {
				yield(Row{}, err)
				return
			}
			if row.Key == nil || !yield(row, nil) {
				return
			}
		}
	}
}

// Close closes the file.
func (r *Raw) Close() error {
	if err := r.db.Close(); err != nil {
		return fmt.Errorf("close copy of a log %s: %w", r.path, err)
	}
	return nil
}
