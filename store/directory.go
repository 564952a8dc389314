package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// directoryBatch is how many facts or records the directory reads at once.
	directoryBatch = 500
	// directoryCatchUp is how many new records are read one by one; after more, all identities are gone through.
	directoryCatchUp = 2000
)

// Directory finds the identities of a log by email: by the one that was last seen of each. It is no part of the log: emails are in
// identity snapshots, which may be erased, so they are remembered in memory only, and one is believed as long as its snapshot is
// there. Its methods are safe for concurrent use.
type Directory struct {
	reader Reader

	mu sync.Mutex // guards what follows
	// size is how many records the directory knows of.
	size uint64
	// people are those with an email, by the key of the fact that has their newest snapshot.
	people map[string]listedPerson
}

// listedPerson is an identity as it was last seen. One without an email has none here.
type listedPerson struct {
	snapshot [32]byte
	caller   Caller
	email    string
}

// NewDirectory returns a Directory of the identities in a log.
func NewDirectory(r Reader) *Directory {
	return &Directory{reader: r, people: map[string]listedPerson{}}
}

// ByEmail returns the identities that have an email, in any case of letters.
func (d *Directory) ByEmail(ctx context.Context, email string) ([]Caller, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(ctx); err != nil {
		return nil, fmt.Errorf("look up identities by email: %w", err)
	}
	var found []Caller
	for key, p := range d.people {
		if p.email == "" || !strings.EqualFold(p.email, email) {
			continue
		}
		switch _, err := d.reader.Blob(ctx, p.snapshot); {
		case errors.Is(err, ErrNotFound): // it was erased
			d.people[key] = listedPerson{snapshot: p.snapshot}
		case err != nil:
			return nil, fmt.Errorf("look up identities by email: %w", err)
		default:
			found = append(found, p.caller)
		}
	}
	return found, nil
}

// refresh learns of what was recorded since the last time.
func (d *Directory) refresh(ctx context.Context) error {
	size, err := d.reader.Size(ctx)
	if err != nil || size == d.size {
		return err
	}
	if size-d.size > directoryCatchUp || size < d.size || d.size == 0 {
		err = d.readAll(ctx)
	} else {
		err = d.readNew(ctx, size)
	}
	if err == nil {
		d.size = size
	}
	return err
}

// readNew looks at the callers of new records.
func (d *Directory) readNew(ctx context.Context, size uint64) error {
	for next := d.size; next < size; {
		records, err := d.reader.Records(ctx, next, int(min(directoryBatch, size-next)))
		if err != nil {
			return err
		}
		for _, b := range records {
			var r pb.Record
			if err := proto.Unmarshal(b, &r); err != nil {
				return fmt.Errorf("read record %d: %w", next, err)
			}
			next = r.GetIndex() + 1
			if c := audit.CallerOf(&r); len(c.GetSnapshot()) == 32 {
				if err := d.learn(ctx, string(audit.SnapshotFact(c.GetIssuer(), c.GetSubject())), [32]byte(c.GetSnapshot())); err != nil {
					return err
				}
			}
		}
		if len(records) == 0 {
			return fmt.Errorf("record %d: %w", next, ErrNotFound)
		}
	}
	return nil
}

// readAll goes through the newest snapshots of all identities.
func (d *Directory) readAll(ctx context.Context) error {
	prefix := []byte(audit.SnapshotPrefix)
	for before := []byte(nil); ; {
		facts, err := d.reader.Facts(ctx, prefix, before, directoryBatch)
		if err != nil {
			return err
		}
		for _, f := range facts {
			if len(f.Value) == 0 { // all that the identity had were erased
				d.people[string(f.Key)] = listedPerson{}
				continue
			}
			if len(f.Value) != 32 {
				return fmt.Errorf("the fact %q names no snapshot", f.Key)
			}
			if err := d.learn(ctx, string(f.Key), [32]byte(f.Value)); err != nil {
				return err
			}
		}
		if len(facts) < directoryBatch {
			return nil
		}
		before = facts[len(facts)-1].Key
	}
}

// learn remembers the email of a snapshot.
func (d *Directory) learn(ctx context.Context, key string, snapshot [32]byte) error {
	if known, ok := d.people[key]; ok && known.snapshot == snapshot {
		return nil
	}
	blob, err := d.reader.Blob(ctx, snapshot)
	if errors.Is(err, ErrNotFound) { // it was erased
		d.people[key] = listedPerson{snapshot: snapshot}
		return nil
	}
	if err != nil {
		return err
	}
	var s pb.IdentitySnapshot
	if err := proto.Unmarshal(blob, &s); err != nil {
		return fmt.Errorf("read identity snapshot: %w", err)
	}
	p := listedPerson{snapshot: snapshot}
	if s.GetEmail() != "" {
		p.email, p.caller = s.GetEmail(), Caller{s.GetIssuer(), s.GetSubject()}
	}
	d.people[key] = p
	return nil
}
