package bolt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// Facts that expire are stored in the order in which they do, and those that expire in the same second in that of their records. Nearly
// all are nonces of requests: in the order of their keys each would have a page of its own that a commit has to write, and another
// commit once more when it is forgotten. So whoever looks for one must know its place, and expiring does: it holds that of all.
//
// A fact that expires does not give way to another place while it stands, so that whoever finds a place here finds the fact.

// place is where a fact that expires is stored. The zero place is none.
type place struct {
	expires uint64 // in Unix seconds
	index   uint64 // of the record that it follows from
}

// placeSize is how many bytes a place takes in a key.
const placeSize = 16

func (p place) key(fact []byte) []byte {
	k := binary.BigEndian.AppendUint64(make([]byte, 0, placeSize+len(fact)), p.expires)
	return append(binary.BigEndian.AppendUint64(k, p.index), fact...)
}

// cutPlace is the reverse of place.key.
func cutPlace(key []byte) (p place, fact []byte, err error) {
	if len(key) < placeSize {
		return p, nil, fmt.Errorf("the fact %x has no expiry", key)
	}
	return place{binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:])}, key[placeSize:], nil
}

func (p place) isExpired(at time.Time) bool { return int64(p.expires) <= at.Unix() }

// expiring says where facts that expire are. What it says of a fact that is stored no more is of no account.
type expiring struct {
	mu sync.RWMutex // guards at
	at map[fingerprint]place
}

// fingerprint is the beginning of the SHA-256 of the key of a fact.
type fingerprint [16]byte

func fingerprintOf(key []byte) fingerprint {
	digest := sha256.Sum256(key)
	return fingerprint(digest[:])
}

// load reads what is stored.
func (x *expiring) load(tx *bbolt.Tx) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.at = map[fingerprint]place{}
	return tx.Bucket(expiringBucket).ForEach(func(k, _ []byte) error {
		p, fact, err := cutPlace(k)
		if err == nil && !audit.Expires(fact) {
			err = fmt.Errorf("%w: the fact %q is stored as one that expires", store.ErrDamaged, fact)
		}
		x.at[fingerprintOf(fact)] = p
		return err
	})
}

// of returns the place of a fact; none if it does not expire, or is not there.
func (x *expiring) of(f fingerprint) place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.at[f]
}

// merge takes over what a transaction changed.
func (x *expiring) merge(changed map[fingerprint]place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at == nil {
		x.at = map[fingerprint]place{}
	}
	for f, p := range changed {
		if p == (place{}) {
			delete(x.at, f)
		} else {
			x.at[f] = p
		}
	}
}

// place returns that of a fact, as the transaction has it; none if it does not expire, or is not there.
func (w *writer) place(f fingerprint) place {
	if p, changed := w.changed[f]; changed {
		return p
	}
	return w.expiring.of(f)
}

func (w *writer) setPlace(f fingerprint, p place) {
	if w.changed == nil {
		w.changed = map[fingerprint]place{}
	}
	w.changed[f] = p
}

// putExpiring writes a fact that expires, of the record at the end of the log.
func (w *writer) putExpiring(f audit.Fact) {
	print, b := fingerprintOf(f.Key), w.bucket(expiringBucket)
	b.FillPercent = fillPercent
	p := place{uint64(f.Expires.Unix()), w.head.size}
	if old := w.place(print); old != (place{}) {
		if stored := b.Get(old.key(f.Key)); old.expires == p.expires && stored != nil && bytes.Equal(stored, f.Value) {
			return // as for a token that is shown again
		}
		must(b.Delete(old.key(f.Key)))
	}
	must(b.Put(p.key(f.Key), notNil(f.Value)))
	w.setPlace(print, p)
}

// notNil makes a value of nothing one that a transaction gives back as it is.
func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// prune forgets some of what expired.
func (w *writer) prune() {
	b := w.bucket(expiringBucket)
	c := b.Cursor()
	var expired [][]byte
	for k, _ := c.First(); k != nil && len(expired) < pruneBatch+w.pruning; k, _ = c.Next() {
		if p, _, err := cutPlace(k); err != nil || !p.isExpired(w.head.time) {
			break
		}
		expired = append(expired, bytes.Clone(k))
	}
	for _, k := range expired {
		must(b.Delete(k))
		p, fact, err := cutPlace(k)
		must(err)
		if f := fingerprintOf(fact); w.place(f) == p {
			w.setPlace(f, place{})
		}
	}
}

// expiringValue returns the value of a fact by its place, at a time of the log; nil if there is none.
func expiringValue(tx *bbolt.Tx, key []byte, p place, at time.Time) []byte {
	if p.isExpired(at) {
		return nil
	}
	return tx.Bucket(expiringBucket).Get(p.key(key))
}

// expiringFact is a fact with when it expires, in Unix seconds.
type expiringFact struct {
	store.KeyValue
	expires uint64
}

// allExpiring returns the facts that expire and stand at a time, whose keys begin with prefix, in no order.
func allExpiring(tx *bbolt.Tx, prefix []byte, at time.Time) []expiringFact {
	var found []expiringFact
	c := tx.Bucket(expiringBucket).Cursor()
	for k, v := c.Seek(number(uint64(at.Unix() + 1))); k != nil; k, v = c.Next() {
		if p, fact, err := cutPlace(k); err == nil && bytes.HasPrefix(fact, prefix) {
			found = append(found, expiringFact{store.KeyValue{Key: bytes.Clone(fact), Value: append([]byte{}, v...)}, p.expires})
		}
	}
	return found
}
