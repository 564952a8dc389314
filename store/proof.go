package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrBeyond says that a proof was asked of a size that the log has not, or not yet.
var ErrBeyond = errors.New("the log is not that long")

// Proven is a record with the proof that it is in the log.
type Proven struct {
	Record []byte
	// Checkpoint is signed, and of a log with the record in it.
	Checkpoint []byte
	// Size is that of the checkpoint.
	Size uint64
	// Inclusion is the RFC 6962 proof from the record to the root of the checkpoint.
	Inclusion []tlog.Hash
}

// ProveRecord proves a durable record against the newest checkpoint. Hashes never change once they are written, so that each may
// be read in a transaction of its own.
func ProveRecord(ctx context.Context, s Reader, index uint64) (*Proven, error) {
	record, err := Record(ctx, s, index)
	if err != nil {
		return nil, err
	}
	p := &Proven{Record: record}
	if p.Checkpoint, p.Size, err = NewestCheckpoint(ctx, s); err != nil {
		return nil, fmt.Errorf("prove record %d: %w", index, err)
	}
	if index >= p.Size {
		return nil, fmt.Errorf("prove record %d: %w", index, ErrBeyond)
	}
	proof, err := tlog.ProveRecord(int64(p.Size), int64(index), hashes(ctx, s))
	if err != nil {
		return nil, fmt.Errorf("prove record %d: %w", index, err)
	}
	p.Inclusion = proof
	return p, nil
}

// ProveConsistency proves that the log of oldSize records is the beginning of that of newSize, which the log must have.
func ProveConsistency(ctx context.Context, s Reader, oldSize, newSize uint64) ([]tlog.Hash, error) {
	if oldSize == 0 || oldSize > newSize {
		return nil, fmt.Errorf("prove that %d records became %d: %w", oldSize, newSize, ErrBeyond)
	}
	if oldSize == newSize {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(newSize), int64(oldSize), hashes(ctx, s))
	if err != nil {
		return nil, fmt.Errorf("prove that %d records became %d: %w", oldSize, newSize, err)
	}
	return proof, nil
}

// NewestCheckpoint returns the newest signed checkpoint and its size.
func NewestCheckpoint(ctx context.Context, s Reader) ([]byte, uint64, error) {
	signed, err := s.Checkpoint(ctx)
	if err != nil {
		return nil, 0, err
	}
	c, err := audit.ReadCheckpoint(signed)
	return signed, c.Size, err
}

func hashes(ctx context.Context, s Reader) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return s.Hashes(ctx, indexes) })
}
