package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// ReviewPrefix is what the keys of the facts begin with that list the reviews which are open. The rest of such a key is what
	// ParseReviewKey reads.
	ReviewPrefix   = "review/"
	reviewedPrefix = "reviewed/"

	// MaxRefused is how many refusals of a caller the log keeps at hand.
	MaxRefused = 32
	// RefusedWithin is for how long they count.
	RefusedWithin = time.Hour

	// MaxComment is the length of the longest comment of a review, in bytes.
	MaxComment = 2000
)

// UsedFact is the key of the fact that somebody got a certificate by a rule.
func UsedFact(rule string) []byte { return factKey("used/", []byte(rule)) }

// RefusalsFact is the key of the fact that tells when an identity was refused.
func RefusalsFact(issuer, subject string) []byte {
	return factKey("refusals/", identityDigest(issuer, subject))
}

// RefusalsValue is the value of RefusalsFact; nil for no refusals, which no fact tells.
func RefusalsValue(times []time.Time) []byte {
	var value []byte
	for _, t := range times {
		value = binary.BigEndian.AppendUint64(value, uint64(t.Unix()))
	}
	return value
}

// ParseRefusalsValue is its reverse.
func ParseRefusalsValue(value []byte) ([]time.Time, error) {
	if len(value)%8 != 0 || len(value)/8 > MaxRefused {
		return nil, fmt.Errorf("the fact of refusals %x is no list of times", value)
	}
	times := make([]time.Time, 0, len(value)/8)
	for ; len(value) > 0; value = value[8:] {
		times = append(times, time.Unix(int64(binary.BigEndian.Uint64(value)), 0).UTC())
	}
	return times, nil
}

// ReviewFact is the key of the fact that a decision asks for review and nobody looked yet. Its value is the SHA-256 by which
// facts name the caller.
func ReviewFact(due time.Time, index uint64) []byte {
	return factKey(ReviewPrefix, number(flip(due)), number(index))
}

// ParseReviewKey is the reverse of ReviewFact.
func ParseReviewKey(key []byte) (due time.Time, index uint64, ok bool) {
	const prefix, size = len(ReviewPrefix), len(ReviewPrefix) + 8 + 1 + 8
	if len(key) != size {
		return due, 0, false
	}
	seconds := math.MaxInt64 - int64(binary.BigEndian.Uint64(key[prefix:]))
	return time.Unix(seconds, 0).UTC(), binary.BigEndian.Uint64(key[prefix+9:]), true
}

// OverdueBelow is a key that those of ReviewFact are above, if the review is due before a time: all others are below it.
func OverdueBelow(at time.Time) []byte { return factKey(ReviewPrefix, number(flip(at))) }

// flip turns a time around, so that the earliest has the greatest key.
func flip(t time.Time) uint64 { return uint64(math.MaxInt64 - t.Unix()) }

// ReviewedFact is the key of the fact that somebody looked at a decision. Its value is the index of the Reviewed record.
func ReviewedFact(index uint64) []byte { return factKey(reviewedPrefix, number(index)) }

// IsReviewedFact says whether key is that of the fact that somebody looked at a decision.
func IsReviewedFact(key []byte) bool {
	return len(key) == len(reviewedPrefix)+8 && string(key[:len(reviewedPrefix)]) == reviewedPrefix
}

// AsksReview says whether a record is a decision that asks for review.
func AsksReview(r *pb.Record) bool { return len(r.GetDecided().GetReview().GetRules()) > 0 }

// reviewFacts are what later decisions see of the past of this one, and that it asks for review.
func reviewFacts(d *pb.Decided, index uint64) []Fact {
	var facts []Fact
	c, review := d.GetCaller(), d.GetReview()
	if before := review.GetRefusedBefore(); before != nil && d.GetRefusal() != nil {
		times := append(refusedWithin(goTimes(before.GetTimes()), d.GetDecidedAt().AsTime()), d.GetDecidedAt().AsTime())
		times = times[max(0, len(times)-MaxRefused):]
		facts = append(facts, Fact{Key: RefusalsFact(c.GetIssuer(), c.GetSubject()), Value: RefusalsValue(times), Rule: Set})
	}
	if len(review.GetRules()) > 0 {
		facts = append(facts, Fact{
			Key: ReviewFact(review.GetDue().AsTime(), index), Value: identityDigest(c.GetIssuer(), c.GetSubject()), Rule: Set,
		})
	}
	return facts
}

// refusedWithin returns those of times that still count.
func refusedWithin(times []time.Time, at time.Time) []time.Time {
	var within []time.Time
	for _, t := range times {
		if at.Sub(t) < RefusedWithin {
			within = append(within, t)
		}
	}
	return within
}

// Refusals is how often a caller was refused within the hour before a time, at most MaxRefused.
func Refusals(times []time.Time, at time.Time) int {
	return min(len(refusedWithin(times, at)), MaxRefused)
}

// reviewedFacts say that a review is no longer open, which it has to be, and not one of a decision about whoever looked.
func reviewedFacts(e *pb.Reviewed, index uint64) []Fact {
	c := e.GetCaller()
	return append(callerFacts(c),
		Fact{Key: ReviewFact(e.GetDue().AsTime(), e.GetDecided()), Value: identityDigest(c.GetIssuer(), c.GetSubject()), Rule: Ends},
		Fact{Key: ReviewedFact(e.GetDecided()), Value: number(index), Rule: New},
	)
}

// Reviewed is the event that somebody looked at the decision at index, which was due for it.
func Reviewed(caller *pb.Caller, sourceIP string, index uint64, due time.Time, comment string) *Event {
	return &Event{Event: &pb.Record_Reviewed{Reviewed: &pb.Reviewed{
		Caller: caller, SourceIp: Text(sourceIP), Decided: index, Due: timestamppb.New(due), Comment: Text(comment),
	}}}
}

func checkReviewed(e *pb.Reviewed, index uint64) error {
	switch {
	case e.GetDecided() >= index:
		return fmt.Errorf("it is a review of record %d, which does not come before it", e.GetDecided())
	case e.GetDue() == nil || e.GetComment() == "":
		return errors.New("it is a review without due time or comment")
	case e.GetCaller().GetKind() != pb.CallerKind_CALLER_KIND_PERSON:
		return errors.New("it is a review by somebody who is no person")
	}
	return checkCaller(e.GetCaller())
}

func checkReview(d *pb.Decided) error {
	r := d.GetReview()
	last := ""
	for _, rule := range r.GetRules() {
		if rule.GetName() <= last {
			return errors.New("its review rules are not sorted by name, each once")
		}
		last = rule.GetName()
	}
	switch {
	case (len(r.GetRules()) > 0) != (r.GetDue() != nil):
		return errors.New("it asks for a review without saying until when, or the other way round")
	case r.GetPolicy() != nil && d.GetPolicy() != nil:
		return errors.New("it names a policy of its review beside that of its decision")
	case r != nil && r.GetPolicy() == nil && d.GetPolicy() == nil:
		return errors.New("it tells of review rules without saying of which policy")
	case r.GetPolicy() != nil && len(r.GetPolicy().GetDigest()) != 32:
		return errors.New("the digest of the policy of its review is not a SHA-256")
	case r != nil && r.FirstUse != nil && d.GetRefusal() != nil:
		return errors.New("it tells of the first use of a rule, and refuses")
	case len(r.GetRefusedBefore().GetTimes()) > MaxRefused:
		return fmt.Errorf("it tells of more than %d refusals", MaxRefused)
	}
	return nil
}

// OutcomeName says how a request ended, in the words of DecisionOf; nil is for a grant.
func OutcomeName(refusal *ca.Error) string {
	if refusal == nil {
		return Granted
	}
	return KindName(kindToProto(refusal.Kind))
}

// reviewToProto is nil if there is nothing to tell.
func reviewToProto(a *ca.Attempt) *pb.Review {
	r := a.Review
	if r == nil {
		return nil
	}
	out := &pb.Review{FirstUse: r.History.FirstUse, Due: timestamp(r.Due)}
	if a.Policy == (ca.PolicyRef{}) {
		out.Policy = Policy(r.Policy)
	}
	for _, rule := range r.Rules {
		out.Rules = append(out.Rules, &pb.ReviewRule{Name: Text(rule.Name), Message: Text(rule.Message), Failed: Text(rule.Failed)})
	}
	if r.History.Refused != nil {
		out.RefusedBefore = &pb.RefusedBefore{}
		for _, t := range r.History.Refused {
			out.RefusedBefore.Times = append(out.RefusedBefore.Times, timestamppb.New(t))
		}
	}
	if out.Policy == nil && out.Rules == nil && out.FirstUse == nil && out.RefusedBefore == nil {
		return nil
	}
	return out
}

func reviewFromProto(d *pb.Decided) *ca.Review {
	r := d.GetReview()
	if r == nil {
		return nil
	}
	out := &ca.Review{Policy: policyFromProto(d.GetPolicy()), Due: goTime(r.GetDue()), History: ca.History{FirstUse: r.FirstUse}}
	if d.GetPolicy() == nil {
		out.Policy = policyFromProto(r.GetPolicy())
	}
	for _, rule := range r.GetRules() {
		out.Rules = append(out.Rules, ca.ReviewRule{Name: rule.GetName(), Message: rule.GetMessage(), Failed: rule.GetFailed()})
	}
	if before := r.GetRefusedBefore(); before != nil {
		out.History.Refused = goTimes(before.GetTimes())
	}
	return out
}

func goTimes(all []*timestamppb.Timestamp) []time.Time {
	times := make([]time.Time, len(all))
	for i, t := range all {
		times[i] = t.AsTime()
	}
	return times
}
