//go:build unix

package login

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const noFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK // the latter, so that a named pipe cannot make us wait

// isLink reports whether the error is that of a link opened with noFollow.
func isLink(err error) bool { return errors.Is(err, unix.ELOOP) }

// checkPrivate refuses what others could have read or written.
func checkPrivate(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: remove it, then sign in again", path)
	}
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("others may read or write %s (mode %04o), so what is in it may be known: remove it, then sign in again", path, mode)
	}
	return nil
}

// checkDir refuses a directory in which others could put files of their own.
func checkDir(path string, info fs.FileInfo) error {
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others may write to %s (mode %04o): chmod 700 it", path, mode)
	}
	return nil
}

func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("cannot tell who owns %s", path)
	}
	if int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to you (%d)", path, stat.Uid, os.Geteuid())
	}
	return nil
}

// tryLock reports false if another process holds the lock.
func tryLock(f *os.File) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		}
		return err == nil, err
	}
}
