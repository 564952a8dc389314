package store

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Archive tells which records are not in the log any more.
type Archive struct {
	*pb.Archived
	// Index is that of the record that says so, Time when it was committed.
	Index uint64
	Time  time.Time
}

// ArchivedError says that a record was archived. It is an ErrNotFound.
type ArchivedError struct {
	Index uint64
	// Archive is the one that has it; nil for one that an archive, which is read, does not tell of.
	Archive *Archive
}

func (e *ArchivedError) Error() string {
	if e.Archive == nil {
		return fmt.Sprintf("record %d was archived before: look into an earlier archive", e.Index)
	}
	return fmt.Sprintf("record %d was archived on %s by record %d: look into the archive that was made then", e.Index, e.Archive.Time.Format(time.DateOnly), e.Archive.Index)
}

// Is makes it an ErrNotFound.
func (e *ArchivedError) Is(target error) bool { return target == ErrNotFound }

// NewestArchive returns the newest archive, which is the one that has the most of what is not in the log; nil if there is none.
func NewestArchive(ctx context.Context, s Reader) (*Archive, error) { return archiveAbove(ctx, s, nil) }

// archiveAbove returns the archive with the records at an index and beyond; the newest for nil.
func archiveAbove(ctx context.Context, s Reader, index *uint64) (*Archive, error) {
	var found *Archive
	for before := []byte(nil); ; {
		facts, err := s.Facts(ctx, []byte(audit.ArchivedPrefix), before, 1)
		if err != nil {
			return nil, fmt.Errorf("look up archives: %w", err)
		}
		if len(facts) == 0 || index != nil && bytes.Compare(facts[0].Key, audit.ArchivedFact(*index)) <= 0 {
			return found, nil
		}
		if found, err = archiveOf(ctx, s, facts[0]); err != nil || index == nil {
			return found, err
		}
		before = facts[0].Key
	}
}

func archiveOf(ctx context.Context, s Reader, f KeyValue) (*Archive, error) {
	index, ok := audit.Number(f.Value)
	if !ok {
		return nil, fmt.Errorf("look up archives: the fact %q names no record", f.Key)
	}
	records, err := s.Records(ctx, index, 1)
	if err != nil || len(records) == 0 {
		return nil, fmt.Errorf("look up archives: read record %d: %w", index, err)
	}
	r, err := audit.Parse(records[0])
	if err != nil {
		return nil, fmt.Errorf("look up archives: %w", err)
	}
	if r.GetArchived() == nil || r.GetIndex() != index {
		return nil, fmt.Errorf("look up archives: record %d tells of none", index)
	}
	return &Archive{Archived: r.GetArchived(), Index: index, Time: r.GetTime().AsTime()}, nil
}

// Record returns the record at an index: an *ArchivedError if it was archived, ErrNotFound if the log is not that long.
func Record(ctx context.Context, s Reader, index uint64) ([]byte, error) {
	records, err := s.Records(ctx, index, 1)
	if err != nil {
		return nil, err
	}
	if len(records) > 0 {
		if at, err := audit.Place(records[0]); err != nil || at == index {
			return records[0], err
		}
		a, err := archiveAbove(ctx, s, &index)
		if err != nil {
			return nil, err
		}
		return nil, &ArchivedError{Index: index, Archive: a}
	}
	return nil, fmt.Errorf("record %d: %w", index, ErrNotFound)
}
