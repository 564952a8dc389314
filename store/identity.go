package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// Identity is somebody of whom the log tells.
type Identity struct {
	// ID stands for the issuer and the subject: a SHA-256.
	ID []byte
	// Snapshot is what a policy saw of the identity last; nil if it was erased.
	Snapshot []byte
}

// Identities returns up to n of all that the log tells of, those that come after a given one, nil for the first. Their order
// means nothing and stays as it is.
func Identities(ctx context.Context, s Reader, after []byte, n int) ([]Identity, error) {
	var before []byte
	if len(after) > 0 {
		before = append([]byte(audit.SnapshotPrefix), after...)
	}
	facts, err := s.Facts(ctx, []byte(audit.SnapshotPrefix), before, n)
	if err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	var out []Identity
	for _, f := range facts {
		snapshot, err := newestSnapshot(ctx, s, f)
		if err != nil {
			return nil, fmt.Errorf("list identities: %w", err)
		}
		out = append(out, Identity{ID: f.Key[len(audit.SnapshotPrefix):], Snapshot: snapshot})
	}
	return out, nil
}

// newestSnapshot returns the one that a fact names; nil if it was erased, since when the fact may name none.
func newestSnapshot(ctx context.Context, s Reader, f KeyValue) ([]byte, error) {
	if len(f.Value) == 0 {
		return nil, nil
	}
	if len(f.Value) != 32 {
		return nil, fmt.Errorf("the fact %q names no snapshot", f.Key)
	}
	snapshot, err := s.Blob(ctx, [32]byte(f.Value))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return snapshot, err
}
