package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// verifyTail is how many of the newest records Open holds against their hashes.
const verifyTail = 100

// verifyEnd holds the end of the log against the signed checkpoint, and takes it as durable. It reads a bounded number of pages.
func (s *Store) verifyEnd() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		checkpoint, err := s.verifyOwner(tx)
		if err != nil {
			return err
		}
		root, err := tlog.TreeHash(int64(checkpoint.Size), hashReader(tx))
		if err != nil {
			return err
		}
		if root != checkpoint.Root {
			return fmt.Errorf("the hashes of its %d records do not lead to the root hash that was signed: it was changed or damaged", checkpoint.Size)
		}
		if err := s.gaps(tx); err != nil {
			return err
		}
		c := tx.Bucket(recordsBucket).Cursor()
		last, value := c.Last()
		if len(last) != 8 || binary.BigEndian.Uint64(last) != checkpoint.Size-1 {
			return fmt.Errorf("its last record is %x, but %d records were signed: records are missing or were added", last, checkpoint.Size)
		}
		newest, err := audit.Parse(value)
		if err != nil {
			return err
		}
		index := checkpoint.Size - 1
		for k, v := last, value; k != nil && checkpoint.Size-index <= verifyTail; k, v = c.Prev() {
			if at := binary.BigEndian.Uint64(k); at != index {
				if err := s.mayLack(at+1, index+1); err != nil {
					return err
				}
				break // the hashes of those before it are all there is
			}
			if err := verifyRecord(tx, index, v); err != nil {
				return err
			}
			index--
		}
		if version, err := factsVersionOf(tx); err != nil {
			return err
		} else if version == audit.FactsVersion {
			if err := s.expiring.load(tx); err != nil {
				return err
			}
		}
		s.durable = head{
			size: checkpoint.Size, time: newest.GetTime().AsTime(), epoch: checkpoint.Epoch, tx: tx.ID(),
			checkpoint: bytes.Clone(tx.Bucket(metaBucket).Get(checkpointKey)),
		}
		return nil
	})
}

// verifyOwner says whether the file is a log of ours, and returns what was signed of it.
func (s *Store) verifyOwner(tx *bbolt.Tx) (audit.Checkpoint, error) {
	meta := tx.Bucket(metaBucket)
	for _, name := range buckets {
		// Facts of an older program have no index; migrated makes them anew.
		older := meta != nil && !bytes.Equal(meta.Get(factsKey), []byte{audit.FactsVersion})
		if tx.Bucket(name) == nil && (!older || !bytes.Equal(name, indexBucket)) {
			return audit.Checkpoint{}, fmt.Errorf("it is no log: it has no bucket %s", name)
		}
	}
	if format := meta.Get(formatKey); len(format) != 1 || format[0] != audit.Format {
		return audit.Checkpoint{}, fmt.Errorf("its format is %x, this program knows %d: use a newer program", format, audit.Format)
	}
	first, err := audit.Parse(tx.Bucket(recordsBucket).Get(number(0)))
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("read genesis: %w", err)
	}
	if g := first.GetGenesis(); g.GetLogId() != s.id || g.GetLogPublicKey() != s.verifier {
		return audit.Checkpoint{}, fmt.Errorf("it is the log %q, but the log key is that of the log %q", g.GetLogId(), s.id)
	}
	checkpoint, err := audit.OpenCheckpoint(meta.Get(checkpointKey), s.verifier)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	if checkpoint.Size == 0 {
		return audit.Checkpoint{}, errors.New("its checkpoint is that of an empty log")
	}
	return checkpoint, nil
}

// verifyRecord holds the bytes of a record against the hash that the tree has of it.
func verifyRecord(tx *bbolt.Tx, index uint64, record []byte) error {
	hashes, err := hashReader(tx).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
	if err != nil {
		return err
	}
	if tlog.RecordHash(record) != hashes[0] {
		return fmt.Errorf("record %d is not what was hashed: it was changed or damaged", index)
	}
	return nil
}

// A metaPage is what matters here of the pages with which bbolt's file begins. There are two, and each commit writes one.
type metaPage struct {
	pages uint64 // in the file, of pageSize bytes
	tx    uint64
	at    int64 // where it is in the file
}

// readMetaPages returns the valid ones. A bbolt file of version 2 has in each: 16 bytes of page header; magic, version, page size
// and flags of 4 bytes; root page and its sequence, freelist, number of pages, transaction and FNV-1a of the above, of 8 bytes.
func readMetaPages(f *os.File) ([]metaPage, error) {
	const header, checksum, magic = 16, 56, 0xED0CDAED
	var valid []metaPage
	for page := range int64(2) {
		b := make([]byte, checksum+8)
		if _, err := f.ReadAt(b, page*pageSize+header); err != nil {
			return nil, fmt.Errorf("read its beginning: %w", err)
		}
		hash := fnv.New64a()
		hash.Write(b[:checksum])
		if binary.NativeEndian.Uint64(b[checksum:]) == hash.Sum64() && binary.NativeEndian.Uint32(b) == magic &&
			binary.NativeEndian.Uint32(b[4:]) == 2 && binary.NativeEndian.Uint32(b[8:]) == pageSize {
			valid = append(valid, metaPage{pages: binary.NativeEndian.Uint64(b[40:]), tx: binary.NativeEndian.Uint64(b[48:]), at: page * pageSize})
		}
	}
	return valid, nil
}

// checkPages refuses a file that bbolt would open although something is missing. An invalid meta page makes bbolt fall back to
// the other one, and so to a log that is silently shorter; a crash leaves none, because a meta page fits a disk sector. Pages
// that are cut off make it fault.
func checkPages(f *os.File) error {
	valid, err := readMetaPages(f)
	if err != nil {
		return err
	}
	if len(valid) != 2 {
		return fmt.Errorf("%w: one of its meta pages is not valid, so that the newest records may be missing", store.ErrDamaged)
	}
	return checkLength(f, valid)
}

func checkLength(f *os.File, metas []metaPage) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var newest metaPage
	for _, m := range metas {
		if m.tx >= newest.tx {
			newest = m
		}
	}
	if have, want := info.Size(), newest.pages*pageSize; uint64(have) < want {
		return fmt.Errorf("%w: it has %d bytes and should have %d", store.ErrDamaged, have, want)
	}
	return nil
}
