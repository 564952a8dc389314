package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// minAge is the least age of what is archived: requests that may be repeated, tokens that still serve, and certificates that are
// valid are younger.
const minAge = 24 * time.Hour

// Archiving is how to move old records out of a log.
type Archiving struct {
	// Before is the time before which records are old; at least a day ago.
	Before time.Time
	// File is where they go. What is there is never replaced, but for what an earlier run left that did not end.
	File string
	// Allow says whether the records of the log before an index may go; nil if they may.
	Allow func(log store.Reader, before uint64) error
	// Reason and By are for the record: why, and who.
	Reason, By string
}

// Archive tells what an archiving came to.
type Archive struct {
	*pb.Archived
	// Index is that of the record.
	Index uint64
	// LogID is that of the log, Epoch the one in which the archive ends.
	LogID string
	Epoch uint32
	// ArchiveBytes is the size of the archive, Bytes and BytesBefore that of the log now and before.
	ArchiveBytes, Bytes, BytesBefore int64
}

// MoveToArchive moves the records of a log that no daemon has open, and that are older than a time, into a file of their own: a log of
// all records before an index, with a checkpoint that the log key signs. What Leaves tells of them leaves the log; its hashes stay.
// Facts that stood because of what left are carried over in blobs that a record cites, so that all facts can still be made of the log.
//
// The archive is complete, synced and compared with the log before the log is replaced, in one step, by one without those records. A
// crash leaves the old log or the new one; after it, the same call begins anew.
func MoveToArchive(path string, cfg Config, a Archiving) (*Archive, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("archive log: %w", err)
	}
	out, err := archive(realPath(path), cfg, a)
	if err != nil {
		return nil, fmt.Errorf("archive log %s to %s: %w", path, a.File, stopFirst(err))
	}
	return out, nil
}

func archive(path string, cfg Config, a Archiving) (*Archive, error) {
	if err := recoverSuspect(path, cfg); err != nil {
		return nil, err
	}
	// The lock of the old file is held until the new one is in its place.
	old, err := openExisting(path, cfg)
	if err != nil {
		return nil, err
	}
	if err := guard(old.verifyHead); err != nil {
		return nil, errors.Join(err, old.db.Close())
	}
	if old, err = old.migrated(); err != nil {
		return nil, err
	}
	defer old.db.Close()
	m := &move{Archiving: a, old: old, path: path}
	if err := m.choose(); err != nil {
		return nil, err
	}
	if err := guard(m.run); err != nil {
		return nil, err
	}
	return &m.out, finishRestore(path, cfg)
}

// move is an archiving on its way.
type move struct {
	Archiving
	old  *Store
	path string
	// from and before are the indexes between which records leave.
	from, before uint64
	// replaces says that an earlier run left an archive that this one has all of.
	replaces bool
	cited    cited
	out      Archive
}

// choose finds the blocks that leave.
func (m *move) choose() error {
	ctx := context.Background()
	end := m.old.end()
	// Neither a clock that runs ahead nor one that is behind makes old what is young.
	for _, now := range []time.Time{m.old.cfg.Now(), end.time} {
		if m.Before.After(now.Add(-minAge)) {
			return fmt.Errorf("%s is less than a day before %s: requests that may be repeated and tokens that still serve are that young",
				m.Before.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	n, err := store.FirstAt(ctx, m.old, m.Before, end.size-1)
	if err != nil {
		return err
	}
	m.from, m.before = m.old.archived, n/audit.BlockSize*audit.BlockSize
	if m.before <= m.from {
		return fmt.Errorf("there is nothing to archive: fewer than %d records, which is what leaves at once, are from before %s and not archived yet",
			audit.BlockSize, m.Before.UTC().Format(time.RFC3339))
	}
	open, ok, err := store.OldestOpenReview(ctx, m.old)
	if err != nil {
		return err
	}
	if ok && open < m.before {
		return fmt.Errorf("record %d asks for a review, and nobody looked at it yet: `hallpass audit review %d` does that, or archive only what is older", open, open)
	}
	if m.Allow != nil {
		if err := m.Allow(m.old, m.before); err != nil {
			return err
		}
	}
	return m.left()
}

// left looks at what is where the archive goes. Only an archive may be there of which the log still has all: that is what a run left
// which did not end.
func (m *move) left() error {
	if _, err := os.Lstat(m.File); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	c, err := openCopy(m.File, m.old.verifier)
	if err == nil {
		defer c.Close()
		err = m.old.db.View(func(tx *bbolt.Tx) error {
			return c.s.db.View(func(in *bbolt.Tx) error {
				from, ok := audit.Number(in.Bucket(metaBucket).Get(archiveKey))
				if !ok || from != m.from || c.s.end().size > m.before {
					return errors.New("it is another file")
				}
				return within(in, tx, m.before)
			})
		})
	}
	if err != nil {
		return fmt.Errorf("%s exists: an archive is never written over another file, give another name", m.File)
	}
	m.replaces = true
	return nil
}

func (m *move) run() error {
	fresh := m.path + freshSuffix
	if err := removeLeft(fresh); err != nil {
		return err
	}
	if err := checkSpace(fresh, m.old.file.Size()); err != nil {
		return err
	}
	return m.old.db.View(func(tx *bbolt.Tx) error {
		checkpoint, err := m.old.verifyOwner(tx)
		if err != nil {
			return err
		}
		if m.cited, err = citations(tx, m.from, m.before); err != nil {
			return err
		}
		if err := m.writeArchive(tx); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
		archive, err := openCopy(m.File, m.old.verifier)
		if err != nil {
			return fmt.Errorf("read the archive back: %w", err)
		}
		defer archive.Close()
		if err := m.writeLog(tx, checkpoint, archive, fresh); err != nil {
			return fmt.Errorf("write the log anew: %w", err)
		}
		if err := m.check(tx, archive, fresh); err != nil {
			return err
		}
		return putInPlace(fresh, m.path)
	})
}

// cited are the blobs about people that only some records cite.
type cited struct{ onlyLeft, onlyLater map[[32]byte]bool }

// citations goes through all records. The newest snapshot of each identity counts as cited by what stays.
func citations(tx *bbolt.Tx, from, before uint64) (cited, error) {
	early, left, stays := map[[32]byte]bool{}, map[[32]byte]bool{}, map[[32]byte]bool{}
	later := map[[32]byte]bool{}
	prefix := []byte(audit.SnapshotPrefix)
	c := tx.Bucket(factsBucket).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if len(v) == 32 {
			stays[[32]byte(v)] = true
			later[[32]byte(v)] = true
		}
	}
	err := tx.Bucket(recordsBucket).ForEach(func(_, record []byte) error {
		r, err := audit.Parse(record)
		if err != nil {
			return err
		}
		index := r.GetIndex()
		for _, digest := range audit.Cites(r) {
			if index < before {
				early[[32]byte(digest)] = true
			} else {
				later[[32]byte(digest)] = true
			}
			if index >= from && index < before && audit.Leaves(r) {
				left[[32]byte(digest)] = true
			} else {
				stays[[32]byte(digest)] = true
			}
		}
		// What an earlier archive carried over is carried over again.
		for _, digest := range r.GetArchived().GetCarried() {
			left[[32]byte(digest)] = true
			if index < before {
				early[[32]byte(digest)] = true
			} else {
				later[[32]byte(digest)] = true
			}
		}
		return nil
	})
	for digest := range stays {
		delete(left, digest)
	}
	for digest := range early {
		delete(later, digest)
	}
	return cited{onlyLeft: left, onlyLater: later}, err
}

// writeArchive makes the archive beside its place, and puts it there once it is synced.
func (m *move) writeArchive(tx *bbolt.Tx) error {
	if err := checkSpace(m.File, m.old.file.Size()); err != nil {
		return err
	}
	fresh := m.File + freshSuffix
	if err := removeLeft(fresh); err != nil {
		return err
	}
	err := makeFile(fresh, m.old.cfg, func(s *Store) error {
		g, err := gapOf(tx)
		if err != nil {
			return err
		}
		until := audit.Checkpoint{LogID: m.old.id, Size: m.before}
		if until.Root, err = tlog.TreeHash(int64(m.before), hashReader(tx)); err != nil {
			return err
		}
		end, err := s.copyRecords(tx, until, g)
		if err != nil {
			return err
		}
		if err := s.copyBlobs(tx, m.cited.onlyLater); err != nil {
			return err
		}
		until.Epoch = end.epoch
		signed, err := m.old.cfg.LogKey.Sign(until)
		if err != nil {
			return err
		}
		return s.db.Update(func(to *bbolt.Tx) error {
			meta := to.Bucket(metaBucket)
			return errors.Join(meta.Put(checkpointKey, signed), meta.Put(archiveKey, number(m.from)))
		})
	})
	if err == nil {
		err = cutUnused(fresh)
	}
	if err != nil {
		return errors.Join(err, removeLeft(fresh))
	}
	if m.replaces {
		err = os.Rename(fresh, m.File)
	} else { // a link does not replace what somebody put there meanwhile
		err = errors.Join(os.Link(fresh, m.File), removeLeft(fresh))
	}
	return errors.Join(err, syncDir(filepath.Dir(m.File)))
}

// cutUnused makes a file as long as its pages: bbolt makes a large one longer in steps, and an archive does not grow.
func cutUnused(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	metas, err := readMetaPages(f)
	pages := uint64(0)
	for _, m := range metas {
		pages = max(pages, m.pages)
	}
	if err == nil && pages > 0 {
		err = f.Truncate(int64(pages * pageSize))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// writeLog makes the log without what is in the archive, and with the record that says so.
func (m *move) writeLog(tx *bbolt.Tx, checkpoint audit.Checkpoint, archive *Copy, fresh string) error {
	base, err := audit.ReadCheckpoint(archive.s.end().checkpoint)
	if err != nil {
		return err
	}
	first, err := audit.Parse(tx.Bucket(recordsBucket).Get(number(m.before)))
	if err != nil {
		return err
	}
	said := &pb.Archived{
		Before: m.before, From: m.from, Until: timestamppb.New(first.GetTime().AsTime()), Root: base.Root[:], FactsVersion: audit.FactsVersion,
		Reason: audit.Text(strings.TrimSpace(m.Reason)), By: audit.Text(m.By),
	}
	err = makeFile(fresh, m.old.cfg, func(s *Store) error {
		g := &gap{before: m.before, lacks: m.from, leaves: func(r *pb.Record) bool { return r.GetIndex() >= m.from && audit.Leaves(r) }}
		g.carry = func(fresh *Store) error { return fresh.carryFrom(archive, said) }
		end, err := s.copyRecords(tx, checkpoint, g)
		if err != nil {
			return err
		}
		if said.Records = g.left; g.left == 0 {
			return errors.New("there is nothing to archive: all records before that are of kinds that stay")
		}
		if err := s.copyBlobs(tx, m.cited.onlyLeft); err != nil {
			return err
		}
		s.durable = end
		c := newCall(context.Background(), store.Entry{Build: func(slot store.Slot) ([]byte, error) { return slot.Marshal(audit.Archived(said)) }})
		s.commit([]*call{c})
		r := <-c.result
		m.out.Index = r.index
		return r.err
	})
	m.out.Archived, m.out.LogID, m.out.Epoch = said, base.LogID, base.Epoch
	return err
}
