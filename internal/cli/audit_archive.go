package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/replay"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// logFile is a copy of a log that is verified, with the archives that hold what is not in it.
type logFile struct {
	name     string
	raw      *bolt.Raw
	archives []*logFile
}

func openLogFile(name string) (*logFile, error) {
	raw, err := bolt.OpenRaw(name)
	if err != nil {
		return nil, err
	}
	return &logFile{name: name, raw: raw}, nil
}

func (c *logFile) close() {
	for _, a := range c.archives {
		a.raw.Close()
	}
	c.raw.Close()
}

// join verifies archives, each with those before it, and adds them to a copy. Decisions in them are made again with the copy.
func (a *app) join(ctx context.Context, c *logFile, names []string, key string) error {
	sizes := map[*logFile]uint64{}
	for _, name := range names {
		archive, err := openLogFile(name)
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		c.archives = append(c.archives, archive)
		checkpoint, err := archive.raw.Checkpoint()
		if err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
		said, err := verify.OpenCheckpoint(checkpoint, key)
		if err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
		sizes[archive] = said.Size
	}
	slices.SortStableFunc(c.archives, func(a, b *logFile) int { return cmp.Compare(sizes[a], sizes[b]) })
	for i, archive := range c.archives {
		archive.archives = c.archives[:i]
		if _, _, err := a.verifyFile(ctx, archive, key, nil, nil); err != nil {
			f := *a.classify(err)
			f.err = fmt.Errorf("archive %s: %w", archive.name, f.err)
			return &f
		}
	}
	return nil
}

// blob returns what the copy or an archive has under a digest.
func (c *logFile) blob(digest [32]byte) ([]byte, error) {
	blob, err := c.raw.Blob(digest)
	for _, a := range c.archives {
		if blob != nil || err != nil {
			break
		}
		blob, err = a.raw.Blob(digest)
	}
	return blob, err
}

// source is what is verified.
func (c *logFile) source(key string, older [][]byte) (verify.Source, error) {
	s := verify.Source{
		PublicKey: key, Older: older, Records: c.records(), Hashes: rows(c.raw.Hashes(), "hash"),
		Leaf: c.raw.Leaf, Blob: c.blob, InIndex: audit.InIndex,
		Resume: func(before uint64) (func(*pb.Record) ([]verify.Fact, error), error) {
			x, err := c.raw.Resume(before)
			return func(r *pb.Record) ([]verify.Fact, error) { return indexed(x, r) }, err
		},
	}
	version, err := c.raw.FactsVersion()
	if err != nil {
		return s, err
	}
	if version == audit.FactsVersion {
		s.Stored = storedFacts(c.raw)
	}
	if s.Checkpoint, err = c.raw.Checkpoint(); err != nil {
		return s, err
	}
	if _, s.Continued, err = c.raw.ArchiveFrom(); err != nil {
		return s, err
	}
	s.Archived, err = c.raw.Archived()
	for _, a := range c.archives {
		checkpoint, archiveErr := a.raw.Checkpoint()
		s.Older, err = append(s.Older, checkpoint), errors.Join(err, archiveErr)
	}
	return s, err
}

// records are those of the copy, and of its archives where it has none; nil where they have none either.
func (c *logFile) records() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		next := uint64(0)
		for row, err := range c.raw.Records() {
			if err != nil || len(row.Key) != 8 {
				yield(nil, errors.Join(err, badKey(row.Key)))
				return
			}
			for at := binary.BigEndian.Uint64(row.Key); next < at; next++ {
				if record, err := c.archived(next); !yield(record, err) || err != nil {
					return
				}
			}
			if !yield(row.Value, nil) {
				return
			}
			next++
		}
	}
}

func badKey(key []byte) error {
	if key == nil || len(key) == 8 {
		return nil
	}
	return fmt.Errorf("a record is stored under %x", key)
}

// archived returns a record that only an archive has; nil if none does.
func (c *logFile) archived(index uint64) ([]byte, error) {
	for _, a := range c.archives {
		if record, err := a.raw.Record(index); record != nil || err != nil {
			return bytes.Clone(record), err
		}
	}
	return nil, nil
}

// blame names the archive that a wrong record came from.
func (c *logFile) blame(err error) error {
	wrong, ok := errors.AsType[*verify.RecordError](err)
	if !ok {
		return err
	}
	if own, ownErr := c.raw.Record(wrong.Index); own != nil || ownErr != nil {
		return err
	}
	if from, _, fromErr := c.raw.ArchiveFrom(); fromErr == nil && wrong.Index < from {
		return &failure{
			exit: exitFailed, err: fmt.Errorf("%s is an archive of the records from %d on, and record %d is in none of the earlier ones that were given", c.name, from, wrong.Index),
			hint: fmt.Sprintf("hallpass audit verify %s --archive EARLIER", c.name),
		}
	}
	for _, a := range c.archives {
		if record, err := a.raw.Record(wrong.Index); record != nil && err == nil {
			return &failure{exit: exitFailed, err: fmt.Errorf("archive %s: %w", a.name, wrong), hint: "keep it, and tell those who audit the CA"}
		}
	}
	return err
}

// noteArchived says that a replay was asked for decisions that were archived.
func (a *app) noteArchived(ctx context.Context, config replay.Config) error {
	archive, err := config.Log.Archive(ctx)
	if archive == nil || err != nil {
		return err
	}
	if until := archive.GetUntil().AsTime(); !config.Since.After(until) {
		a.note("note: decisions from before %s were archived, and are not replayed: give the archive with --log for those", until.Format(time.RFC3339))
	}
	return nil
}
