package bolt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	bbolterrors "go.etcd.io/bbolt/errors"
)

// lockFile opens a log that may be damaged, or not there at all, so that no daemon opens it until the result is closed. The result is
// nil if no daemon could open it anyway.
func lockFile(path string, cfg Config) (*Store, error) {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, nil // bbolt would make a database of it
	}
	s, err := open(path, cfg, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag&^os.O_CREATE, mode)
	})
	if errors.Is(err, ErrTaken) {
		return nil, err
	}
	if err != nil {
		return nil, nil //nolint:nilerr // that it is damaged is why it is replaced
	}
	return s, nil
}

// ErrTaken says that another process has the log open.
var ErrTaken = errors.New("another daemon has it open")

// stopFirst adds to ErrTaken what to do about it, for those who work on a log while no daemon runs.
func stopFirst(err error) error {
	if errors.Is(err, ErrTaken) {
		return fmt.Errorf("%w: stop it first", err)
	}
	return err
}

func taken(err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return ErrTaken
	}
	return err
}

// putInPlace puts the file fresh, which is synced, in the place of a log, in one step.
func putInPlace(fresh, path string) error {
	if err := keepOwner(fresh, path); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// realPath follows links to the file that a log is in: what takes its place must not take that of a link, and what lies beside it lies
// beside the file.
func realPath(path string) string {
	if followed, err := filepath.EvalSymlinks(path); err == nil {
		return followed
	}
	return path
}

// keepAside gives a file a second name under which it stays when another takes its place. There is no moment in which the log is not
// at its path.
func keepAside(path, aside string) error {
	err := os.Link(path, aside)
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		err = copyFile(path, aside) // the file system has no links
	}
	if err != nil {
		return fmt.Errorf("keep the old log as %s: %w", aside, err)
	}
	return syncDir(filepath.Dir(path))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// removeLeft removes what an attempt left that did not end.
func removeLeft(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what an earlier attempt left: %w", err)
	}
	return nil
}
