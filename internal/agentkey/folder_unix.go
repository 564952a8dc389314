//go:build unix

package agentkey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CheckFolder refuses a folder in which others could put files in place of the user's. One that does not exist is fine.
func CheckFolder(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return checkOwned(path, info)
}

// checkOwned tells whether a folder is the user's own, and nobody else may write to it.
func checkOwned(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", path)
	}
	if owner := ownerOf(info); owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to you (%d)", path, owner, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others may write to %s (mode %04o): chmod 700 it", path, mode)
	}
	return nil
}

// makeRuntime makes the folder for a private key and refuses one that others could exchange, with the key in it: a link, a
// folder of somebody else, or one in a place where anybody may rename it. A place like /tmp, where only owners may, will do.
func makeRuntime(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link, which may lead anywhere", path)
	}
	if err := checkOwned(path, info); err != nil {
		return err
	}
	parent, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if owner := ownerOf(parent); owner != os.Geteuid() && owner != 0 {
		return fmt.Errorf("%s belongs to user %d, not to you (%d)", filepath.Dir(path), owner, os.Geteuid())
	}
	if parent.Mode().Perm()&0o022 != 0 && parent.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("others may write to %s (mode %04o)", filepath.Dir(path), parent.Mode().Perm())
	}
	return nil
}

// ownerOf returns the user that a file belongs to; -1, who is nobody, if the system does not tell.
func ownerOf(info fs.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(stat.Uid)
}
