package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxBlob is the size of the largest blob, in bytes.
	maxBlob = 16 << 20
	// pruneBatch is how many expired facts a commit forgets at most, beside two for each record that it writes: enough to keep
	// up, too little to be felt.
	pruneBatch = 16
)

// writer adds entries to a transaction.
type writer struct {
	tx  *bbolt.Tx
	key *audit.LogKey // nil in a rebuild
	// verifier is the public key of the log, for a rebuild.
	verifier string
	head     head // the end of the log as the transaction has it; its time is that of the commit
	// index is that of the records so far.
	index *audit.Index
	added fresh
	// expiring says where the facts that expire are stored, and changed what the transaction changed of that.
	expiring *expiring
	changed  map[fingerprint]place
	// pruning is how many expired facts may still be forgotten.
	pruning int
}

// append adds an entry, or fails and leaves the transaction as it was: everything is checked before anything is written.
func (w *writer) append(e store.Entry) (uint64, error) {
	slot := store.Slot{Index: w.head.size, Time: w.head.time, Epoch: w.head.epoch}
	b, err := build(e, slot)
	if err != nil {
		return 0, err
	}
	for _, v := range e.Expect {
		if stands := w.value(v.Key); (stands == nil) != (v.Value == nil) || !bytes.Equal(stands, v.Value) {
			return 0, fmt.Errorf("fact %q: %w", v.Key, store.ErrExpect)
		}
	}
	for _, f := range b.facts {
		if stands := w.value(f.Key); !f.Allows(stands) {
			return 0, &store.ConflictError{Key: bytes.Clone(f.Key), Value: bytes.Clone(stands)}
		}
	}
	w.put(b, e.Blobs, audit.Erased(b.record))
	return slot.Index, nil
}

// built is a record and what follows from it.
type built struct {
	bytes  []byte
	record *pb.Record
	facts  []audit.Fact
}

// build makes the record of an entry and what follows from it. It may not bring the committer down.
func build(e store.Entry, slot store.Slot) (b built, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("build record %d: panic: %v", slot.Index, p)
		}
	}()
	for _, blob := range e.Blobs {
		if len(blob) > maxBlob {
			return b, fmt.Errorf("build record %d: a blob has %d bytes, more than %d", slot.Index, len(blob), maxBlob)
		}
	}
	if b.bytes, err = e.Build(slot); err != nil {
		return b, fmt.Errorf("build record %d: %w", slot.Index, err)
	}
	if b.record, err = audit.Parse(b.bytes); err != nil {
		return b, fmt.Errorf("build record %d: %w", slot.Index, err)
	}
	if r := b.record; r.GetIndex() != slot.Index || r.GetEpoch() != slot.Epoch || !r.GetTime().AsTime().Equal(slot.Time) {
		return b, fmt.Errorf("build record %d: it is for another slot", slot.Index)
	}
	b.facts, err = audit.Facts(b.record)
	return b, err
}

// put writes. An error here fails the batch, by panic: bbolt has none for keys and values like these, and half an entry must not
// be committed.
func (w *writer) put(b built, blobs, erased [][]byte) {
	index := b.record.GetIndex()
	hash, hashes := w.putRecord(index, b.bytes)
	w.added.add(index, b.bytes, hash, hashes)
	for _, f := range b.facts {
		w.putFact(f)
	}
	w.putIndex(b.record)
	for _, blob := range blobs {
		digest := audit.Digest(blob)
		if w.bucket(blobsBucket).Get(digest[:]) == nil {
			must(putBlob(w.tx, digest[:], blob))
		}
	}
	for _, digest := range erased {
		must(w.bucket(blobsBucket).Delete(digest))
		w.added.erased = append(w.added.erased, digest)
	}
	w.head.size = index + 1
	w.pruning += 2
}

// putRecord puts a record at its index, and its hash into the tree. It returns the hashes that this added, and the index of the first.
func (w *writer) putRecord(index uint64, record []byte) (first int64, added []tlog.Hash) {
	b := w.bucket(recordsBucket)
	b.FillPercent = fillPercent
	must(b.Put(number(index), record))
	return w.putLeaf(index, tlog.RecordHash(record))
}

// putLeaf puts the hash of the record at index into the tree, and those that it completes.
func (w *writer) putLeaf(index uint64, leaf tlog.Hash) (first int64, added []tlog.Hash) {
	b := w.bucket(hashesBucket)
	b.FillPercent = fillPercent
	added, err := tlog.StoredHashesForRecordHash(int64(index), leaf, hashReader(w.tx))
	must(err)
	first = tlog.StoredHashIndex(0, int64(index))
	for i, h := range added {
		must(b.Put(number(uint64(first)+uint64(i)), h[:]))
	}
	return first, added
}

// putBlob stores a blob, unless it was erased: whoever was about to cite it when that happened still cites it, and nothing more.
func putBlob(tx *bbolt.Tx, digest, blob []byte) error {
	if tx.Bucket(factsBucket).Get(audit.ErasedFact(digest)) != nil {
		return nil
	}
	return tx.Bucket(blobsBucket).Put(digest, blob)
}

func (w *writer) putFact(f audit.Fact) {
	facts := w.bucket(factsBucket)
	switch {
	case f.Rule == audit.Holds:
	case f.Rule == audit.Ends: // such facts do not expire
		must(facts.Delete(f.Key))
	case !f.Expires.IsZero():
		w.putExpiring(f)
	default:
		if old := facts.Get(f.Key); old == nil || !bytes.Equal(old, f.Value) { // the snapshot of an identity is the same, nearly always
			must(facts.Put(f.Key, notNil(f.Value)))
		}
	}
}

// finish forgets some of what expired and signs the new state of the log.
func (w *writer) finish() error {
	w.prune()
	root, err := tlog.TreeHash(int64(w.head.size), hashReader(w.tx))
	if err != nil {
		return fmt.Errorf("hash the log: %w", err)
	}
	checkpoint, err := w.key.Sign(audit.Checkpoint{LogID: w.key.ID(), Epoch: w.head.epoch, Size: w.head.size, Root: root})
	if err != nil {
		return err
	}
	w.head.checkpoint = checkpoint
	return w.bucket(metaBucket).Put(checkpointKey, checkpoint)
}

// value returns what stands for a fact, nil if nothing does. It is valid until the transaction is written to.
func (w *writer) value(key []byte) []byte {
	if !audit.Expires(key) {
		return lastingValue(w.tx, key)
	}
	if p := w.place(fingerprintOf(key)); p != (place{}) {
		return expiringValue(w.tx, key, p, w.head.time)
	}
	return nil
}

func (w *writer) bucket(name []byte) *bbolt.Bucket { return w.tx.Bucket(name) }

// lastingValue returns the value of a fact that does not expire, nil if there is none.
func lastingValue(tx *bbolt.Tx, key []byte) []byte {
	if bytes.HasPrefix(key, indexPrefix) {
		return tx.Bucket(indexBucket).Get(key)
	}
	return tx.Bucket(factsBucket).Get(key)
}

// hashReader reads the stored hashes of the Merkle tree.
func hashReader(tx *bbolt.Tx) tlog.HashReader {
	b := tx.Bucket(hashesBucket)
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes, c, key := make([]tlog.Hash, len(indexes)), b.Cursor(), make([]byte, 8)
		for i, index := range indexes {
			binary.BigEndian.PutUint64(key, uint64(index))
			k, h := c.Seek(key) // what Get does, with one cursor for all
			if !bytes.Equal(k, key) || len(h) != tlog.HashSize {
				return nil, fmt.Errorf("the log lacks the hash %d of its tree", index)
			}
			hashes[i] = tlog.Hash(h)
		}
		return hashes, nil
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// must fails the whole transaction; guard catches it.
func must(err error) {
	if err != nil {
		panic(errors.Join(errors.New("write to transaction"), err))
	}
}
