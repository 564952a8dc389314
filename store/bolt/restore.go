package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// Restoring is how to put a backup in the place of a lost log.
type Restoring struct {
	// From is the backup.
	From string
	// Known are signed checkpoints of the log from elsewhere: of witnesses, of helpers, of auditors.
	Known [][]byte
	// AcceptLoss goes on although records are missing, or may be.
	AcceptLoss bool
	// Reason and By are for the record: why, and who.
	Reason, By string
}

// Restored tells what a restore came to.
type Restored struct {
	Restore audit.Restore
	// Missing is how many records are known to be lost.
	Missing uint64
	// Aside is where the old file is now; empty if there was none.
	Aside string
}

// LossError says that a restore would, or might, lose records, and that this was not accepted.
type LossError struct {
	// Behind is what is known to be missing; nil if nothing is known.
	Behind *BehindError
}

func (e *LossError) Error() string {
	if e.Behind == nil {
		return "no signed checkpoint from elsewhere was given, so that records after the backup may be lost unnoticed"
	}
	return "the backup is older than the log was: " + e.Behind.Error()
}

// Unwrap returns what is missing.
func (e *LossError) Unwrap() error {
	if e.Behind == nil {
		return nil
	}
	return e.Behind
}

const (
	asideInfix = ".before-restore-"
	// unknownEpoch is the unit of time by which epochs are told apart when nobody knows which was the last: 24 bits of them last
	// for 159 years.
	unknownEpoch = 5 * time.Minute
)

// epochZero is when those began to be counted.
var epochZero = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Restore puts a backup in the place of the log at path, which may be damaged or missing, and begins an epoch with a record of it, so
// that no serial is ever used twice. Everything in the backup is verified first. The old file stays, under another name.
//
// A crash leaves the old log or the restored one, never none and never half of one: the new file is complete and synced, and the
// old one has its second name, before the first is renamed to the path. The head is written last; the old one, which may tell of more
// records, is then known to the restored log by its statement.
func Restore(path string, cfg Config, r Restoring) (*Restored, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("restore log: %w", err)
	}
	out, err := restore(realPath(path), cfg, r)
	if err != nil {
		return nil, fmt.Errorf("restore log %s from %s: %w", path, r.From, err)
	}
	return out, nil
}

func restore(path string, cfg Config, r Restoring) (*Restored, error) {
	if same(path, r.From) {
		return nil, errors.New("the backup is the log itself: rename it first, so that the log is at another path than its copy")
	}
	old, err := lockFile(path, cfg)
	if err != nil {
		return nil, stopFirst(err)
	}
	if old != nil {
		defer old.db.Close()
	}
	backup, err := openCopy(r.From, cfg.LogKey.Verifier())
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	defer backup.Close()
	known, certain, err := r.known(path, old, cfg)
	if err != nil {
		return nil, err
	}
	out := &Restored{}
	if out.Restore, out.Missing, err = backup.plan(known, certain, r.AcceptLoss, cfg); err != nil {
		return nil, err
	}
	fresh := path + freshSuffix
	if err := removeLeft(fresh); err != nil {
		return nil, err
	}
	backup.s.cfg = cfg
	if err := guard(func() error { return backup.s.rebuild(fresh) }); err != nil {
		return nil, fmt.Errorf("verify the backup: %w", err)
	}
	if err := beginEpoch(fresh, cfg, out.Restore, r); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		out.Aside = path + asideInfix + cfg.Now().UTC().Format("20060102T150405.000000Z")
		if err := keepAside(path, out.Aside); err != nil {
			return nil, err
		}
	}
	if err := putInPlace(fresh, path); err != nil {
		return nil, err
	}
	return out, finishRestore(path, cfg)
}

// finishRestore writes the head and forgets what was said of the old file. Open does without both, should it not come to this.
func finishRestore(path string, cfg Config) error {
	s, err := openExisting(path, cfg)
	if err != nil {
		return fmt.Errorf("read the restored log: %w", err)
	}
	return errors.Join(s.writeHead(), removeLeft(path+suspectSuffix), s.db.Close())
}

func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// known returns what is known of the log: what was given, its head, and what the old file says, if it can still be read. It is certain
// that no later epoch is known elsewhere if the head or the old file tell of the newest.
func (r Restoring) known(path string, old *Store, cfg Config) (known []audit.Checkpoint, certain bool, err error) {
	for _, signed := range r.Known {
		c, err := audit.OpenCheckpoint(signed, cfg.LogKey.Verifier())
		if err != nil {
			return nil, false, err
		}
		known = append(known, c)
	}
	head, ok, err := readHead(path, cfg.LogKey)
	if err != nil {
		return nil, false, fmt.Errorf("read the head: %w: if the file is damaged and not all is lost that it told of, remove it", err)
	}
	if ok {
		known, certain = append(known, head), true
	}
	if old != nil {
		if c, err := old.said(); err == nil { // what a damaged file still says counts if the log key signed it
			known, certain = append(known, c), true
		}
	}
	return known, certain, nil
}

// said returns the checkpoint in a file that may be damaged.
func (s *Store) said() (c audit.Checkpoint, err error) {
	err = guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			c, err = audit.OpenCheckpoint(tx.Bucket(metaBucket).Get(checkpointKey), s.verifier)
			return err
		})
	})
	return c, err
}

// plan holds a backup against what is known of the log, and that with certainty or not. It returns what the log key is to say, and how many records are missing.
func (c *Copy) plan(known []audit.Checkpoint, certain, acceptLoss bool, cfg Config) (r audit.Restore, missing uint64, err error) {
	err = c.s.db.View(func(tx *bbolt.Tx) error {
		base, err := c.s.verifyOwner(tx)
		if err != nil {
			return err
		}
		now := cfg.Now().UTC().Truncate(time.Second)
		r = audit.Restore{LogID: base.LogID, Epoch: base.Epoch + 1, Base: base, Time: now}
		var behind *BehindError
		for _, k := range known {
			err := c.s.leadsFrom(tx, k, base)
			b, isBehind := errors.AsType[*BehindError](err)
			if err != nil && !isBehind {
				return err
			}
			if isBehind && (behind == nil || b.Missing > behind.Missing) {
				behind = b
			}
			if r.Epoch = max(r.Epoch, k.Epoch+1); r.Known == nil || newer(k, *r.Known) {
				r.Known = &k
			}
		}
		if behind != nil {
			missing = behind.Missing
		}
		if !acceptLoss && (behind != nil || r.Known == nil) {
			return &LossError{Behind: behind}
		}
		if !certain {
			// A restore may have been lost as well. Two that know nothing of each other must not begin the same epoch.
			r.Epoch = max(r.Epoch, uint32(now.Sub(epochZero)/unknownEpoch))
		}
		return nil
	})
	return r, missing, err
}

func newer(a, b audit.Checkpoint) bool {
	return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Size > b.Size
}

// beginEpoch adds the record of a restore to a file that nobody else has.
func beginEpoch(path string, cfg Config, said audit.Restore, r Restoring) error {
	statement, err := cfg.LogKey.SignRestore(said)
	if err != nil {
		return err
	}
	s, err := openExisting(path, cfg)
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	s.durable.epoch = said.Epoch
	c := newCall(context.Background(), store.Entry{Build: func(slot store.Slot) ([]byte, error) {
		return slot.Marshal(audit.Restored(statement, strings.TrimSpace(r.Reason), r.By))
	}})
	s.commit([]*call{c})
	if err := errors.Join((<-c.result).err, s.db.Close()); err != nil {
		return fmt.Errorf("record the restore: %w", err)
	}
	return nil
}
