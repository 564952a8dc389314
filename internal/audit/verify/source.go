package verify

import (
	"errors"
	"iter"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/tlog"
)

// Source is a log as an outsider holds it. Only its public key is trusted; all else is what is checked.
type Source struct {
	// PublicKey is that of the log, in the format of signed notes (name+hash+key). Required; it MUST come from somewhere else than
	// the log.
	PublicKey string
	// Checkpoint is the newest signed checkpoint. Required.
	Checkpoint []byte
	// Older are signed checkpoints that others kept: the log must be a continuation of each.
	Older [][]byte
	// Records are those of the log, from index 0 on, nil for one that is not there. Required. It is read a second time to name a record
	// to which a fact belongs.
	Records iter.Seq2[[]byte, error]
	// Hashes are those of the Merkle tree as stored, in order; nil if they are not at hand.
	Hashes iter.Seq2[[]byte, error]
	// Stored are the facts as stored, in any order; nil if they are not at hand.
	Stored iter.Seq2[Fact, error]
	// Derive says which facts follow from a record. Required with Stored.
	Derive func(*pb.Record) ([]Fact, error)
	// Index begins to say which facts follow from many records together: what it returns is told of each record in order. May be nil.
	Index func() func(*pb.Record) ([]Fact, error)
	// Archived is the record that is said to tell where records are that are not there; nil for none. It is believed once it was found
	// in its place.
	Archived []byte
	// Leaf returns the RFC 6962 hash of a record that is not there. Required with Archived.
	Leaf func(index uint64) (tlog.Hash, error)
	// Blob returns what the log has under a digest; nil if it has nothing. Required with Archived.
	Blob func(digest [32]byte) ([]byte, error)
	// InIndex tells whether a stored fact is of the index of the records before one. Resume begins to say, as Index does, which facts
	// follow from the record before which records were archived, and those after it. Both are required with Archived and Index.
	InIndex func(key []byte, before uint64) bool
	Resume  func(before uint64) (func(*pb.Record) ([]Fact, error), error)
	// Evaluate makes a decision again, from what its record cites, and holds it against the record. Of a policy that comes into force it
	// sees that it can be read, and of each caller that the identity which a record cites is theirs. It is called by several goroutines.
	// ErrErased says that there is nothing under the digest of the identity, ErrNotAsked that a decision is none of the policy. If nil,
	// decisions are held against everything but the policy.
	Evaluate func(*pb.Record) error
	// Continued says that the log goes on elsewhere, as from an archive: there it may be told that an identity was erased.
	Continued bool
	// Engine is the version of the expression engine of Evaluate.
	Engine string
	// Progress is told from time to time how many records of how many were checked. May be nil.
	Progress func(done, total uint64)
}

// What Evaluate may say besides that a record is right or wrong.
var (
	ErrErased   = errors.New("the identity that it cites is not there")
	ErrNotAsked = errors.New("the policy was not asked")
)

// Fact is what follows from a record, or is stored as following from one.
type Fact struct {
	Key, Value []byte
	// Expires is when the fact ceases to count; zero for never.
	Expires time.Time
	// Rule says what must hold when the fact is written; only of derived ones.
	Rule Rule
	// Record is the one from which a fact that expires is said to follow; only of stored ones.
	Record uint64
}

// Rule says what must hold when a fact is written.
type Rule int

// The rules. The zero value is none.
const (
	// New: the key must not exist.
	New Rule = iota + 1
	// Same: the key must not exist, or have the same value.
	Same
	// Set: written whatever was there.
	Set
	// Holds: the key must have this value already. Nothing is written.
	Holds
	// Ends: the key must have a value already, and not this one. The fact is removed.
	Ends
)

// Summary is what a log that verified holds.
type Summary struct {
	Checkpoint Checkpoint
	// Certificates is how many records grant one, Refusals how many decisions grant none.
	Certificates uint64
	Refusals     uint64
	// Evaluated is how many decisions were made again and came out the same.
	Evaluated uint64
	// Erased is how many could not, because the identity that they cite was erased. Of EraserMissing of those no record tells that; it
	// is 0 unless the log is Continued.
	Erased        uint64
	EraserMissing uint64
	// Faults is how many refusals are for a fault of the daemon, of which the log has not all that the policy saw.
	Faults uint64
	// OtherEngine is how many of those made again were made by another engine than that of this program.
	OtherEngine uint64
	// Facts is how many facts were held against the records.
	Facts uint64
	// Archived is how many records are not there, so that nothing vouches for what they said but their hashes. Archive tells where they
	// went: it is that of record ArchivedBy, of ArchivedAt. It is nil if no record is missing.
	Archived   uint64
	Archive    *pb.Archived
	ArchivedBy uint64
	ArchivedAt time.Time
	// Rejoined is how many records were archived, and are there all the same.
	Rejoined uint64
}

// FactError names a stored fact that is not as the records say.
type FactError struct {
	Key []byte
	Err error
}

func (e *FactError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong with the fact.
func (e *FactError) Unwrap() error { return e.Err }
