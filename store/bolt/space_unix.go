//go:build unix

package bolt

import (
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/hallpass-ssh/hallpass/store"
)

// spare is what a copy leaves free of the disk, in bytes, because the log needs to grow.
const spare = 64 << 20

// checkSpace says whether a copy of size bytes fits beside the log without taking the room that the log itself needs. A file system
// that does not say counts as roomy: then the copy ends when the disk is full.
func checkSpace(path string, size int64) error {
	if free, ok := freeSpace(path); ok && free < size+spare {
		return fmt.Errorf("%w: it takes %d MB beside the log, with %d MB to spare, and the disk has %d MB free", store.ErrNoRoom, size>>20, spare>>20, free>>20)
	}
	return nil
}

// freeSpace returns how many bytes the file system of a file has left for this user; false if it does not say.
func freeSpace(path string) (int64, bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &fs); err != nil {
		return 0, false
	}
	return int64(fs.Bavail) * int64(fs.Bsize), true //nolint:unconvert // the types differ by system
}
