package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// refusals are the errors with which a system says that it did not take a write: no room, no right.
var refusals = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS}

// classify says what a failed commit means. It is ErrUnavailable only if the system refused to write before anything was synced,
// and the log still reads as it did. All else is in doubt; above all a failed sync, after which the pages in memory may look
// clean and be lost.
func (s *Store) classify(err error) error {
	if !refusedWrite(err) {
		return fmt.Errorf("%w: %w", store.ErrInDoubt, err)
	}
	// A refused write may have been cut short instead, and a meta page begins with all that makes it valid.
	var tx int
	if readErr := guard(func() error {
		return s.db.View(func(t *bbolt.Tx) error {
			tx = t.ID()
			return nil
		})
	}); readErr != nil || tx > s.durable.tx {
		return fmt.Errorf("%w: %w", store.ErrInDoubt, errors.Join(err, readErr))
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

func refusedWrite(err error) bool {
	var path *fs.PathError
	if errors.As(err, &path) {
		errno, ok := errors.AsType[syscall.Errno](path.Err)
		return ok && path.Op == "write" && slices.Contains(refusals, errno)
	}
	// bbolt grows its file before it writes. It wraps that error as text only, which its version is pinned for.
	text, growing := strings.CutPrefix(err.Error(), "file resize error: ")
	return growing && slices.ContainsFunc(refusals, func(errno syscall.Errno) bool { return strings.HasSuffix(text, ": "+errno.Error()) })
}
