package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// maxRestores is how many restores are looked at. A log is not restored often.
const maxRestores = 1000

// Restores returns what the log key said of each restore, oldest first: what audit.Between reads.
func Restores(ctx context.Context, s Reader) ([]string, error) {
	facts, err := s.Facts(ctx, []byte(audit.RestorePrefix), nil, maxRestores)
	if err != nil {
		return nil, fmt.Errorf("list restores: %w", err)
	}
	var statements []string
	for _, f := range slices.Backward(facts) {
		statements = append(statements, string(f.Value))
	}
	return statements, nil
}

// Backup is a copy of the log. Close it when done.
type Backup struct {
	io.Reader
	// Bytes is how many there are to read.
	Bytes int64
	// Checkpoint is the newest in it.
	Checkpoint []byte
	// Close removes what the copy was read from.
	Close func() error
}

// ErrBusy says that the log is being copied for somebody else.
var ErrBusy = errors.New("a backup is under way")

// ErrNoRoom says that there is no room for a copy of the log, or that it would take what the log needs.
var ErrNoRoom = errors.New("no room for a copy of the log")

// snapshotBatch is how many records of a person are looked at in one go.
const snapshotBatch = 500

// BackupTaken records that an admin is given a copy of everything.
func (r *Recorder) BackupTaken(ctx context.Context, admin ca.Caller, sourceIP string) error {
	size, err := r.store.Size(ctx)
	if err != nil {
		return err
	}
	_, err = r.appendOf(ctx, admin.Identity, func(caller *pb.Caller) *audit.Event { return audit.BackupTaken(caller, sourceIP, size) })
	return err
}

// EraseIdentity erases all identity snapshots of a person on the word of an admin. It returns how many there were, and the index of the
// record; none, and no record, if they were erased before. Whoever is not known to the log is ErrNotFound.
func (r *Recorder) EraseIdentity(ctx context.Context, admin ca.Caller, issuer, subject, reason string) (erased int, index uint64, err error) {
	for {
		version, err := r.value(ctx, string(audit.SnapshotFact(issuer, subject)))
		if err != nil {
			return erased, index, err
		}
		digests, err := r.snapshots(ctx, issuer, subject)
		if err != nil || len(digests) == 0 {
			return erased, index, err
		}
		digests = digests[:min(len(digests), audit.MaxErased)]
		// A snapshot that is stored meanwhile has the salt of those that are erased, and would give them away.
		at, err := r.appendOf(ctx, admin.Identity, func(caller *pb.Caller) *audit.Event {
			return audit.IdentityErased(caller, issuer, subject, digests, reason)
		}, Version{Key: audit.SnapshotFact(issuer, subject), Value: version})
		if errors.Is(err, ErrExpect) {
			continue
		}
		if err != nil {
			return erased, index, err
		}
		erased, index = erased+len(digests), at
	}
}

// snapshots returns the digests, sorted, of the snapshots of a person that the log still has.
func (r *Recorder) snapshots(ctx context.Context, issuer, subject string) ([][]byte, error) {
	newest, err := r.value(ctx, string(audit.SnapshotFact(issuer, subject))) // that of somebody of whom all records were archived
	if err != nil {
		return nil, err
	}
	found, known := map[string]bool{}, newest != nil
	if len(newest) == 32 {
		found[string(newest)] = true
	}
	for before := (*uint64)(nil); ; {
		records, err := List(ctx, r.store, Query{Issuer: issuer, Subject: subject, Before: before, Limit: snapshotBatch})
		if err != nil {
			return nil, err
		}
		for _, f := range records {
			record, err := audit.Parse(f.Record)
			if err != nil {
				return nil, err
			}
			before = &f.Index
			if c := audit.CallerOf(record); c.GetIssuer() == issuer && c.GetSubject() == subject {
				known, found[string(c.GetSnapshot())] = true, true
			}
		}
		if len(records) < snapshotBatch {
			break
		}
	}
	if !known {
		return nil, fmt.Errorf("identity %s of %s: %w", subject, issuer, ErrNotFound)
	}
	var digests [][]byte
	for _, digest := range slices.Sorted(maps.Keys(found)) {
		_, err := r.store.Blob(ctx, [32]byte([]byte(digest)))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		digests = append(digests, []byte(digest))
	}
	return digests, nil
}
