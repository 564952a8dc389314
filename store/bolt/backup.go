package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// backupSuffix is that of the copy that a backup is sent from. There is one at a time.
const backupSuffix = ".backup"

const (
	// A copy is made at this many bytes a second, and synced in steps of so many. A gigabyte takes sixteen seconds, for which the pages
	// that commits replace are kept.
	paceRate = 64 << 20
	paceStep = 4 << 20
	// busyRate takes the place of paceRate while many wait for commits, which share the disk.
	busyRate = 12 << 20

	// largeLog is where copies begin to take long, and also where bbolt begins to make its file longer in steps, however much is mapped.
	largeLog = 16 << 20
	// mapAhead is how much of the address space is taken for a large log to grow into.
	mapAhead = 8 << 30
)

// mapSize is how much of the file to map when it is opened; 0 for what bbolt finds right. A commit that needs more than is mapped waits
// for all readers to end, a backup among them: so a large log is mapped well beyond its end. It costs addresses, and no memory.
func mapSize(path string) int {
	info, err := os.Stat(path)
	if err != nil || info.Size() < largeLog || strconv.IntSize < 64 || runtime.GOOS == "windows" { // there, a file is as long as its map
		return 0
	}
	return int(2*info.Size() + mapAhead)
}

// roomy says whether commits will not wait for a copy that takes its time.
func (s *Store) roomy(size int64) bool { return size+mapAhead/2 < int64(s.mapped) }

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
		b.Bytes, err = tx.WriteTo(&paced{ctx: ctx, f: f, fast: !s.roomy(tx.Size()), busy: s.crowded.Load})
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

// paced writes until a context ends, and no faster than the disk can take beside the commits of the log: unwritten pages that pile up
// would have them wait.
type paced struct {
	ctx   context.Context
	f     *os.File
	fast  bool        // commits might wait for the end of the copy, so it comes as soon as it can
	busy  func() bool // many wait for commits
	begin time.Time   // of the step
	ahead int64       // bytes of the step, not synced yet
}

func (p *paced) Write(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	if p.begin.IsZero() {
		p.begin = time.Now()
	}
	n, err := p.f.Write(b)
	if p.ahead += int64(n); err != nil || p.ahead < paceStep {
		return n, err
	}
	if p.fast {
		return n, context.Cause(p.ctx)
	}
	if err := p.f.Sync(); err != nil {
		return n, err
	}
	rate := int64(paceRate)
	if p.busy() {
		rate = busyRate
	}
	due := p.begin.Add(time.Duration(p.ahead) * time.Second / time.Duration(rate))
	p.ahead = 0
	select {
	case <-p.ctx.Done():
		return n, context.Cause(p.ctx)
	case <-time.After(time.Until(due)):
		p.begin = time.Now()
		return n, nil
	}
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
