package login

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// Windows has neither owners nor modes in the sense of Unix. The state directory is in the user's profile, which others cannot read.
const noFollow = windows.O_FILE_FLAG_OPEN_REPARSE_POINT

func isLink(err error) bool { return errors.Is(err, windows.ERROR_CANT_ACCESS_FILE) }

func checkPrivate(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: remove it, then sign in again", path)
	}
	return nil
}

func checkDir(string, fs.FileInfo) error { return nil }

// tryLock reports false if another process holds the lock.
func tryLock(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}
