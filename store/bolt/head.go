package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// The head is a signed checkpoint in a small file beside the log, so that an older log which somebody puts in its place is noticed:
// going on from there would use serials twice. It is written after commits are durable and never holds one up, so it may lag behind
// the log by a second, and is never ahead of it.

const (
	headSuffix = ".head"
	// headInterval is how often the head is written at most.
	headInterval = time.Second
)

// BehindError says that a log lacks records which were signed.
type BehindError struct {
	// Known is the state that was signed, Has the one that the log is in.
	Known, Has audit.Checkpoint
	// Missing is how many records the log lacks at least.
	Missing uint64
}

func (e *BehindError) Error() string {
	if e.Known.Epoch != e.Has.Epoch {
		return fmt.Sprintf("it is from before a restore: it is in epoch %d, and the log was in epoch %d with %d records, at least %d of which are missing",
			e.Has.Epoch, e.Known.Epoch, e.Known.Size, e.Missing)
	}
	return fmt.Sprintf("it has %d records, and %d were signed: the newest %d are missing", e.Has.Size, e.Known.Size, e.Missing)
}

// keepHead writes the head while the log is open, and ends the log when its file is no longer the one at its path: what is written
// to a file that nobody will find again is as good as not recorded.
func (s *Store) keepHead() {
	defer close(s.headDone)
	tick := time.NewTicker(headInterval)
	defer tick.Stop()
	written, failed := uint64(0), false
	for {
		select {
		case <-s.stop:
			return
		case <-s.dead:
			return
		case <-tick.C:
		}
		if err := s.checkPlace(); err != nil {
			s.cfg.Logger.Error("the log is dead", "error", err)
			s.cease()
			return
		}
		end := s.end()
		if end.size == written {
			continue
		}
		if err := writeFile(s.path+headSuffix, s.path, end.checkpoint); err == nil {
			written, failed = end.size, false
			s.headSize.Store(written)
		} else if !failed {
			failed = true
			s.cfg.Logger.Warn("the head of the log cannot be written: trying again", "error", err)
		}
	}
}

// checkPlace says whether the file at the path of the log is still the one that is open.
func (s *Store) checkPlace() error {
	now, err := os.Stat(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // it cannot be told, and a log that cannot be read ends by itself
	}
	if err != nil || !os.SameFile(now, s.file) {
		return fmt.Errorf("the file %s is gone, or another is in its place", s.path)
	}
	return nil
}

// writeHead writes what is durable.
func (s *Store) writeHead() error {
	end := s.end()
	if err := writeFile(s.path+headSuffix, s.path, end.checkpoint); err != nil {
		return err
	}
	s.headSize.Store(end.size)
	return nil
}

// end returns the durable end of the log.
func (s *Store) end() head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// writeFile replaces a small file beside a log.
func writeFile(path, log string, data []byte) error {
	fresh := path + freshSuffix
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close(), keepOwner(fresh, log)); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readHead returns the head beside a log; false if there is none.
func readHead(path string, key *audit.LogKey) (audit.Checkpoint, bool, error) {
	signed, err := os.ReadFile(path + headSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Checkpoint{}, false, nil
	}
	if err != nil {
		return audit.Checkpoint{}, false, err
	}
	c, err := audit.OpenCheckpoint(signed, key.Verifier())
	if err != nil {
		return c, false, fmt.Errorf("%s%s: %w", path, headSuffix, err)
	}
	return c, true, nil
}

// verifyHead refuses a log that is older than its head, or not the one that the head was written of.
func (s *Store) verifyHead() error {
	head, ok, err := readHead(s.path, s.cfg.LogKey)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s%s is missing, so that nobody can tell whether this is the newest state of the log: a log is moved together with its head. `hallpassd restore --from COPY` goes on from a copy of it",
			filepath.Base(s.path), headSuffix)
	}
	s.headSize.Store(head.Size)
	err = s.db.View(func(tx *bbolt.Tx) error {
		now, err := s.verifyOwner(tx)
		if err != nil {
			return err
		}
		return s.leadsFrom(tx, head, now)
	})
	if _, ok := errors.AsType[*BehindError](err); ok {
		return fmt.Errorf("%w. An older log is never gone on from, because serials would be used twice: put the newest one back, or use `hallpassd restore`", err)
	}
	return err
}

// leadsFrom says whether the log in tx, which is in the state now, came from a state that its key signed: a *BehindError if it lacks
// records, another error if it is not the same log. Records that were lost before, by a restore which the log tells of, are no error.
func (s *Store) leadsFrom(tx *bbolt.Tx, known, now audit.Checkpoint) error {
	if known.Epoch > now.Epoch || known.Epoch == now.Epoch && known.Size > now.Size {
		missing := uint64(1) // that by which the later epoch began
		if known.Size > now.Size {
			missing = known.Size - now.Size
		}
		return &BehindError{Known: known, Has: now, Missing: missing}
	}
	gap, err := audit.Between(known, now, statements(tx), s.verifier)
	if err != nil {
		return err
	}
	if gap.Lost > 0 {
		return nil
	}
	root, err := tlog.TreeHash(int64(known.Size), hashReader(tx))
	if err != nil {
		return err
	}
	if root != known.Root {
		return fmt.Errorf("its first %d records have the root hash %v, but %v was signed: it is another history of the same log", known.Size, root, known.Root)
	}
	return nil
}

// statements returns those of all restores, oldest first.
func statements(tx *bbolt.Tx) []string {
	var all []string
	prefix := []byte(audit.RestorePrefix)
	version, _ := factsVersionOf(tx) // what it cannot be is no older one
	c := tx.Bucket(factsBucket).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if 0 < version && version < 3 && len(v) >= 8 {
			v = v[8:] // the backup of an older program had the expiry there
		}
		all = append(all, string(v))
	}
	return all
}
