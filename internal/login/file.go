package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// readPrivate reads a file that only its owner could have written or read, which must be us. A symbolic link is refused.
func readPrivate(path string) ([]byte, error) {
	f, err := openPrivate(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return raw, nil
}

// openPrivate opens a file without following a link and checks the open file, so that nothing can change in between.
func openPrivate(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, 0o600)
	if isLink(err) {
		return nil, fmt.Errorf("%s is a symbolic link, which may lead anywhere: remove it, then sign in again", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkPrivate(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writePrivate replaces a file as a whole, or leaves the old one. The caller must hold the lock, since the name of the temporary
// file is fixed: what a crash leaves behind is overwritten, and does not pile up.
func writePrivate(path string, content []byte) (err error) {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(temporary)))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

const lockPoll = 20 * time.Millisecond

// lock makes the directory if it is not there, and waits until no other process uses the store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the session: %w", err)
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return nil, fmt.Errorf("directory of the session: %w", err)
	}
	if err := checkDir(s.dir, info); err != nil {
		return nil, err
	}
	f, err := openPrivate(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("lock session: %w", err)
	}
	for {
		locked, err := tryLock(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock session: %w", err), f.Close())
		}
		if locked {
			return func() { f.Close() }, nil // which unlocks
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another hallpass that signs in: %w", context.Cause(ctx)), f.Close())
		}
	}
}
