package server_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// TestReviews goes through the queue of reviews as auditors do.
func TestReviews(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules+`review:
- {name: late, when: 'decision.outcome == "granted" && !request.break_glass', within: 1s}
- {name: early, when: 'request.break_glass', within: 1d, message: Ask the incident lead.}
- {name: burst, when: decision.refusals >= 2}
`)
	alice, carol, c := s.Login("alice").SignIn, auditor(s), s.Client()
	index := func(r ca.Request) uint64 {
		t.Helper()
		issued, err := c.Issue(t.Context(), alice, r)
		if err != nil {
			t.Fatal(err)
		}
		return issued.Index
	}
	records := func() (all []*pb.Record) {
		t.Helper()
		answer, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range slices.Backward(answer.GetEntries()) {
			r := &pb.Record{}
			if err := proto.Unmarshal(e.GetRecord(), r); err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		return all
	}
	const host = "app1.staging.example.com"
	first := index(ca.Request{Login: "deploy", Host: host})
	second := index(ca.Request{Login: "deploy", Host: host, BreakGlass: true})
	var refused []uint64
	for range 2 {
		_, err := c.Issue(t.Context(), alice, ca.Request{Login: "root", Host: host})
		if ca.KindOf(err) != ca.Denied {
			t.Fatalf("error %v, want a refusal", err)
		}
		refused = append(refused, uint64(len(records())-1))
	}
	list := func(in *pb.ListReviewsRequest) (found []uint64, next string) {
		t.Helper()
		answer, err := c.ListReviews(t.Context(), carol, in)
		if err != nil {
			t.Fatal(err)
		}
		return indexes(t, answer.GetEntries()), answer.GetNextPageToken()
	}
	all := []uint64{first, second, refused[1]}
	if got, _ := list(&pb.ListReviewsRequest{}); !slices.Equal(got, all) {
		t.Errorf("open are %d, want %d", got, all)
	}
	var paged []uint64
	for token := ""; ; {
		got, next := list(&pb.ListReviewsRequest{PageSize: 1, PageToken: token})
		paged = append(paged, got...)
		if token = next; token == "" {
			break
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("page by page, open are %d, want %d", paged, all)
	}
	for _, token := range []string{"x", "1", "1-", "-", "1-x"} {
		if _, err := c.ListReviews(t.Context(), carol, &pb.ListReviewsRequest{PageToken: token}); ca.KindOf(err) != ca.Invalid {
			t.Errorf("the token %q: error %v", token, err)
		}
	}
	byState := func(state pb.ReviewState) []uint64 {
		t.Helper()
		answer, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Review: state})
		if err != nil {
			t.Fatal(err)
		}
		got := indexes(t, answer.GetEntries())
		slices.Sort(got)
		return got
	}

	security := s.Forge("bob", map[string]any{"groups": []string{"security", "developers"}})
	size := len(records())
	for _, tt := range []struct {
		name, comment string
		index         uint64
		kind          ca.Kind
		reason        string
	}{
		{"without a comment", " \n", first, ca.Invalid, "comment"},
		{"with a comment that is too long", strings.Repeat("x", 2001), first, ca.Invalid, "more than 2000"},
		{"with a comment of two lines", "fine\nmallory reviewed record 1", first, ca.Invalid, "one line"},
		{"with a comment of which a terminal makes more", "\u009b2Jfine", first, ca.Invalid, "one line"},
		{"of one that asks for none", "fine", refused[0], ca.NotFound, "asks for no review"},
		{"of one that does not exist", "fine", 1 << 40, ca.NotFound, "no record"},
	} {
		if _, err := c.MarkReviewed(t.Context(), carol, tt.index, tt.comment); ca.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("a mark %s: error %v, want %v with %q", tt.name, err, tt.kind, tt.reason)
		}
	}
	if got := len(records()); got != size {
		t.Errorf("marks that are no marks left %d records", got-size)
	}
	own, err := c.Issue(t.Context(), security, ca.Request{Login: "deploy", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.MarkReviewed(t.Context(), security, own.Index, "nothing to see here"); ca.KindOf(err) != ca.Denied || !strings.Contains(err.Error(), "somebody else has to look") {
		t.Errorf("an auditor marks their own: error %v", err)
	}
	if _, err := c.MarkReviewed(t.Context(), carol, own.Index, "bob was on call"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MarkReviewed(t.Context(), alice, first, "nothing to see here"); ca.KindOf(err) != ca.Denied || !strings.Contains(err.Error(), "role") {
		t.Errorf("alice marks without a role: error %v", err)
	}
	for _, i := range []int{len(records()) - 3, len(records()) - 1} {
		r := records()[i]
		if a := r.GetAccessRefused(); a.GetMethod() != pb.AuditService_MarkReviewed_FullMethodName || len(a.GetPolicy().GetDigest()) != 32 {
			t.Errorf("a refused mark is recorded as %v", r)
		}
	}

	at, err := c.MarkReviewed(t.Context(), carol, first, " talked to her\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := records()[at].GetReviewed(); got.GetDecided() != first || got.GetComment() != "talked to her" || got.GetSourceIp() != "127.0.0.1" {
		t.Errorf("the mark is %v", got)
	}
	if _, err := c.MarkReviewed(t.Context(), security, first, "me too"); ca.KindOf(err) != ca.Conflict || !strings.Contains(err.Error(), "carol@example.com") {
		t.Errorf("a second mark: error %v, want one that names carol", err)
	}
	if got, _ := list(&pb.ListReviewsRequest{}); !slices.Equal(got, all[1:]) {
		t.Errorf("open are %d, want %d", got, all[1:])
	}
	for state, want := range map[pb.ReviewState][]uint64{
		pb.ReviewState_REVIEW_STATE_ASKED: append(slices.Clone(all), own.Index), pb.ReviewState_REVIEW_STATE_OPEN: all[1:], pb.ReviewState_REVIEW_STATE_DONE: {first, own.Index},
	} {
		if got := byState(state); !slices.Equal(got, want) {
			t.Errorf("%v: %d, want %d", state, got, want)
		}
	}
	if _, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Review: 9}); ca.KindOf(err) != ca.Invalid {
		t.Errorf("a state that there is not: error %v", err)
	}
	if answer, err := c.GetRecordAndReview(t.Context(), carol, first); err != nil || answer.GetOwn() || indexes(t, []*pb.Entry{answer.GetReviewed()})[0] != at {
		t.Errorf("record %d is shown with %v, error %v", first, answer, err)
	}
	if answer, err := c.GetRecordAndReview(t.Context(), alice, first); err != nil || answer.GetReviewed() != nil || !answer.GetOwn() {
		t.Errorf("alice is shown who looked at her record, or not told that she is not: %v, error %v", answer, err)
	}
	where, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Where: `"burst" in record.reviews`})
	if err != nil || !slices.Equal(indexes(t, where.GetEntries()), refused[1:]) {
		t.Errorf("found %v, error %v", where, err)
	}
}
