package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// ArchivedPrefix is what the keys of the facts begin with that tell of archives. The rest of such a key is the index before which
	// records left, the value the index of the record that says so.
	ArchivedPrefix = "archived/"
	// maxCarried is about the size of a blob of carried facts, in bytes.
	maxCarried = 4 << 20
	// placeField is the number of the field of a record with its index.
	placeField = 2
)

// ArchivedFact is the key of the fact that records before an index were archived.
func ArchivedFact(before uint64) []byte { return factKey(ArchivedPrefix, number(before)) }

// Leaves tells whether a record leaves the log when what is older than it does. What the CA itself hangs on stays, and so does what
// this program has no reason to let go.
func Leaves(r *pb.Record) bool {
	switch r.GetEvent().(type) {
	case *pb.Record_Decided, *pb.Record_SignatureFailed, *pb.Record_StrangersCounted, *pb.Record_RefusalsCounted,
		*pb.Record_AccessRefused, *pb.Record_SignInBound, *pb.Record_BackupTaken:
		return true
	}
	return false
}

// Cites returns the digests of the blobs that a record cites about people: the snapshot of its caller, and fetched lists. Blobs of
// policies are not among them.
func Cites(r *pb.Record) [][]byte {
	var digests [][]byte
	for _, digest := range [][]byte{CallerOf(r).GetSnapshot(), r.GetDecided().GetLists()} {
		if len(digest) == 32 {
			digests = append(digests, digest)
		}
	}
	return digests
}

// Archived is the event that records left.
func Archived(a *pb.Archived) *Event { return &Event{Event: &pb.Record_Archived{Archived: a}} }

// checkArchived holds the record of an archive to what later readers rely on.
func checkArchived(a *pb.Archived, index uint64) error {
	switch {
	case a.GetBefore() == 0 || a.GetBefore()%BlockSize != 0 || a.GetFrom()%BlockSize != 0 || a.GetFrom() >= a.GetBefore() || a.GetBefore() >= index:
		return fmt.Errorf("it archives from record %d and before record %d, which are no blocks before it", a.GetFrom(), a.GetBefore())
	case a.GetRecords() == 0 || a.GetRecords() > a.GetBefore()-a.GetFrom():
		return fmt.Errorf("it archives %d of %d records", a.GetRecords(), a.GetBefore()-a.GetFrom())
	case a.GetUntil() == nil || len(a.GetRoot()) != 32 || len(a.GetIndex()) != 32 || a.GetBy() == "":
		return errors.New("it archives without time, root hash, index or who did it")
	}
	for _, digest := range a.GetCarried() {
		if len(digest) != 32 {
			return errors.New("the digest of what it carries over is not a SHA-256")
		}
	}
	return nil
}

// Place returns the index that a record says it has, and reads no more of it: where many are passed over, that counts.
func Place(record []byte) (uint64, error) {
	index := uint64(0)
	for rest := record; len(rest) > 0; {
		field, wire, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return 0, fmt.Errorf("read the place of a record: %w", protowire.ParseError(n))
		}
		rest = rest[n:]
		if field == placeField && wire == protowire.VarintType {
			if index, n = protowire.ConsumeVarint(rest); n < 0 {
				return 0, fmt.Errorf("read the place of a record: %w", protowire.ParseError(n))
			}
		} else if n = protowire.ConsumeFieldValue(field, wire, rest); n < 0 {
			return 0, fmt.Errorf("read the place of a record: %w", protowire.ParseError(n))
		}
		rest = rest[n:]
	}
	return index, nil
}

// InIndex tells whether a fact is a page of the index of records that all are before an index.
func InIndex(key []byte, before uint64) bool {
	size := uint64(BlockSize)
	rest, ok := bytes.CutPrefix(key, []byte(Blocks))
	if !ok {
		size = ChapterSize
		rest, ok = bytes.CutPrefix(key, []byte(Chapters))
	}
	return ok && len(rest) >= 8 && binary.BigEndian.Uint64(rest) < before/size
}

// WriteIndex writes a page of the index in the form that the digest in an Archived record is of.
func WriteIndex(to io.Writer, key, value []byte) error {
	for _, b := range [][]byte{key, value} {
		if _, err := to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
			return err
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// Carrier puts facts that are carried over into blobs.
type Carrier struct {
	facts *pb.CarriedFacts
	size  int
}

// Add adds a fact, in ascending order of keys. It returns a blob once one is full.
func (c *Carrier) Add(f *pb.CarriedFact) ([]byte, error) {
	if c.facts == nil {
		c.facts = &pb.CarriedFacts{}
	}
	c.facts.Facts = append(c.facts.Facts, f)
	if c.size += len(f.GetKey()) + len(f.GetValue()) + 16; c.size < maxCarried {
		return nil, nil
	}
	return c.End()
}

// End returns what is left; nil for nothing.
func (c *Carrier) End() ([]byte, error) {
	if c.facts == nil {
		return nil, nil
	}
	blob, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.facts)
	c.facts, c.size = nil, 0
	return blob, err
}

// Carried reads a blob of facts that an archive carried over, of the facts whose keys come after one.
func Carried(blob, after []byte) ([]*pb.CarriedFact, error) {
	held := &pb.CarriedFacts{}
	if err := proto.Unmarshal(blob, held); err != nil {
		return nil, fmt.Errorf("read carried facts: %w", err)
	}
	if err := known(held.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("read carried facts: %w", err)
	}
	for _, f := range held.GetFacts() {
		if bytes.Compare(f.GetKey(), after) <= 0 || bytes.HasPrefix(f.GetKey(), []byte(IndexPrefix)) {
			return nil, fmt.Errorf("read carried facts: %q is out of place", f.GetKey())
		}
		after = f.GetKey()
	}
	return held.GetFacts(), nil
}
