package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

// maxBatch is how many entries share a commit at most, so that none waits for more than it must.
const maxBatch = 256

const (
	// crowd is the size of a batch that shows many callers at work.
	crowd = 4
	// joining is the share of those under way for whom a commit waits, and joinTime how long at most. If that is no crowd, it does not.
	joining  = 4
	joinTime = time.Millisecond
	joinStep = joinTime / 4
)

// call is an Append that waits.
type call struct {
	ctx    context.Context
	entry  store.Entry
	taken  atomic.Bool // set by whoever comes first: the committer, or the caller that gave up
	result chan result // has room for the one result
}

type result struct {
	index uint64
	err   error
}

func newCall(ctx context.Context, e store.Entry) *call {
	return &call{ctx: ctx, entry: e, result: make(chan result, 1)}
}

// Append implements store.Store. Until its commit begins a call ends with its context; from then on it waits for the outcome.
func (s *Store) Append(ctx context.Context, e store.Entry) (uint64, error) {
	c := newCall(ctx, e)
	select {
	case s.queue <- c:
	case <-ctx.Done():
		return 0, fmt.Errorf("append to log: %w", context.Cause(ctx))
	case <-s.done:
		return 0, s.ended()
	}
	select {
	case r := <-c.result:
		return r.index, r.err
	case <-ctx.Done():
		if c.taken.CompareAndSwap(false, true) {
			return 0, fmt.Errorf("append to log: %w", context.Cause(ctx))
		}
	case <-s.done:
		// The committer answers what it takes before it ends.
		if c.taken.CompareAndSwap(false, true) {
			return 0, s.ended()
		}
	}
	r := <-c.result
	return r.index, r.err
}

// ended says why there is no committer.
func (s *Store) ended() error {
	if s.isDead() {
		return fmt.Errorf("append to log: %w", store.ErrInDoubt)
	}
	return fmt.Errorf("append to log: %w: it is closed", store.ErrUnavailable)
}

func (s *Store) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// committer commits what waits, one batch at a time, until the log is closed or dead. A batch is whatever came while the one
// before was written, and whoever letJoin waits for: a lone entry waits for nobody.
func (s *Store) committer() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		case <-s.dead:
			return
		case c := <-s.queue:
			s.letJoin()
			batch := s.gather(c)
			if len(batch) > 0 {
				s.crowded.Store(len(batch) > crowd)
				s.commit(batch)
				s.reserve()
			}
			if s.isDead() {
				return
			}
		}
	}
}

// letJoin waits a moment for others to join the one that came, if many are under way.
func (s *Store) letJoin() {
	for waited := time.Duration(0); waited < joinTime; waited += joinStep {
		if want := min(s.cfg.UnderWay()/joining, maxBatch); want < crowd || len(s.queue)+1 >= want {
			return
		}
		time.Sleep(joinStep)
	}
}

// gather takes c and what else waits, but for calls whose callers gave up.
func (s *Store) gather(c *call) []*call {
	var batch []*call
	for {
		if c.ctx.Err() == nil && c.taken.CompareAndSwap(false, true) {
			batch = append(batch, c)
		}
		if len(batch) == maxBatch {
			return batch
		}
		select {
		case c = <-s.queue:
		default:
			return batch
		}
	}
}

// commit writes a batch in one transaction and answers each call in it.
func (s *Store) commit(batch []*call) {
	results := make([]result, len(batch))
	before, began := s.durable.size, time.Now()
	next, added, err := s.write(batch, results)
	done := Commit{Records: int(next.size - before), Took: time.Since(began), Disk: s.wrote, Err: err}
	switch {
	case err == nil:
		s.publish(next, added)
	case errors.Is(err, store.ErrInDoubt):
		s.die(err)
	}
	for i, c := range batch {
		if err != nil {
			results[i] = result{err: fmt.Errorf("append to log: %w", err)}
		}
		c.result <- results[i]
	}
	if done.Records > 0 || err != nil {
		s.cfg.Committed(done)
	}
}

// write returns the new end of the log, and what it added. Entries that fail have their error in results; an error of write itself is that of all.
func (s *Store) write(batch []*call, results []result) (head, fresh, error) {
	at, err := s.now()
	if err != nil {
		return s.durable, fresh{}, err
	}
	var tx *bbolt.Tx
	if err := guard(func() (err error) {
		tx, err = s.db.Begin(true)
		return err
	}); err != nil {
		return s.durable, fresh{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	w := writer{tx: tx, key: s.cfg.LogKey, head: s.durable, index: s.index, expiring: &s.expiring}
	w.head.time, w.head.tx = at, tx.ID()
	s.index = nil // until what it knows is in the file
	err = guard(func() error {
		if err := w.resumeIndex(); err != nil {
			return err
		}
		for i, c := range batch {
			results[i].index, results[i].err = w.append(c.entry)
		}
		if w.head.size == s.durable.size {
			return nil
		}
		return w.finish()
	})
	if err != nil || w.head.size == s.durable.size {
		// Nothing was written yet: whatever the error is, it says nothing about the file.
		if err == nil {
			s.index = w.index
		}
		rollbackErr := guard(tx.Rollback)
		if err = errors.Join(err, rollbackErr); err != nil {
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		return s.durable, fresh{}, err
	}
	if err := guard(tx.Commit); err != nil {
		_ = guard(tx.Rollback) // only a panic left anything to roll back
		return s.durable, fresh{}, s.classify(err)
	}
	s.index = w.index
	stats := tx.Stats()
	s.wrote = stats.GetWriteTime()
	w.added.places = w.changed
	return w.head, w.added, nil
}

// now reads the clock for a commit. The time of the log never goes back, and does not follow a clock that jumped.
func (s *Store) now() (time.Time, error) {
	now, last := s.cfg.Now().UTC().Truncate(time.Microsecond), s.durable.time
	if behind := last.Sub(now); behind > s.cfg.MaxBackward {
		return now, fmt.Errorf("%w: the clock says %s, but the newest record was written at %s: set the clock if it is wrong; "+
			"if it was wrong then, the log goes on when that time has come", store.ErrUnavailable, now.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	if s.cfg.Uptime != nil {
		if ahead := now.Sub(s.opened) - (s.cfg.Uptime() - s.uptime); ahead > maxForward {
			return now, fmt.Errorf("%w: the clock says %s, %v more than the time that passed since the log was opened: set the clock if it is wrong; "+
				"if it was set right, start the daemon again", store.ErrUnavailable, now.Format(time.RFC3339), ahead.Round(time.Second))
		}
	}
	if now.Before(last) {
		now = last
	}
	return now, nil
}

// publish shows readers what is durable now.
func (s *Store) publish(next head, added fresh) {
	s.recent.add(added)
	s.expiring.merge(added.places)
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.size == s.durable.size {
		return
	}
	s.durable = next
	close(s.changed)
	s.changed = make(chan struct{})
}

// die makes sure that nothing is appended any more, and that the next Open does not trust the file as it is.
func (s *Store) die(cause error) {
	note := fmt.Sprintf("%s: %v\n", s.cfg.Now().UTC().Format(time.RFC3339), cause)
	// The disk that failed may well refuse this too. Then the next start reads what the disk has, and finds every record that
	// was ever acknowledged, because those were synced before.
	if os.WriteFile(s.path+suspectSuffix, []byte(note), 0o600) == nil {
		_ = syncDir(filepath.Dir(s.path))
	}
	s.cease()
}

// cease makes sure that nothing is appended any more.
func (s *Store) cease() {
	s.kill.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.dead)
		close(s.changed)
		s.changed = make(chan struct{})
	})
}

// guard calls code that reads pages of the file: bbolt panics over what it cannot read, and a page that cannot be loaded is a
// fault of the memory that it is mapped to.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", store.ErrDamaged, p)
		}
	}()
	return f()
}
