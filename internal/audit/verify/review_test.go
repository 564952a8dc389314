package verify_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// newReviewed returns a log with reviews: 0 genesis, 1 CA key, 2 policy, 3 first grant by a rule, of alice, which asks for review, 4
// second one, which does not, 5 first refusal of mallory, 6 second one, which asks for review, 7 carol's mark of 3, 8 carol's of 6.
func newReviewed(t *testing.T) *copied {
	t.Helper()
	key, s, clock, f := newLog(t)
	record := func(a *ca.Attempt, asks bool) {
		t.Helper()
		clock.Move(time.Second)
		history, err := f.Recorder.History(t.Context(), a, ca.Wants{FirstUse: true, Refusals: true})
		if err != nil {
			t.Fatal(err)
		}
		a.Review = &ca.Review{Policy: a.Policy, History: history}
		if asks {
			a.Review.Rules, a.Review.Due = []ca.ReviewRule{{Name: "look"}}, a.Now.Add(time.Hour)
		}
		if _, err := f.Record(t, a); err != nil {
			t.Fatal(err)
		}
	}
	refusal := func() *ca.Attempt {
		a := f.Grant(t, "mallory")
		a.Refusal, a.Authority, a.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
		return a
	}
	record(f.Grant(t, "alice"), true)
	record(f.Grant(t, "alice"), false)
	record(refusal(), false)
	record(refusal(), true)
	for _, index := range []uint64{3, 6} {
		if _, err := f.Recorder.MarkReviewed(t.Context(), f.Grant(t, "carol").Caller, "", index, "talked to them"); err != nil {
			t.Fatal(err)
		}
	}
	return &copied{key, storetest.Records(t, s)}
}

// TestReviewsOfADaemonThatLies signs a log with reviews as no daemon of ours writes it.
func TestReviewsOfADaemonThatLies(t *testing.T) {
	review := func(change func(*pb.Reviewed)) func(*testing.T, *copied) {
		return func(t *testing.T, c *copied) { c.edit(t, 7, func(r *pb.Record) { change(r.GetReviewed()) }) }
	}
	for _, tt := range []struct {
		name  string
		index int
		lie   func(t *testing.T, c *copied)
		want  string
	}{
		{"who asked for the certificate reviews it", 7, func(t *testing.T, c *copied) {
			alice := grant(t, c.records[3]).GetCaller()
			review(func(e *pb.Reviewed) { e.Caller = alice })(t, c)
		}, "by alice, whom that record is about"},
		{"a workload reviews", 7, review(func(e *pb.Reviewed) { e.Caller.Kind = pb.CallerKind_CALLER_KIND_WORKLOAD }), "no person"},
		{"a decision is reviewed that does not ask", 7, review(func(e *pb.Reviewed) { e.Decided = 4 }), "review of record 4, which asks for none"},
		{"a policy is reviewed", 7, review(func(e *pb.Reviewed) { e.Decided = 2 }), "which asks for none"},
		{"a decision is reviewed that is still to come", 7, review(func(e *pb.Reviewed) { e.Decided = 9 }), "which asks for none"},
		{"a decision is reviewed twice", 8, func(t *testing.T, c *copied) {
			c.edit(t, 8, func(r *pb.Record) { r.GetReviewed().Decided = 3 })
		}, "record 3, which was reviewed before, by record 7"},
		{"a review says nothing", 7, review(func(e *pb.Reviewed) { e.Comment = "" }), "says nothing"},
		{"a review was due later", 7, review(func(e *pb.Reviewed) { e.Due = timestamppb.New(e.GetDue().AsTime().Add(time.Hour)) }), "due at another time"},
		{"the first use of a rule is none", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().Review.FirstUse = proto.Bool(false) })
		}, "was used before, which it was not"},
		{"a refusal before is left out", 6, func(t *testing.T, c *copied) {
			c.edit(t, 6, func(r *pb.Record) { r.GetDecided().Review.RefusedBefore.Times = nil })
		}, "refused 0 times before"},
		{"refusals before are made up", 5, func(t *testing.T, c *copied) {
			c.edit(t, 5, func(r *pb.Record) {
				r.GetDecided().Review.RefusedBefore.Times = []*timestamppb.Timestamp{timestamppb.New(time.Unix(0, 0))}
			})
		}, "refused 1 times before"},
		{"a grant was shown with refusals that are made up", 4, func(t *testing.T, c *copied) {
			c.edit(t, 4, func(r *pb.Record) {
				r.GetDecided().Review.RefusedBefore.Times = []*timestamppb.Timestamp{timestamppb.New(time.Unix(0, 0))}
			})
		}, "refused 1 times before"},
		{"nobody is told until when", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().Review.Due = nil })
		}, "without saying until when"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newReviewed(t)
			tt.lie(t, c)
			_, err := verify.Log(c.all(), c.sign(t, 0), c.key.Verifier())
			bad, ok := errors.AsType[*verify.RecordError](err)
			if !ok || bad.Index != uint64(tt.index) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one of record %d with %q", err, tt.index, tt.want)
			}
		})
	}
	c := newReviewed(t)
	if _, err := verify.Log(c.all(), c.sign(t, 0), c.key.Verifier()); err != nil {
		t.Errorf("a log of ours: %v", err)
	}
}
