package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// reviewBatch is how many open reviews are counted in one go.
const reviewBatch = 1000

// OpenReview is a decision that asks for review, at which nobody looked yet.
type OpenReview struct {
	Index uint64
	// Due is until when somebody should, in whole seconds.
	Due time.Time
}

// OpenReviews returns up to n decisions that ask for review and at which nobody looked yet: those due first come first, after the
// one given, or from the first on.
func OpenReviews(ctx context.Context, r Reader, after *OpenReview, n int) ([]OpenReview, error) {
	var before []byte
	if after != nil {
		before = audit.ReviewFact(after.Due, after.Index)
	}
	facts, err := r.Facts(ctx, []byte(audit.ReviewPrefix), before, n)
	if err != nil {
		return nil, fmt.Errorf("list open reviews: %w", err)
	}
	open := make([]OpenReview, len(facts))
	for i, f := range facts {
		var ok bool
		if open[i].Due, open[i].Index, ok = audit.ParseReviewKey(f.Key); !ok {
			return nil, fmt.Errorf("list open reviews: the fact %x names none", f.Key)
		}
	}
	return open, nil
}

// CountReviews returns how many reviews are open, and how many of them are overdue at a time. It reads as many facts as are open.
func CountReviews(ctx context.Context, r Reader, now time.Time) (open, overdue uint64, err error) {
	var last *OpenReview
	for {
		page, err := OpenReviews(ctx, r, last, reviewBatch)
		if err != nil {
			return open, overdue, err
		}
		for _, review := range page {
			open++
			if review.Overdue(now) {
				overdue++
			}
		}
		if len(page) < reviewBatch {
			return open, overdue, nil
		}
		last = &page[len(page)-1]
	}
}

// OldestOpenReview returns the index of the oldest decision at which somebody should still look; false if there is none. It reads as
// many facts as are open.
func OldestOpenReview(ctx context.Context, r Reader) (oldest uint64, ok bool, err error) {
	var last *OpenReview
	for {
		page, err := OpenReviews(ctx, r, last, reviewBatch)
		if err != nil {
			return 0, false, err
		}
		for _, review := range page {
			if !ok || review.Index < oldest {
				oldest, ok = review.Index, true
			}
		}
		if len(page) < reviewBatch {
			return oldest, ok, nil
		}
		last = &page[len(page)-1]
	}
}

// Overdue tells whether the time until when somebody should look has come.
func (o OpenReview) Overdue(now time.Time) bool { return !now.Before(o.Due) }

// ReviewOf returns the Reviewed record of whoever looked at a decision; nil if nobody did.
func ReviewOf(ctx context.Context, r Reader, index uint64) ([]byte, error) {
	value, err := r.Fact(ctx, audit.ReviewedFact(index))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the review of record %d: %w", index, err)
	}
	at, ok := audit.Number(value)
	if !ok {
		return nil, fmt.Errorf("look up the review of record %d: its fact %x is no index", index, value)
	}
	record, err := Record(ctx, r, at)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("look up the review of record %d: %w", index, err)
	}
	return record, err
}

// ReviewedError says that somebody looked at a decision before.
type ReviewedError struct {
	Index uint64 // of the decision
	Mark  []byte // the Reviewed record
}

func (e *ReviewedError) Error() string { return fmt.Sprintf("record %d was reviewed before", e.Index) }

// MarkReviewed records that somebody looked at the decision at index, and returns the index of that record. It refuses those who
// asked for the certificate themselves (an Error of Kind Denied), what asks for no review (NotFound), and a second mark, with a
// ReviewedError.
func (r *Recorder) MarkReviewed(ctx context.Context, reviewer ca.Caller, sourceIP string, index uint64, comment string) (uint64, error) {
	raw, err := Record(ctx, r.store, index)
	if archived, ok := errors.AsType[*ArchivedError](err); ok {
		return 0, &ca.Error{Kind: ca.NotFound, Message: archived.Error(), Err: err}
	}
	if errors.Is(err, ErrNotFound) {
		return 0, ca.Errorf(ca.NotFound, "the log has no record %d", index)
	}
	if err != nil {
		return 0, unavailable(err)
	}
	record, err := audit.Parse(raw)
	if err != nil {
		return 0, err
	}
	id, asked := reviewer.Identity, record.GetDecided().GetCaller()
	switch {
	case !audit.AsksReview(record):
		return 0, ca.Errorf(ca.NotFound, "record %d asks for no review", index)
	case id.Kind != ca.Person:
		return 0, ca.Errorf(ca.Denied, "a review is for people, not for a %s", id.Kind)
	case asked.GetIssuer() == id.Issuer && asked.GetSubject() == id.Subject:
		return 0, ca.Errorf(ca.Denied, "record %d is about you: somebody else has to look at it", index)
	}
	due := record.GetDecided().GetReview().GetDue().AsTime()
	at, err := r.appendOf(ctx, id, func(caller *pb.Caller) *audit.Event {
		return audit.Reviewed(caller, sourceIP, index, due, comment)
	})
	if _, conflict := errors.AsType[*ConflictError](err); conflict {
		mark, markErr := ReviewOf(ctx, r.store, index)
		if markErr == nil && mark != nil {
			return 0, &ReviewedError{Index: index, Mark: mark}
		}
		err = errors.Join(err, markErr)
	}
	if err != nil {
		return 0, unavailable(err)
	}
	return at, nil
}

// History implements ca.Log.
func (r *Recorder) History(ctx context.Context, a *ca.Attempt, wants ca.Wants) (ca.History, error) {
	var h ca.History
	if wants.FirstUse && a.Refusal == nil {
		used, err := r.value(ctx, string(audit.UsedFact(audit.Text(a.Decision.Rule))))
		if err != nil {
			return h, unavailable(err)
		}
		h.FirstUse = new(used == nil)
	}
	if !wants.Refusals {
		return h, nil
	}
	value, err := r.value(ctx, string(refusalsFact(a)))
	if err != nil {
		return h, unavailable(err)
	}
	if h.Refused, err = audit.ParseRefusalsValue(value); err != nil {
		return h, err
	}
	return h, nil
}

// refusalsFact names the caller as its record will.
func refusalsFact(a *ca.Attempt) []byte {
	return audit.RefusalsFact(audit.Text(a.Caller.Identity.Issuer), audit.Text(a.Caller.Identity.Subject))
}

// refusalsExpected are the refusals that a decision was shown to the review rules with; nil if it was not. Of two decisions at the same
// time, one has to count the other, and whoever verifies the log finds each shown with what the log had.
func refusalsExpected(a *ca.Attempt) []Version {
	if a.Review == nil || a.Review.History.Refused == nil {
		return nil
	}
	return []Version{{Key: refusalsFact(a), Value: audit.RefusalsValue(a.Review.History.Refused)}}
}
