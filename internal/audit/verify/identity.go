package verify

import (
	"errors"
	"fmt"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// identities are the snapshots that records cite and that are not there. Each was erased by a record after those that cite it, and
// nobody cites it from then on: else whoever writes the log could cite what never was, and no decision could be made again.
type identities struct {
	// missing are those of which no record told yet that they were erased: how many decisions cite each, and the first record that does.
	missing map[string]citations
	// erased are the records that erased the others.
	erased map[string]uint64
	// unexplained is how many decisions cite what is missing.
	unexplained uint64
}

type citations struct {
	first     uint64
	decisions uint64
}

func (s *identities) init() {
	s.missing, s.erased = map[string]citations{}, map[string]uint64{}
}

// cite takes a record that cites a snapshot which is not there.
func (s *identities) cite(place uint64, r *pb.Record) error {
	digest := string(snapshotOf(r))
	if by, erased := s.erased[digest]; erased {
		return fmt.Errorf("it cites an identity that was erased before, by record %d", by)
	}
	c, known := s.missing[digest]
	if !known {
		c.first = place
	}
	if r.GetDecided() != nil {
		c.decisions++
		s.unexplained++
	}
	s.missing[digest] = c
	return nil
}

func (s *identities) erase(place uint64, e *pb.IdentityErased) {
	for _, digest := range e.GetSnapshots() {
		s.erased[string(digest)] = place
		s.unexplained -= s.missing[string(digest)].decisions
		delete(s.missing, string(digest))
	}
}

// end names the first record that cites what nobody erased.
func (s *identities) end() error {
	first, any := ^uint64(0), false
	for _, c := range s.missing {
		first, any = min(first, c.first), true
	}
	if !any {
		return nil
	}
	return &RecordError{Index: first, Err: errors.New("the identity that it cites is missing, and no record says that it was erased")}
}

// snapshotOf is the digest of the identity that a record cites; nil if it cites none.
func snapshotOf(r *pb.Record) []byte {
	m := r.ProtoReflect()
	event := m.WhichOneof(m.Descriptor().Oneofs().ByName("event"))
	if event == nil {
		return nil
	}
	told := m.Get(event).Message()
	field := told.Descriptor().Fields().ByName("caller")
	if field == nil || field.Message() == nil {
		return nil
	}
	caller, _ := told.Get(field).Message().Interface().(*pb.Caller)
	return caller.GetSnapshot()
}
