package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
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
	// missing says that records are not there from which something of this follows.
	missing bool
}

type openReview struct {
	caller callerKey
	due    int64 // in seconds
}

// callerKey is the SHA-256 of the issuer, a zero byte and the subject.
type callerKey [sha256.Size]byte

func newReviews() reviews {
	return reviews{open: map[uint64]openReview{}, done: map[uint64]uint64{}, used: map[string]bool{}, refused: map[callerKey][]int64{}}
}

func keyOf(c *pb.Caller) callerKey {
	return sha256.Sum256([]byte(c.GetIssuer() + "\x00" + c.GetSubject()))
}

// carry takes over what an archive carried over of the records that are not there.
func (s *reviews) carry(facts []*pb.CarriedFact) {
	s.missing = false
	for _, f := range facts {
		what, rest, _ := strings.Cut(string(f.GetKey()), "/")
		switch {
		case f.GetGone():
		case what == "used":
			s.used[rest] = true
		case what == "refusals" && len(rest) == sha256.Size:
			var times []int64
			for v := f.GetValue(); len(v) >= 8; v = v[8:] {
				times = append(times, int64(binary.BigEndian.Uint64(v)))
			}
			s.refused[callerKey([]byte(rest))] = times
		case what == "review" && len(rest) == 8+1+8 && len(f.GetValue()) == sha256.Size:
			due := math.MaxInt64 - int64(binary.BigEndian.Uint64([]byte(rest)))
			s.open[binary.BigEndian.Uint64([]byte(rest[9:]))] = openReview{callerKey(f.GetValue()), due}
		}
	}
}

// decided checks what a decision says of the past, and takes it down.
func (s *reviews) decided(place uint64, d *pb.Decided) error {
	r, granted := d.GetReview(), d.GetRefusal() == nil
	if r != nil && r.FirstUse != nil && !r.GetFirstUse() && !s.missing && !s.used[d.GetDecision().GetRule()] {
		return fmt.Errorf("it says that the rule %q was used before, which it was not", d.GetDecision().GetRule())
	}
	if granted {
		s.used[d.GetDecision().GetRule()] = true
	}
	if r == nil {
		return nil
	}
	caller := keyOf(d.GetCaller())
	if before := r.GetRefusedBefore(); before != nil {
		var told []int64
		for _, t := range before.GetTimes() {
			told = append(told, t.GetSeconds())
		}
		if !s.missing && !slices.Equal(told, s.refused[caller]) {
			return fmt.Errorf("it says that its caller was refused %d times before, and not when and as often as the log has it", len(told))
		}
		if !granted {
			s.refused[caller] = refusals(told, d.GetDecidedAt().AsTime())
		}
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
	case !is && s.missing: // its caller and its due time are not known
		open = openReview{due: e.GetDue().GetSeconds()}
	case !is:
		return fmt.Errorf("it is a review of record %d, which asks for none", index)
	}
	switch {
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
