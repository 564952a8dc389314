package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// backupSuffix is that of the copy that a backup is sent from. There is one at a time.
const backupSuffix = ".backup"

// Backup returns a copy of the log as it is, while it is being written to. The copy is made in a file beside the log, in one read
// transaction: pages that commits replace meanwhile cannot be used again until that ends, so it lasts as long as the disk needs for
// the copy, and not as long as somebody takes to fetch it. The copy has nothing in it that was erased.
func (s *Store) Backup(ctx context.Context) (*store.Backup, error) {
	if !s.copying.TryLock() {
		return nil, fmt.Errorf("back up log: %w", store.ErrBusy)
	}
	b, err := s.backup(ctx)
	if err != nil {
		s.copying.Unlock()
		return nil, fmt.Errorf("back up log: %w", err)
	}
	return b, nil
}

func (s *Store) backup(ctx context.Context) (*store.Backup, error) {
	path := s.path + backupSuffix
	if err := removeLeft(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	b := &store.Backup{Reader: f}
	b.Close = func() error {
		defer s.copying.Unlock()
		return errors.Join(f.Close(), removeLeft(path))
	}
	err = s.view(ctx, func(tx *bbolt.Tx, h head) error {
		if err := checkSpace(path, tx.Size()); err != nil {
			return err
		}
		b.Checkpoint = append([]byte{}, tx.Bucket(metaBucket).Get(checkpointKey)...)
		b.Bytes, err = tx.WriteTo(&untilDone{ctx, f})
		return err
	})
	if err == nil {
		err = scrub(path, f)
	}
	if err == nil {
		err = s.readBack(path)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), removeLeft(path))
	}
	return b, nil
}

// untilDone writes until a context ends.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u *untilDone) Write(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.w.Write(b)
}

// scrub overwrites the pages of a copy that nothing is in any more: bbolt leaves in them what was, and a blob that was erased is to be
// in no backup. The file is that at path, which nobody else has.
func scrub(path string, f *os.File) error {
	return guard(func() error {
		db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout, PageSize: pageSize, PreLoadFreelist: true, NoStatistics: true})
		if err != nil {
			return err
		}
		err = db.View(func(tx *bbolt.Tx) error {
			blank := make([]byte, pageSize)
			for id := range tx.Size() / pageSize {
				page, err := tx.Page(int(id))
				if err != nil {
					return err
				}
				if page != nil && page.Type == "free" {
					if _, err := f.WriteAt(blank, id*pageSize); err != nil {
						return err
					}
				}
			}
			return nil
		})
		return errors.Join(err, db.Close())
	})
}

// readBack opens a copy as whoever gets it will.
func (s *Store) readBack(path string) error {
	c, err := openCopy(path, s.verifier)
	if err != nil {
		return fmt.Errorf("read the copy back: %w", err)
	}
	return c.Close()
}
