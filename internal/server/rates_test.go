package server_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An identity above its rate is told when to come again. What it asked for meanwhile is summed up in one record, and nobody else
// is held back.
func TestAnIdentityAboveItsRate(t *testing.T) {
	t.Parallel()
	const burst, above = 5, 12
	s := stack.Start(t, rules, "limits: {identity_rate: 0.01, identity_burst: 5}\n")
	alice, c := s.Login("alice").SignIn, s.Client()
	var granted, exhausted atomic.Int64
	var wg sync.WaitGroup
	for range burst + above {
		wg.Go(func() {
			_, err := c.Issue(t.Context(), alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
			switch ca.KindOf(err) {
			case ca.Exhausted:
				exhausted.Add(1)
			default:
				if err != nil {
					t.Error(err)
				}
				granted.Add(1)
			}
		})
	}
	wg.Wait()
	if granted.Load() != burst || exhausted.Load() != above {
		t.Errorf("%d were granted and %d refused, want %d and %d", granted.Load(), exhausted.Load(), burst, above)
	}
	// The rate is that of the identity: another token, another key and another method change nothing.
	_, err := pb.NewAuditServiceClient(s.Dial()).GetCheckpoint(stack.Prove(t, s.Login("alice").SignIn, getCheckpoint), &pb.GetCheckpointRequest{})
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || retryAfter(st) != 100*time.Second {
		t.Errorf("got %v, to be tried again after %v, want ResourceExhausted and 1m40s", err, retryAfter(st))
	}
	issue(t, c, s.Login("bob").SignIn)

	counts := map[string]uint64{}
	decided := 0
	for _, r := range s.Records() {
		if n := r.GetRefusalsCounted(); n != nil {
			counts[n.GetCaller().GetSubject()] += n.GetCount()
		}
		if r.GetDecided() != nil {
			decided++
		}
	}
	if diff := cmp.Diff(map[string]uint64{"u-7f3a9c21": above + 1}, counts); diff != "" || decided != burst+1 {
		t.Errorf("%d decisions in the log, want %d; refusals counted (-want +got):\n%s", decided, burst+1, diff)
	}
}

func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// Strangers are held back by their address, whatever they call, and summed up in one record. Discovery stays open to them.
func TestStrangersAreHeldBackAndCounted(t *testing.T) {
	t.Parallel()
	const calls = 400
	s := stack.Start(t, rules)
	conn := s.Dial()
	held := 0
	for i := range calls {
		var err error
		ctx := stack.Bearer(t.Context(), "garbage")
		switch i % 4 {
		case 0:
			_, err = pb.NewCertificateServiceClient(conn).Issue(ctx, &pb.IssueRequest{})
		case 1:
			_, err = pb.NewCertificateServiceClient(conn).DryRun(ctx, &pb.DryRunRequest{})
		case 2:
			_, err = pb.NewAuditServiceClient(conn).ListRecords(ctx, &pb.ListRecordsRequest{})
		case 3:
			_, err = pb.NewAuditServiceClient(conn).GetCheckpoint(t.Context(), &pb.GetCheckpointRequest{}) // no token at all
		}
		switch status.Code(err) {
		case codes.Unauthenticated:
		case codes.ResourceExhausted:
			if held++; retryAfter(status.Convert(err)) <= 0 {
				t.Errorf("call %d is not told when to come again: %v", i, err)
			}
		default:
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if held == 0 {
		t.Errorf("none of %d calls was held back", calls)
	}
	if _, err := pb.NewCertificateServiceClient(conn).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
		t.Errorf("discovery: %v", err)
	}
	// Whoever has a good token is not held back by the strangers behind the same address.
	if _, err := s.Client().DryRun(t.Context(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); err != nil {
		t.Errorf("a known identity behind the same address: %v", err)
	}
	refused, strangers := refusals(s.Records())
	if len(refused) > 0 || strangers != calls {
		t.Errorf("the log counts %d strangers, want %d, and has the refusals %v", strangers, calls, refused)
	}
	summed := 0
	for _, r := range s.Records() {
		if r.GetStrangersCounted() != nil {
			summed++
		}
	}
	if summed != 1 {
		t.Errorf("%d records about strangers, want one", summed)
	}
}

// An issuer that is down makes strangers of everybody, and nobody is at fault.
func TestAnIssuerThatIsDownHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	s := stack.New(t, rules)
	claims, _ := s.IDP.PersonClaims("alice", stack.ClientID)
	who := stack.As(s.SignToken(s.IDP.People(), claims), nil, stack.NewKey(t))
	if err := s.IDP.Close(); err != nil {
		t.Fatal(err)
	}
	s.Run()
	c := s.Client()
	for range 150 { // more than an address may fail
		_, err := c.DryRun(t.Context(), who, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		if ca.KindOf(err) != ca.Unavailable {
			t.Fatalf("got %v, want kind unavailable", err)
		}
	}
	if err := s.IDP.Listen(s.IDP.URL()[len("http://"):]); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := c.DryRun(t.Context(), who, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		if err == nil {
			break
		}
		if _, refused := err.(*client.Refusal); !refused || ca.KindOf(err) != ca.Unavailable { //nolint:errorlint // DryRun returns it bare
			t.Fatalf("until the issuer is back: got %v, want kind unavailable", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
