package verify

import (
	"errors"
	"fmt"
	"slices"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

const (
	// maxRefused is how many refusals of a caller are kept, and refusedWithin for how long they count.
	maxRefused    = 32
	refusedWithin = time.Hour
)

// reviews are what is known, up to a record, of the decisions that ask for review, and of what review rules see of the past.
type reviews struct {
	// open are those that nobody looked at yet, done the Reviewed records of the others; each by the index of the decision.
	open map[uint64]openReview
	done map[uint64]uint64
	// used are the rules by which somebody got a certificate.
	used map[string]bool
	// refused are the last refusals of each caller, in seconds, of those that the review rules counted.
	refused map[callerKey][]int64
}

type openReview struct {
	caller callerKey
	due    int64 // in seconds
}

type callerKey struct{ issuer, subject string }

func newReviews() reviews {
	return reviews{open: map[uint64]openReview{}, done: map[uint64]uint64{}, used: map[string]bool{}, refused: map[callerKey][]int64{}}
}

func keyOf(c *pb.Caller) callerKey { return callerKey{c.GetIssuer(), c.GetSubject()} }

// decided checks what a decision says of the past, and takes it down.
func (s *reviews) decided(place uint64, d *pb.Decided) error {
	r, granted := d.GetReview(), d.GetRefusal() == nil
	if r != nil && r.FirstUse != nil && !r.GetFirstUse() && !s.used[d.GetDecision().GetRule()] {
		return fmt.Errorf("it says that the rule %q was used before, which it was not", d.GetDecision().GetRule())
	}
	if granted {
		s.used[d.GetDecision().GetRule()] = true
	}
	caller := keyOf(d.GetCaller())
	if before := r.GetRefusedBefore(); before != nil && !granted {
		var told []int64
		for _, t := range before.GetTimes() {
			told = append(told, t.GetSeconds())
		}
		if !slices.Equal(told, s.refused[caller]) {
			return fmt.Errorf("it says that its caller was refused %d times before, and not when and as often as the log has it", len(told))
		}
		s.refused[caller] = refusals(told, d.GetDecidedAt().AsTime())
	}
	if len(r.GetRules()) == 0 {
		return nil
	}
	if !r.GetDue().IsValid() {
		return errors.New("it asks for a review without saying until when")
	}
	s.open[place] = openReview{caller, r.GetDue().GetSeconds()}
	return nil
}

// refusals are the ones before that still count, and one more.
func refusals(before []int64, at time.Time) []int64 {
	var all []int64
	for _, t := range before {
		if at.Sub(time.Unix(t, 0)) < refusedWithin {
			all = append(all, t)
		}
	}
	all = append(all, at.Unix())
	return all[max(0, len(all)-maxRefused):]
}

// mark checks that somebody else looked at a decision which asks for it, once.
func (s *reviews) mark(place uint64, e *pb.Reviewed) error {
	index, by := e.GetDecided(), e.GetCaller()
	open, is := s.open[index]
	done, was := s.done[index]
	switch {
	case was:
		return fmt.Errorf("it is a review of record %d, which was reviewed before, by record %d", index, done)
	case !is:
		return fmt.Errorf("it is a review of record %d, which asks for none", index)
	case by.GetKind() != pb.CallerKind_CALLER_KIND_PERSON:
		return fmt.Errorf("it is a review of record %d by somebody who is no person", index)
	case keyOf(by) == open.caller:
		return fmt.Errorf("it is a review of record %d by %s, whom that record is about", index, by.GetSubject())
	case e.GetComment() == "":
		return fmt.Errorf("it is a review of record %d that says nothing", index)
	case e.GetDue().GetSeconds() != open.due:
		return fmt.Errorf("it is a review of record %d that was due at another time", index)
	}
	delete(s.open, index)
	s.done[index] = place
	return nil
}
