//go:build unix

package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// keepOwner gives a new file the owner of the log that it is of, or of the folder if there is none: root restores and compacts for a
// daemon that runs as somebody else, and has to read what it finds.
func keepOwner(file, log string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(log)
	if err != nil {
		info, err = os.Stat(filepath.Dir(log))
	}
	if err != nil {
		return err
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok || of.Uid == 0 && of.Gid == 0 {
		return nil
	}
	if err := os.Chown(file, int(of.Uid), int(of.Gid)); err != nil {
		return fmt.Errorf("give %s the owner of the log: %w", file, err)
	}
	return nil
}
