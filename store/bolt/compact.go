package bolt

import (
	"fmt"
	"os"
)

// Compact replaces a log that no daemon has open by a fresh copy of itself, made from its records and blobs: hashes and facts follow
// from them, and everything is verified. What was erased is in none of the pages of the copy. It returns the sizes of the file
// before and after, in bytes. A crash leaves the one file or the other.
func Compact(path string, cfg Config) (before, after int64, err error) {
	if err := cfg.check(); err != nil {
		return 0, 0, fmt.Errorf("compact log: %w", err)
	}
	if before, after, err = compact(realPath(path), cfg); err != nil {
		return 0, 0, fmt.Errorf("compact log %s: %w", path, stopFirst(err))
	}
	return before, after, nil
}

func compact(path string, cfg Config) (before, after int64, err error) {
	if err := recoverSuspect(path, cfg); err != nil {
		return 0, 0, err
	}
	// The lock of the old file is held until the new one is in its place.
	old, err := openExisting(path, cfg)
	if err != nil {
		return 0, 0, err
	}
	defer old.db.Close()
	if err := guard(old.verifyHead); err != nil {
		return 0, 0, err
	}
	after, err = old.replace()
	return old.file.Size(), after, err
}

// replace puts a fresh copy in the place of the file, and returns its size. The old one stays open.
func (s *Store) replace() (int64, error) {
	fresh := s.path + freshSuffix
	if err := removeLeft(fresh); err != nil {
		return 0, err
	}
	if err := guard(func() error { return s.rebuild(fresh) }); err != nil {
		return 0, fmt.Errorf("copy it to %s: %w", fresh, err)
	}
	info, err := os.Stat(fresh)
	if err != nil {
		return 0, err
	}
	return info.Size(), putInPlace(fresh, s.path)
}
