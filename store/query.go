package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// Query asks for records. The zero value, but for Limit, asks for the newest.
type Query struct {
	// Before leaves out the record at this index and all after it; nil leaves out none. It is how the next page is asked for.
	Before *uint64
	// From leaves out the records before this index.
	From uint64
	// Limit is the most records to return. Required.
	Limit int
	// Issuer and Subject, given both, ask for records about this identity.
	Issuer  string
	Subject string
	// Since and Until ask for records from Since on and before Until; zero for no bound.
	Since time.Time
	Until time.Time
	// Filter asks for records that fit it.
	Filter Filter
	// Work is how many records and pages of the index Search looks at before it gives up for this page; zero for no bound.
	Work int
	// Stop is asked whether Search gives up for this page; nil for no.
	Stop func() bool
}

// Found is a record that a query is about.
type Found struct {
	Index  uint64
	Record []byte
}

// List returns the records that q asks for, newest first. Its cost grows with what it returns, and by one look-up for each 16,384
// records that it passes over; a Match that few records fit, or a field that has none of them, is what Search bounds.
func List(ctx context.Context, s Reader, q Query) ([]Found, error) {
	page, err := Search(ctx, s, q)
	return page.Found, err
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
	return max(from, q.From), to, err
}

// FirstAt returns the index of the first record, of the first n, that is not before t; n if there is none. Times never decrease. Where
// records were archived it may return the index of one of them, with none between that and the first.
func FirstAt(ctx context.Context, s Reader, t time.Time, n uint64) (uint64, error) {
	low, high := uint64(0), n
	for low < high {
		middle := low + (high-low)/2
		// The record at the middle, or the first after it that was not archived.
		records, err := s.Records(ctx, middle, 1)
		if err != nil {
			return 0, err
		}
		if len(records) == 0 {
			return 0, fmt.Errorf("record %d: %w", middle, ErrNotFound)
		}
		parsed, err := audit.Parse(records[0])
		if err != nil {
			return 0, err
		}
		if parsed.GetIndex() < high && parsed.GetTime().AsTime().Before(t) {
			low = parsed.GetIndex() + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// newest returns the newest records from one on, up to but without another. Where few are left of those that were archived, it takes
// longer steps.
func newest(ctx context.Context, s Reader, limit int, from, to uint64) ([]Found, error) {
	var found []Found
	for step := uint64(limit); to > from && len(found) < limit; {
		step = min(step, to-from)
		part, err := between(ctx, s, to-step, to)
		if err != nil {
			return nil, err
		}
		for _, f := range slices.Backward(part) {
			if len(found) < limit {
				found = append(found, f)
			}
		}
		to -= step
		if len(part) < limit/2+1 && step < longestStep {
			step *= 2
		}
	}
	return found, nil
}

// longestStep is over how many archived records newest looks at once.
const longestStep = audit.ChapterSize

// between returns the records from one index on, up to but without another.
func between(ctx context.Context, s Reader, from, to uint64) ([]Found, error) {
	records, err := s.Records(ctx, from, int(to-from))
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, record := range records {
		index, err := audit.Place(record)
		if err != nil {
			return nil, err
		}
		if index < to {
			found = append(found, Found{Index: index, Record: record})
		}
	}
	return found, nil
}
