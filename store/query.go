package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// Query asks for records. The zero value, but for Limit, asks for the newest.
type Query struct {
	// Before leaves out the record at this index and all after it; nil leaves out none. It is how the next page is asked for.
	Before *uint64
	// Limit is the most records to return. Required.
	Limit int
	// Issuer and Subject, given both, ask for records about this identity.
	Issuer  string
	Subject string
	// Since and Until ask for records from Since on and before Until; zero for no bound.
	Since time.Time
	Until time.Time
}

// Found is a record that a query is about.
type Found struct {
	Index  uint64
	Record []byte
}

// List returns the records that q asks for, newest first. Its cost grows with what it returns and with the logarithm of the
// log's length.
func List(ctx context.Context, s Reader, q Query) ([]Found, error) {
	if q.Limit <= 0 {
		return nil, errors.New("list records: no limit given")
	}
	if (q.Issuer == "") != (q.Subject == "") {
		return nil, errors.New("list records: an issuer and its subject are given together or not at all")
	}
	from, to, err := bounds(ctx, s, q)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var found []Found
	if from < to && q.Issuer != "" {
		found, err = listIdentity(ctx, s, q, from, to)
	} else if from < to {
		found, err = listAll(ctx, s, q.Limit, from, to)
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	return found, nil
}

// bounds returns the indexes from, and up to but without to, among which q asks.
func bounds(ctx context.Context, s Reader, q Query) (from, to uint64, err error) {
	size, err := s.Size(ctx)
	if err != nil {
		return 0, 0, err
	}
	to = size
	if q.Before != nil {
		to = min(to, *q.Before)
	}
	if !q.Until.IsZero() {
		if to, err = FirstAt(ctx, s, q.Until, to); err != nil {
			return 0, 0, err
		}
	}
	if !q.Since.IsZero() {
		from, err = FirstAt(ctx, s, q.Since, to)
	}
	return from, to, err
}

// FirstAt returns the index of the first record, of the first n, that is not before t; n if there is none. Times never decrease.
func FirstAt(ctx context.Context, s Reader, t time.Time, n uint64) (uint64, error) {
	low, high := uint64(0), n
	for low < high {
		middle := low + (high-low)/2
		record, err := one(ctx, s, middle)
		if err != nil {
			return 0, err
		}
		parsed, err := audit.Parse(record)
		if err != nil {
			return 0, err
		}
		if parsed.GetTime().AsTime().Before(t) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

func listAll(ctx context.Context, s Reader, limit int, from, to uint64) ([]Found, error) {
	if to-from > uint64(limit) {
		from = to - uint64(limit)
	}
	records, err := s.Records(ctx, from, int(to-from))
	if err != nil {
		return nil, err
	}
	var found []Found
	for i, record := range slices.Backward(records) {
		found = append(found, Found{Index: from + uint64(i), Record: record})
	}
	return found, nil
}

func listIdentity(ctx context.Context, s Reader, q Query, from, to uint64) ([]Found, error) {
	prefix := audit.IdentityPrefix(q.Issuer, q.Subject)
	facts, err := s.Facts(ctx, prefix, audit.IdentityFact(q.Issuer, q.Subject, to), q.Limit)
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, f := range facts {
		index, ok := audit.Number(f.Key[len(prefix):])
		if !ok {
			return nil, fmt.Errorf("the fact %q names no record", f.Key)
		}
		if index < from {
			break
		}
		record, err := one(ctx, s, index)
		if err != nil {
			return nil, err
		}
		found = append(found, Found{Index: index, Record: record})
	}
	return found, nil
}

func one(ctx context.Context, s Reader, index uint64) ([]byte, error) {
	records, err := s.Records(ctx, index, 1)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("record %d: %w", index, ErrNotFound)
	}
	return records[0], nil
}
