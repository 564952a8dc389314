package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// Log is where recorded decisions come from. Its methods are safe for concurrent use.
type Log interface {
	// Range returns the indexes of the records that were committed from since on and before until, the first and the one behind
	// the last; a zero time is no bound.
	Range(ctx context.Context, since, until time.Time) (from, to uint64, err error)
	// Read calls each with the records from one index up to another, in their order, some at a time.
	Read(ctx context.Context, from, to uint64, each func([]Entry) error) error
	// Loaded returns all policies that were ever in force, oldest first.
	Loaded(ctx context.Context) ([]Loaded, error)
	// Bundle returns the files of one of them.
	Bundle(ctx context.Context, ref ca.PolicyRef) (*policy.Bundle, error)
	// Archive returns what the newest archive took; nil if there is none.
	Archive(ctx context.Context) (*pb.Archived, error)
	// Blob returns what a record cites by its SHA-256; nil if it was erased.
	Blob(ctx context.Context, digest [32]byte) ([]byte, error)
}

// Entry is a record as stored. Its Snapshot and its Lists, the blobs that it cites, are nil if they have to be asked for.
type Entry struct {
	Index                   uint64
	Record, Snapshot, Lists []byte
}

// Loaded is a policy that was in force from a record on.
type Loaded struct {
	Index  uint64
	Digest [32]byte
	Engine string
}

// copyBatch is how many records of a copy are read at a time.
const copyBatch = 500

// Copy is a log that is read where it lies.
type Copy struct{ Reader store.Reader }

var _ Log = Copy{}

// Range implements Log.
func (c Copy) Range(ctx context.Context, since, until time.Time) (from, to uint64, err error) {
	if to, err = c.Reader.Size(ctx); err != nil {
		return 0, 0, err
	}
	if !until.IsZero() {
		if to, err = store.FirstAt(ctx, c.Reader, until, to); err != nil {
			return 0, 0, err
		}
	}
	if !since.IsZero() {
		from, err = store.FirstAt(ctx, c.Reader, since, to)
	}
	return from, to, err
}

// Read implements Log.
func (c Copy) Read(ctx context.Context, from, to uint64, each func([]Entry) error) error {
	for from < to {
		records, err := c.Reader.Records(ctx, from, int(min(to-from, copyBatch)))
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return fmt.Errorf("the log has no record %d, though it has one behind it", from)
		}
		var batch []Entry
		for _, record := range records {
			index, err := audit.Place(record)
			if err != nil {
				return err
			}
			if from = index + 1; index < to { // some may have been archived
				batch = append(batch, Entry{Index: index, Record: record})
			}
		}
		if err := each(batch); err != nil {
			return err
		}
	}
	return nil
}

// Loaded implements Log.
func (c Copy) Loaded(ctx context.Context) ([]Loaded, error) {
	var out []Loaded
	for before := (*uint64)(nil); ; {
		found, err := store.Revisions(ctx, c.Reader, before, copyBatch)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			out = append(out, loadedOf(r.Index, r.Loaded))
		}
		if len(found) < copyBatch {
			return oldestFirst(out), nil
		}
		before = &found[len(found)-1].Index
	}
}

// Archive implements Log.
func (c Copy) Archive(ctx context.Context) (*pb.Archived, error) {
	a, err := store.NewestArchive(ctx, c.Reader)
	if a == nil || err != nil {
		return nil, err
	}
	return a.Archived, nil
}

// Bundle implements Log.
func (c Copy) Bundle(ctx context.Context, ref ca.PolicyRef) (*policy.Bundle, error) {
	return policy.ReadManifest(ref, func(digest [32]byte) ([]byte, error) { return c.Reader.Blob(ctx, digest) })
}

// Blob implements Log.
func (c Copy) Blob(ctx context.Context, digest [32]byte) ([]byte, error) {
	blob, err := c.Reader.Blob(ctx, digest)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return blob, err
}
