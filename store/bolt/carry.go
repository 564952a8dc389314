package bolt

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
)

// carryOver puts the facts and the index that a record says are carried over, from the blobs and the index of another file.
func (s *Store) carryOver(from *bbolt.Tx, a *pb.Archived) error {
	if a.GetFactsVersion() != audit.FactsVersion {
		return fmt.Errorf("its facts have the version %d, this program knows %d", a.GetFactsVersion(), audit.FactsVersion)
	}
	var last []byte
	for _, digest := range a.GetCarried() {
		blob := from.Bucket(blobsBucket).Get(digest)
		if is := audit.Digest(blob); !bytes.Equal(is[:], digest) {
			return fmt.Errorf("the blob %x is missing, or not what its name says", digest)
		}
		facts, err := audit.Carried(blob, last)
		if err != nil {
			return err
		}
		if err := s.putCarried(facts); err != nil {
			return err
		}
		last = facts[len(facts)-1].GetKey()
	}
	sum, err := s.copyIndex(from, a.GetBefore())
	if err == nil && !bytes.Equal(sum, a.GetIndex()) {
		err = fmt.Errorf("the index of the records before %d was changed or damaged", a.GetBefore())
	}
	return err
}

func (s *Store) putCarried(facts []*pb.CarriedFact) error {
	w := writer{expiring: &s.expiring}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		w.tx = tx
		for _, f := range facts {
			fact := audit.Fact{Key: f.GetKey(), Value: f.GetValue(), Rule: audit.Set}
			if f.GetExpires() != 0 {
				fact.Expires = time.Unix(int64(f.GetExpires()), 0)
			}
			if f.GetGone() {
				w.dropFact(f.GetKey())
			} else {
				w.putFact(fact)
			}
		}
		return nil
	})
	if err == nil {
		s.expiring.merge(w.changed)
	}
	return err
}

func (w *writer) dropFact(key []byte) {
	if f := fingerprintOf(key); w.place(f) != (place{}) {
		must(w.bucket(expiringBucket).Delete(w.place(f).key(key)))
		w.setPlace(f, place{})
	}
	must(w.bucket(factsBucket).Delete(key))
}

// copyIndex takes over the index of the records before an index, and returns its digest.
func (s *Store) copyIndex(from *bbolt.Tx, before uint64) ([]byte, error) {
	sum := sha256.New()
	c := from.Bucket(indexBucket).Cursor()
	k, v := c.First()
	for k != nil {
		if err := s.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(indexBucket)
			b.FillPercent = fillPercent
			for range rebuildBatch {
				if k == nil {
					break
				}
				if audit.InIndex(k, before) {
					if err := copyPage(b, sum, k, v); err != nil {
						return err
					}
				}
				k, v = c.Next()
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return sum.Sum(nil), nil
}

func copyPage(to *bbolt.Bucket, sum hash.Hash, k, v []byte) error {
	if err := audit.WriteIndex(sum, k, v); err != nil {
		return err
	}
	return to.Put(k, v)
}

// carryFrom puts what stands at the end of an archive, and does not follow from the records that are here, into facts and blobs, and
// tells said of it.
func (s *Store) carryFrom(archive *Copy, said *pb.Archived) error {
	return archive.s.db.View(func(from *bbolt.Tx) error {
		d := differ{want: from, at: archive.s.end().time}
		for {
			var facts []*pb.CarriedFact
			var blob []byte
			if err := s.db.View(func(tx *bbolt.Tx) (err error) {
				facts, blob, err = d.next(tx)
				return err
			}); err != nil {
				return err
			}
			if blob == nil {
				break
			}
			digest := audit.Digest(blob)
			if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(blobsBucket).Put(digest[:], blob) }); err != nil {
				return err
			}
			if err := s.putCarried(facts); err != nil {
				return err
			}
			said.Carried = append(said.Carried, digest[:])
		}
		var err error
		said.Index, err = s.copyIndex(from, said.GetBefore())
		return err
	})
}

// differ tells in which facts a file differs from another, a blob at a time.
type differ struct {
	want *bbolt.Tx
	at   time.Time // when a fact that expired is none
	last []byte    // the key that was looked at last
}

// next returns the next facts that must be put into a file for it to have those that are wanted, and their blob; nil at the end.
func (d *differ) next(has *bbolt.Tx) ([]*pb.CarriedFact, []byte, error) {
	var carrier audit.Carrier
	var facts []*pb.CarriedFact
	w, h := standingFrom(d.want, d.last, d.at), standingFrom(has, d.last, d.at)
	for w.fact != nil || h.fact != nil {
		var f *pb.CarriedFact
		switch order := bytes.Compare(w.fact.GetKey(), h.fact.GetKey()); {
		case h.fact == nil || w.fact != nil && order < 0:
			f = w.fact
			d.last = w.fact.GetKey()
			w.next()
		case w.fact == nil || order > 0:
			f = &pb.CarriedFact{Key: h.fact.GetKey(), Gone: true}
			d.last = h.fact.GetKey()
			h.next()
		default:
			if !bytes.Equal(w.fact.GetValue(), h.fact.GetValue()) || w.fact.GetExpires() != h.fact.GetExpires() {
				f = w.fact
			}
			d.last = w.fact.GetKey()
			w.next()
			h.next()
		}
		if f == nil {
			continue
		}
		facts = append(facts, f)
		if blob, err := carrier.Add(f); blob != nil || err != nil {
			return facts, blob, err
		}
	}
	blob, err := carrier.End()
	return facts, blob, err
}

// standing goes through the facts that stand, in ascending order of keys.
type standing struct {
	fact     *pb.CarriedFact // where it is; nil at the end
	lasting  *bbolt.Cursor
	k, v     []byte            // the next of those that never expire
	expiring []*pb.CarriedFact // the others beyond
}

// standingFrom begins beyond a key. What had expired at a time does not stand.
func standingFrom(tx *bbolt.Tx, beyond []byte, at time.Time) *standing {
	s := &standing{lasting: tx.Bucket(factsBucket).Cursor()}
	s.k, s.v = s.lasting.Seek(append(bytes.Clone(beyond), 0))
	for _, f := range allExpiring(tx, nil, at) {
		if bytes.Compare(f.Key, beyond) > 0 {
			s.expiring = append(s.expiring, &pb.CarriedFact{Key: f.Key, Value: f.Value, Expires: f.expires})
		}
	}
	slices.SortFunc(s.expiring, func(a, b *pb.CarriedFact) int { return bytes.Compare(a.GetKey(), b.GetKey()) })
	s.next()
	return s
}

func (s *standing) next() {
	switch {
	case len(s.expiring) > 0 && (s.k == nil || bytes.Compare(s.expiring[0].GetKey(), s.k) < 0):
		s.fact, s.expiring = s.expiring[0], s.expiring[1:]
	case s.k != nil:
		s.fact = &pb.CarriedFact{Key: bytes.Clone(s.k), Value: bytes.Clone(s.v)}
		s.k, s.v = s.lasting.Next()
	default:
		s.fact = nil
	}
}
