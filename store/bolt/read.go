package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// Size implements store.Store.
func (s *Store) Size(ctx context.Context) (uint64, error) {
	h, _, err := s.watch(ctx)
	return h.size, err
}

// watch returns the durable end of the log, and a channel that is closed when it is another.
func (s *Store) watch(ctx context.Context) (head, <-chan struct{}, error) {
	if ctx.Err() != nil {
		return head{}, nil, fmt.Errorf("read log: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable, s.changed, nil
}

// view reads in a short transaction.
func (s *Store) view(ctx context.Context, read func(tx *bbolt.Tx, h head) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read log: %w", context.Cause(ctx))
	}
	err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			h, err := s.awaitDurable(ctx, tx)
			if err != nil {
				return err
			}
			return read(tx, h)
		})
	})
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// awaitDurable returns once what tx shows is durable: bbolt shows a commit as soon as it is written, before it is synced, and
// what the core signs again on the word of a reader must not vanish in a crash.
func (s *Store) awaitDurable(ctx context.Context, tx *bbolt.Tx) (head, error) {
	for {
		h, changed, err := s.watch(ctx)
		if err != nil {
			return h, err
		}
		if tx.ID() <= h.tx {
			return h, nil
		}
		if s.isDead() {
			return h, store.ErrInDoubt
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return h, context.Cause(ctx)
		}
	}
}

// Records implements store.Store.
func (s *Store) Records(ctx context.Context, from uint64, n int) ([][]byte, error) {
	h, _, err := s.watch(ctx)
	if err != nil {
		return nil, err
	}
	if from < h.size && n > 0 {
		if records, ok := s.recent.recordsFrom(from, int(min(uint64(n), h.size-from))); ok {
			return records, nil
		}
	}
	var records [][]byte
	err = s.view(ctx, func(tx *bbolt.Tx, _ head) error {
		c, next := tx.Bucket(recordsBucket).Cursor(), from
		for k, v := c.Seek(number(from)); k != nil && len(records) < n; k, v = c.Next() {
			at := binary.BigEndian.Uint64(k)
			if err := s.mayLack(next, at); err != nil {
				return err
			}
			records, next = append(records, bytes.Clone(v)), at+1
		}
		return nil
	})
	return records, err
}

// Blob implements store.Store.
func (s *Store) Blob(ctx context.Context, digest [32]byte) ([]byte, error) {
	blob, erasures := s.recent.blob(digest)
	if blob != nil {
		return blob, nil
	}
	err := s.view(ctx, func(tx *bbolt.Tx, _ head) error {
		b := tx.Bucket(blobsBucket).Get(digest[:])
		if b == nil {
			return fmt.Errorf("blob %x: %w", digest, store.ErrNotFound)
		}
		blob = append([]byte{}, b...)
		return nil
	})
	if err == nil {
		s.recent.addBlob(digest, blob, erasures)
	}
	return blob, err
}

// Fact implements store.Store.
func (s *Store) Fact(ctx context.Context, key []byte) ([]byte, error) {
	var at place
	if audit.Expires(key) {
		if at = s.expiring.of(fingerprintOf(key)); at == (place{}) && !s.isDead() { // as for the nonce of each new request
			return nil, fmt.Errorf("fact %q: %w", key, store.ErrNotFound)
		}
	}
	var value []byte
	err := s.view(ctx, func(tx *bbolt.Tx, h head) error {
		v := lastingValue(tx, key)
		if at != (place{}) {
			v = expiringValue(tx, key, at, h.time)
		}
		if v == nil {
			return fmt.Errorf("fact %q: %w", key, store.ErrNotFound)
		}
		value = append([]byte{}, v...)
		return nil
	})
	return value, err
}

// Facts implements store.Store.
func (s *Store) Facts(ctx context.Context, prefix, before []byte, n int) ([]store.KeyValue, error) {
	var found []store.KeyValue
	err := s.view(ctx, func(tx *bbolt.Tx, h head) error {
		switch {
		case bytes.HasPrefix(prefix, indexPrefix):
			found = below(tx.Bucket(indexBucket), prefix, before, n)
		default:
			found = below(tx.Bucket(factsBucket), prefix, before, n)
		}
		if bytes.HasPrefix(indexPrefix, prefix) || audit.MayExpire(prefix) { // those of several buckets
			found = append(found, below(tx.Bucket(indexBucket), prefix, before, n)...)
			for _, f := range allExpiring(tx, prefix, h.time) {
				if before == nil || bytes.Compare(f.Key, before) < 0 {
					found = append(found, f.KeyValue)
				}
			}
			slices.SortFunc(found, func(a, b store.KeyValue) int { return bytes.Compare(b.Key, a.Key) })
			found = found[:min(n, len(found))]
		}
		return nil
	})
	return found, err
}

// below returns up to n facts of a bucket with this prefix in descending order, those below before if it is not nil.
func below(b *bbolt.Bucket, prefix, before []byte, n int) []store.KeyValue {
	var found []store.KeyValue
	if before == nil {
		before = after(prefix)
	}
	c := b.Cursor()
	for k, v := seekBelow(c, before); k != nil && len(found) < n; k, v = c.Prev() {
		if !bytes.HasPrefix(k, prefix) {
			if bytes.Compare(k, prefix) > 0 {
				continue // before was beyond the prefix
			}
			break
		}
		found = append(found, store.KeyValue{Key: bytes.Clone(k), Value: append([]byte{}, v...)})
	}
	return found
}

// seekBelow moves to the last key below key; to the very last for nil.
func seekBelow(c *bbolt.Cursor, key []byte) (k, v []byte) {
	if key == nil {
		return c.Last()
	}
	if k, _ = c.Seek(key); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// after returns the first key that is beyond all that begin with prefix; nil if there is none.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for len(end) > 0 {
		if end[len(end)-1]++; end[len(end)-1] != 0 {
			return end
		}
		end = end[:len(end)-1]
	}
	return nil
}

// Checkpoint implements store.Store.
func (s *Store) Checkpoint(ctx context.Context) ([]byte, error) {
	h, _, err := s.watch(ctx)
	return bytes.Clone(h.checkpoint), err
}

// Hashes implements store.Store.
func (s *Store) Hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	if hashes, ok := s.recent.hashesAt(indexes); ok {
		return hashes, nil
	}
	var hashes []tlog.Hash
	err := s.view(ctx, func(tx *bbolt.Tx, _ head) (err error) {
		hashes, err = hashReader(tx).ReadHashes(indexes)
		return err
	})
	if err == nil {
		s.recent.addHashes(indexes, hashes)
	}
	return hashes, err
}

// Wait implements store.Store. It ends with ErrInDoubt when the log dies and with ErrUnavailable when it is closed.
func (s *Store) Wait(ctx context.Context, size uint64) error {
	for {
		h, changed, err := s.watch(ctx)
		switch {
		case err != nil:
			return err
		case h.size > size:
			return nil
		case s.isDead():
			return fmt.Errorf("wait for the log: %w", store.ErrInDoubt)
		}
		select {
		case <-changed:
		case <-s.done:
			return fmt.Errorf("wait for the log: %w", s.ended())
		case <-ctx.Done():
			return fmt.Errorf("wait for the log: %w", context.Cause(ctx))
		}
	}
}
