package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// archive is what is known of records that were archived. Those that are not there are vouched for by their hashes; the facts that
// stood because of them by a record of the log, which cites what was carried over.
type archive struct {
	// raw is the record that tells of the newest archive, at index, as long as it is only said to be there; nil for none.
	raw   []byte
	index uint64
	said  *pb.Archived
	at    time.Time
	found bool
	// missing is how many records are not there, rejoined how many are that left, left how many left by what the records say.
	missing, rejoined, left uint64
	// stayed are the facts that follow from the records that stay, without their rules.
	stayed projection
	// pages is the digest of the stored index of the records before.
	pages hash.Hash
}

// leaves tells of a record whether an archive takes it. It is written here once more: see docs/keeping.md.
func leaves(r *pb.Record) bool {
	switch r.GetEvent().(type) {
	case *pb.Record_Decided, *pb.Record_SignatureFailed, *pb.Record_StrangersCounted, *pb.Record_RefusalsCounted,
		*pb.Record_AccessRefused, *pb.Record_SignInBound, *pb.Record_BackupTaken:
		return true
	}
	return false
}

func openArchive(s Source) (*archive, error) {
	a := &archive{raw: s.Archived, pages: sha256.New()}
	if a.raw == nil {
		return a, nil
	}
	p, err := parseRecord(a.raw)
	if err != nil {
		return nil, fmt.Errorf("the record that is said to tell of an archive: %w", err)
	}
	a.index, a.said, a.at = p.record.GetIndex(), p.record.GetArchived(), p.record.GetTime().AsTime()
	if a.said == nil {
		return nil, &RecordError{Index: a.index, Err: errors.New("it is said to tell of an archive, and does not")}
	}
	a.stayed.init()
	return a, nil
}

// before is the index before which records may be missing; 0 for none.
func (a *archive) before() uint64 { return a.said.GetBefore() }

// gap takes the hash of a record that is not there.
func (k *checker) gap(place uint64) error {
	a := k.archive
	if place >= a.before() {
		return errors.New("it is missing, and no record says that it was archived")
	}
	leaf, err := k.source.Leaf(place)
	if err != nil {
		return fmt.Errorf("read its hash: %w", err)
	}
	a.missing++
	k.walk.gap()
	return k.grow(leaf, "its hash was changed")
}

// reach is told when the records before an archive's end were seen. What follows from them is what was carried over together with what
// follows from those that stay; if all are there, the one is held against the other.
func (k *checker) reach(next *pb.Record) error {
	a := k.archive
	root := k.tree.root()
	switch {
	case !bytes.Equal(root[:], a.said.GetRoot()):
		return fmt.Errorf("record %d tells of an archive of other records than the %d before", a.index, a.before())
	case !next.GetTime().AsTime().Equal(a.said.GetUntil().AsTime()):
		return fmt.Errorf("record %d says that what it archived is from before %s, but this one is of %s", a.index, a.said.GetUntil().AsTime(), next.GetTime().AsTime())
	case k.source.Derive == nil:
		return nil
	}
	carried, err := k.carried()
	if err != nil {
		return &RecordError{Index: a.index, Err: err}
	}
	if a.missing == 0 {
		if err := a.compare(&k.projection, carried); err != nil {
			return &RecordError{Index: a.index, Err: err}
		}
		return nil
	}
	k.walk.reviews.carry(carried)
	k.projection = a.stayed
	for _, f := range carried {
		if f.GetGone() {
			delete(k.projection.facts, string(f.GetKey()))
			continue
		}
		k.projection.facts[string(f.GetKey())] = standing{value: f.GetValue(), expires: expiry(f), index: a.index, carried: true}
	}
	if k.source.Resume != nil {
		k.index, err = k.source.Resume(a.before())
	}
	return err
}

func expiry(f *pb.CarriedFact) time.Time {
	if f.GetExpires() == 0 {
		return time.Time{}
	}
	return time.Unix(int64(f.GetExpires()), 0)
}

// carried reads the facts that were carried over, each of which must be what the record cites.
func (k *checker) carried() ([]*pb.CarriedFact, error) {
	var all []*pb.CarriedFact
	for _, digest := range k.archive.said.GetCarried() {
		if len(digest) != sha256.Size {
			return nil, errors.New("what it carried over is not named by a SHA-256")
		}
		blob, err := k.source.Blob([32]byte(digest))
		if err != nil {
			return nil, fmt.Errorf("read what it carried over: %w", err)
		}
		if is := sha256.Sum256(blob); !bytes.Equal(is[:], digest) {
			return nil, fmt.Errorf("what it carried over, the blob %x, is missing or was changed", digest)
		}
		held := &pb.CarriedFacts{}
		if err := proto.Unmarshal(blob, held); err != nil {
			return nil, fmt.Errorf("read what it carried over: %w", err)
		}
		if err := known(held.ProtoReflect()); err != nil {
			return nil, err
		}
		for _, f := range held.GetFacts() {
			if len(all) > 0 && bytes.Compare(all[len(all)-1].GetKey(), f.GetKey()) >= 0 {
				return nil, fmt.Errorf("what it carried over is not in order: fact %q", printable(f.GetKey()))
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// compare holds what was carried over against what follows from all records.
func (a *archive) compare(all *projection, carried []*pb.CarriedFact) error {
	over := map[string]*pb.CarriedFact{}
	for _, f := range carried {
		over[string(f.GetKey())] = f
	}
	at := all.time
	for key, f := range all.facts {
		stayed, stays := a.stayed.facts[key]
		stays = stays && !stayed.expired(at) && stayed.same(f.value, f.expires)
		c := over[key]
		delete(over, key)
		switch {
		case f.expired(at):
			if c != nil && !c.GetGone() {
				return fmt.Errorf("it carried over the fact %q, which had expired", printable([]byte(key)))
			}
		case c == nil && !stays, c != nil && (c.GetGone() || !f.same(c.GetValue(), expiry(c))):
			return fmt.Errorf("the fact %q, which stood by record %d, is not carried over as it was", printable([]byte(key)), f.index)
		}
	}
	for key, c := range over {
		if _, stays := a.stayed.facts[key]; !c.GetGone() || !stays {
			return fmt.Errorf("it carried over the fact %q, which did not stand", printable([]byte(key)))
		}
	}
	return nil
}

func (s standing) same(value []byte, expires time.Time) bool {
	return bytes.Equal(s.value, value) && s.expires.IsZero() == expires.IsZero() && (expires.IsZero() || s.expires.Unix() == expires.Unix())
}

// met is told of each record that tells of an archive.
func (a *archive) met(place uint64, raw []byte, said *pb.Archived) error {
	a.left += said.GetRecords()
	if place == a.index && a.raw != nil {
		if !bytes.Equal(raw, a.raw) {
			return errors.New("it tells of another archive than was said")
		}
		a.found = true
	}
	return nil
}

// end holds the numbers of records against each other.
func (a *archive) end() error {
	switch {
	case a.raw != nil && !a.found:
		return &RecordError{Index: a.index, Err: errors.New("it is said to tell of an archive, and the log does not have it so")}
	case a.raw == nil || a.missing+a.rejoined == a.left:
		return nil
	}
	return &RecordError{Index: a.index, Err: fmt.Errorf("by it and those before, %d records were archived, but %d are missing before record %d: some are missing that never left",
		a.left, a.missing+a.rejoined, a.before())}
}

// page takes a stored fact, if it is of the index of the records before: it is vouched for by its digest as long as they are not there.
func (a *archive) page(f Fact, inIndex func([]byte, uint64) bool) bool {
	if a.missing == 0 || inIndex == nil || !inIndex(f.Key, a.before()) {
		return false
	}
	for _, b := range [][]byte{f.Key, f.Value} {
		_, _ = a.pages.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		_, _ = a.pages.Write(b)
	}
	return true
}

// pagesEnd says whether the stored index of the records before is the one that was carried over.
func (a *archive) pagesEnd() error {
	if a.missing == 0 || bytes.Equal(a.pages.Sum(nil), a.said.GetIndex()) {
		return nil
	}
	return &RecordError{Index: a.index, Err: errors.New("the index of the records that it archived was changed")}
}
