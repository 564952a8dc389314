package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// auditor returns a sign-in that may read the log.
func auditor(s *stack.Stack) client.SignIn {
	return s.Forge("carol", nil)
}

// indexes returns those of entries.
func indexes(t *testing.T, entries []*pb.Entry) []uint64 {
	t.Helper()
	var found []uint64
	for _, e := range entries {
		var r pb.Record
		if err := proto.Unmarshal(e.GetRecord(), &r); err != nil {
			t.Fatal(err)
		}
		found = append(found, r.GetIndex())
	}
	return found
}

func TestListRecords(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	alice, carol := s.Login("alice").SignIn, auditor(s)
	c := s.Client()
	for range 7 {
		issue(t, c, alice)
	}
	list := func(in *pb.ListRecordsRequest) *pb.ListRecordsResponse {
		t.Helper()
		page, err := c.ListRecords(t.Context(), carol, in)
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	// Genesis, two CA keys, the policy, and the decisions.
	all := []uint64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
	now := time.Now()
	for _, tt := range []struct {
		name string
		in   *pb.ListRecordsRequest
		want []uint64
		next string
	}{
		{"the newest", &pb.ListRecordsRequest{}, all, ""},
		{"a page of a billion", &pb.ListRecordsRequest{PageSize: 1e9}, all, ""},
		{"a page of the largest number", &pb.ListRecordsRequest{PageSize: 1<<32 - 1}, all, ""},
		{"a page of three", &pb.ListRecordsRequest{PageSize: 3}, all[:3], "8"},
		{"the page after it", &pb.ListRecordsRequest{PageSize: 3, PageToken: "8"}, all[3:6], "5"},
		{"the last page, which is full", &pb.ListRecordsRequest{PageSize: 2, PageToken: "2"}, all[9:], ""},
		{"the page after the first record", &pb.ListRecordsRequest{PageToken: "0"}, nil, ""},
		{"a token from the future", &pb.ListRecordsRequest{PageToken: "18446744073709551615"}, all, ""},
		{"those about alice", &pb.ListRecordsRequest{Issuer: s.IDP.URL(), Subject: "u-7f3a9c21"}, all[:7], ""},
		{"those about alice, a page", &pb.ListRecordsRequest{Issuer: s.IDP.URL(), Subject: "u-7f3a9c21", PageSize: 2, PageToken: "9"}, all[2:4], "7"},
		{"those about nobody", &pb.ListRecordsRequest{Issuer: s.IDP.URL(), Subject: "' OR 1=1"}, nil, ""},
		{"those about alice of another issuer", &pb.ListRecordsRequest{Issuer: s.IDP.Workloads().URL(), Subject: "u-7f3a9c21"}, nil, ""},
		{"those since tomorrow", &pb.ListRecordsRequest{Since: timestamppb.New(now.Add(24 * time.Hour))}, nil, ""},
		{"those until tomorrow", &pb.ListRecordsRequest{Until: timestamppb.New(now.Add(24 * time.Hour))}, all, ""},
		{"those until yesterday", &pb.ListRecordsRequest{Until: timestamppb.New(now.Add(-24 * time.Hour))}, nil, ""},
		{"those of today", &pb.ListRecordsRequest{Since: timestamppb.New(now.Add(-time.Hour)), Until: timestamppb.New(now.Add(time.Hour))}, all, ""},
	} {
		page := list(tt.in)
		if diff := cmp.Diff(tt.want, indexes(t, page.GetEntries())); diff != "" || page.GetNextPageToken() != tt.next {
			t.Errorf("%s: next page %q, want %q; indexes (-want +got):\n%s", tt.name, page.GetNextPageToken(), tt.next, diff)
		}
	}
	if entry := list(&pb.ListRecordsRequest{PageSize: 1}).GetEntries()[0]; !strings.Contains(string(entry.GetSnapshot()), "alice@example.com") {
		t.Errorf("the record comes without the identity that it cites: %v", entry)
	}

	for _, tt := range []struct {
		name   string
		in     *pb.ListRecordsRequest
		reason string
	}{
		{"a token of nobody's", &pb.ListRecordsRequest{PageToken: "next"}, "page_token"},
		{"a negative token", &pb.ListRecordsRequest{PageToken: "-1"}, "page_token"},
		{"a token too large", &pb.ListRecordsRequest{PageToken: "18446744073709551616"}, "page_token"},
		{"an issuer alone", &pb.ListRecordsRequest{Issuer: s.IDP.URL()}, "issuer and subject"},
		{"a subject alone", &pb.ListRecordsRequest{Subject: "u-7f3a9c21"}, "issuer and subject"},
		{"an inverted interval", &pb.ListRecordsRequest{Since: timestamppb.New(now), Until: timestamppb.New(now.Add(-time.Second))}, "not before"},
		{"an empty interval", &pb.ListRecordsRequest{Since: timestamppb.New(now), Until: timestamppb.New(now)}, "not before"},
		{"no time", &pb.ListRecordsRequest{Since: &timestamppb.Timestamp{Nanos: -1}}, "since"},
		{"a time before all times", &pb.ListRecordsRequest{Until: &timestamppb.Timestamp{Seconds: -1 << 60}}, "until"},
	} {
		_, err := c.ListRecords(t.Context(), carol, tt.in)
		if ca.KindOf(err) != ca.Invalid || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: got %v, want kind invalid, about %s", tt.name, err, tt.reason)
		}
	}
}

// A page ends before it is larger than what clients read, and the next one goes on where it ended.
func TestAPageOfLargeRecordsEndsEarly(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	carol, c := auditor(s), s.Client()
	groups := []string{"developers"}
	for i := range 44 { // an identity of 11 KB: more does not fit into a token
		groups = append(groups, fmt.Sprintf("%d%s", i, strings.Repeat("x", 240)))
	}
	who := s.Forge("alice", map[string]any{"groups": groups})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 12 {
				issue(t, c, who)
			}
		})
	}
	wg.Wait()
	var seen []uint64
	pages, token := 0, ""
	for {
		page, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, indexes(t, page.GetEntries())...)
		pages++
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	slices.Reverse(seen)
	for i, index := range seen {
		if uint64(i) != index {
			t.Fatalf("index %d comes in place %d", index, i)
		}
	}
	if len(seen) != 100 || pages < 2 {
		t.Errorf("%d records in %d pages, want 100 in several", len(seen), pages)
	}
}

// issue asks for a certificate that is granted. It may run beside the test.
func issue(t testing.TB, c *client.Client, who client.SignIn) {
	t.Helper()
	if _, err := c.Issue(t.Context(), who, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); err != nil {
		t.Error(err)
	}
}

func TestGetRecord(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	carol, c := auditor(s), s.Client()
	entry, err := c.GetRecord(t.Context(), carol, 0)
	if err != nil || indexes(t, []*pb.Entry{entry})[0] != 0 {
		t.Errorf("record 0: got %v, %v", entry, err)
	}
	for _, index := range []uint64{4, 1 << 40, 1<<64 - 1} {
		if _, err := c.GetRecord(t.Context(), carol, index); ca.KindOf(err) != ca.NotFound {
			t.Errorf("record %d of 4: got %v, want kind not found", index, err)
		}
	}
}

// Followers see every record once and in order, from wherever they begin, while others write.
func TestFollowersSeeEveryRecordOnce(t *testing.T) {
	const writers, each = 8, 10
	t.Parallel()
	s := stack.Start(t, rules)
	carol := auditor(s)
	size := uint64(4 + writers*each)
	var wg sync.WaitGroup
	for _, from := range []*pb.FollowRecordsRequest{{}, {From: 3}, {Last: 2}, {From: size - 1}, {From: 1, Last: 1000}} {
		first := from.GetFrom()
		if from.GetLast() > 0 {
			first = 4 - min(4, uint64(from.GetLast()))
		}
		c, started := s.Client(), make(chan struct{})
		wg.Go(func() {
			next := first
			err := c.FollowRecords(t.Context(), carol, from, func(e *pb.Entry) error {
				if next == first {
					close(started)
				}
				if got := indexes(t, []*pb.Entry{e})[0]; got != next {
					return fmt.Errorf("record %d comes where %d should", got, next)
				}
				if next++; next == size {
					return errEnough
				}
				return nil
			})
			if err != errEnough { //nolint:errorlint // FollowRecords returns it bare
				t.Errorf("following %v: %v", from, err)
			}
		})
		if first < 4 {
			<-started
		}
	}
	who := s.Login("alice").SignIn
	for range writers {
		c := s.Client()
		wg.Go(func() {
			for range each {
				issue(t, c, who)
			}
		})
	}
	wg.Wait()
}

var errEnough = fmt.Errorf("seen enough")

// A daemon that ends tells its followers so and does not wait for them.
func TestFollowersAreToldThatTheDaemonEnds(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	c, carol := s.Client(), auditor(s)
	following, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.FollowRecords(t.Context(), carol, &pb.FollowRecordsRequest{Last: 1}, func(*pb.Entry) error {
			close(following)
			return nil
		})
	}()
	<-following
	s.Stop()
	err := <-ended
	if ca.KindOf(err) != ca.Unavailable || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("got %v, want kind unavailable, about the shutdown", err)
	}
}

// A follower may not outlive the token that let it in.
func TestFollowersEndWithTheirToken(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	carol := s.Forge("carol", map[string]any{"exp": time.Now().Add(2 * time.Second).Unix()})
	err := s.Client().FollowRecords(t.Context(), carol, &pb.FollowRecordsRequest{}, func(*pb.Entry) error { return nil })
	if ca.KindOf(err) != ca.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v, want kind unauthenticated, about a token that expired", err)
	}
}

// From beyond the end, from nowhere at all: a follower waits, and ends when it wants to.
func TestAFollowerThatHangsUp(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	ctx, cancel := context.WithCancel(stack.Prove(t, auditor(s), pb.AuditService_FollowRecords_FullMethodName))
	stream, err := pb.NewAuditServiceClient(s.Dial()).FollowRecords(ctx, &pb.FollowRecordsRequest{From: 1<<64 - 1})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	for !strings.Contains(s.Output.String(), "FollowRecords") { // until the daemon knows, or it would end the call itself
		time.Sleep(10 * time.Millisecond)
	}
	s.Stop()
	if strings.Contains(s.Output.String(), `"level":"ERROR"`) {
		t.Errorf("a follower that hung up is no error:\n%s", s.Output)
	}
}
