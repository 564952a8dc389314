// Package store is the log and what is derived from it: the interface of a backend, and the adapter that lets the core
// record through it.
//
// It knows records as bytes and facts as keys and values. It must never know what a policy says or how a request travels.
// Backends live in folders of their own and pass store/storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"golang.org/x/mod/sumdb/tlog"
)

// Slot is where a record goes.
type Slot struct {
	Index uint64
	// Time is the time of the commit in UTC, to the microsecond, never earlier than that of the record before.
	Time  time.Time
	Epoch uint32
}

// Serial is that of a certificate which the record in this slot grants.
func (s Slot) Serial() uint64 { return audit.Serial(s.Epoch, s.Index) }

// Marshal returns the record of an event in this slot.
func (s Slot) Marshal(e *audit.Event) ([]byte, error) {
	return audit.Marshal(e, s.Index, s.Time, s.Epoch)
}

// Entry is one conditional append. Everything about it is settled inside one transaction.
type Entry struct {
	// Build returns the exact bytes of the record for its slot. It is called inside the transaction, perhaps more than
	// once (a backend may retry), and MUST depend on nothing but the slot and what it closed over.
	Build func(Slot) (record []byte, err error)
	// Blobs are stored by SHA-256 in the same transaction, if they are new.
	Blobs [][]byte
	// Expect must still hold.
	Expect []Version
}

// Version is a fact that must have this value at the commit.
type Version struct {
	Key   []byte
	Value []byte // nil: the fact must not exist
}

// Store is a backend. The facts of a record (audit.Facts) are a pure function of its bytes and are written in the same
// transaction, so that every projection can be rebuilt from the log. A fact that breaks its rule fails the entry with a
// ConflictError. A fact that expired, by the time of the newest record, is as good as none, whether it was pruned or not.
//
// Reads never see a record that is not durable yet.
//
// An entry that fails, fails alone: it takes no index and the batch it was in goes on. Append returns only when the record
// is durable. Once the outcome of a commit is in doubt the backend is dead: Append returns ErrInDoubt for that batch and
// for ever after, and Dead is closed.
type Store interface {
	Reader
	Append(ctx context.Context, e Entry) (index uint64, err error)
	// Wait returns once the log has more than size records.
	Wait(ctx context.Context, size uint64) error
	// Dead is closed when the outcome of a commit is in doubt. The daemon must end.
	Dead() <-chan struct{}
	Close() error
}

// Reader is what can be read of a log, or of a copy of one.
type Reader interface {
	// Size is the number of durable records.
	Size(ctx context.Context) (uint64, error)
	// Records returns up to n records from index on, ascending; fewer at the end of the log. Those that were archived are left out,
	// so that the index of each is what audit.Place reads in it.
	Records(ctx context.Context, from uint64, n int) ([][]byte, error)
	// Blob returns the bytes with this SHA-256, or ErrNotFound.
	Blob(ctx context.Context, digest [32]byte) ([]byte, error)
	// Fact returns the value of a fact, or ErrNotFound.
	Fact(ctx context.Context, key []byte) ([]byte, error)
	// Facts returns up to n keys and values with this prefix in descending order of keys, those below before if it is not nil.
	Facts(ctx context.Context, prefix, before []byte, n int) ([]KeyValue, error)
	// Checkpoint returns the newest signed checkpoint, which covers all durable records.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Hashes returns hashes of the Merkle tree by their index (tlog.StoredHashIndex), in the order asked for. It is an error if one
	// is missing.
	Hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error)
}

// KeyValue is a fact as stored.
type KeyValue struct {
	Key   []byte
	Value []byte
}

// Errors of a backend.
var (
	ErrNotFound = errors.New("not found")
	// ErrExpect: a Version of the entry no longer holds.
	ErrExpect = errors.New("expected version no longer holds")
	// ErrInDoubt: the record may or may not be durable.
	ErrInDoubt = errors.New("outcome of the commit is in doubt")
	// ErrUnavailable: nothing was written, and trying again later may help (disk full, read-only, clock went back).
	ErrUnavailable = errors.New("log cannot be written")
	// ErrDamaged: what is stored cannot be read. Nothing mends it; a backup takes its place.
	ErrDamaged = errors.New("the file is damaged")
)

// ConflictError says that a fact of the record breaks its rule: one which had to be new exists, or one which had to have a
// value has another or none.
type ConflictError struct {
	Key   []byte
	Value []byte // the value that stands; nil if none does
}

func (e *ConflictError) Error() string {
	if e.Value == nil {
		return fmt.Sprintf("the log has no fact %q", e.Key)
	}
	return fmt.Sprintf("the log has the fact %q with another value", e.Key)
}
