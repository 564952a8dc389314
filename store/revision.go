package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// revisionBatch is how many revisions are looked at in one go.
const revisionBatch = 200

// Revision is a policy that was in force from a record on.
type Revision struct {
	Index  uint64
	Time   time.Time
	Loaded *pb.PolicyLoaded
}

// Revisions returns up to n policies that were ever in force, newest first, of those below before if it is not nil.
func Revisions(ctx context.Context, s Reader, before *uint64, n int) ([]Revision, error) {
	var below []byte
	if before != nil {
		below = audit.RevisionFact(*before)
	}
	facts, err := s.Facts(ctx, []byte(audit.RevisionPrefix), below, n)
	if err != nil {
		return nil, fmt.Errorf("list revisions of the policy: %w", err)
	}
	var out []Revision
	for _, f := range facts {
		r, err := revisionOf(ctx, s, f)
		if err != nil {
			return nil, fmt.Errorf("list revisions of the policy: %w", err)
		}
		out = append(out, r)
	}
	return out, nil
}

// FindRevision returns the newest revision whose commit or digest, in hexadecimal, begins with prefix. It is an error if the prefix
// fits several policies, and ErrNotFound if it fits none. A whole digest fits one: it names the files, whatever commits had them.
func FindRevision(ctx context.Context, s Reader, prefix string) (Revision, error) {
	var found *KeyValue
	for before := []byte(nil); ; {
		facts, err := s.Facts(ctx, []byte(audit.RevisionPrefix), before, revisionBatch)
		if err != nil {
			return Revision{}, fmt.Errorf("find revision %s of the policy: %w", prefix, err)
		}
		for _, f := range facts {
			ref, ok := audit.ParsePolicyValue(f.Value)
			if !ok || !strings.HasPrefix(ref.Revision, prefix) && !strings.HasPrefix(hex.EncodeToString(ref.Digest[:]), prefix) {
				continue
			}
			if found == nil {
				found = &f
			} else if prefix != hex.EncodeToString(ref.Digest[:]) && string(found.Value) != string(f.Value) {
				return Revision{}, &AmbiguousError{Prefix: prefix}
			}
		}
		if len(facts) < revisionBatch {
			break
		}
		before = facts[len(facts)-1].Key
	}
	if found == nil {
		return Revision{}, ErrNotFound
	}
	return revisionOf(ctx, s, *found)
}

// AmbiguousError says that a prefix fits several policies.
type AmbiguousError struct{ Prefix string }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is the beginning of more than one policy: give more digits", e.Prefix)
}

func revisionOf(ctx context.Context, s Reader, f KeyValue) (Revision, error) {
	index, ok := audit.Number(f.Key[len(audit.RevisionPrefix):])
	if !ok {
		return Revision{}, fmt.Errorf("the fact %q names no record", f.Key)
	}
	text, err := Record(ctx, s, index)
	if err != nil {
		return Revision{}, err
	}
	record, err := audit.Parse(text)
	if err != nil {
		return Revision{}, err
	}
	if record.GetPolicyLoaded() == nil {
		return Revision{}, fmt.Errorf("record %d: a fact says that it loaded a policy, and it did not", index)
	}
	return Revision{index, record.GetTime().AsTime(), record.GetPolicyLoaded()}, nil
}

// PolicyDigests returns the digests, in hexadecimal, of all policies that were ever in force whose commit or digest begins with
// prefix.
func PolicyDigests(ctx context.Context, s Reader, prefix string) ([]string, error) {
	var digests []string
	for before := []byte(nil); ; {
		facts, err := s.Facts(ctx, []byte(audit.RevisionPrefix), before, revisionBatch)
		if err != nil {
			return nil, fmt.Errorf("find policies %s: %w", prefix, err)
		}
		for _, f := range facts {
			ref, ok := audit.ParsePolicyValue(f.Value)
			digest := hex.EncodeToString(ref.Digest[:])
			if ok && (strings.HasPrefix(ref.Revision, prefix) || strings.HasPrefix(digest, prefix)) && !slices.Contains(digests, digest) {
				digests = append(digests, digest)
			}
		}
		if len(facts) < revisionBatch {
			return digests, nil
		}
		before = facts[len(facts)-1].Key
	}
}
