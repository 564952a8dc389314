package server_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// A connection that finished its handshake and says nothing ends long before one that is merely idle.
func TestASilentConnectionOfStrangersEnds(t *testing.T) {
	t.Parallel()
	s := serveStrangers(t, 200*time.Millisecond, nothing, nobody)
	config := s.tls.Clone()
	config.NextProtos = []string{"h2"}

	silent := dialRaw(t, s.addr, config)
	if _, err := io.Copy(io.Discard, silent.conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a silent connection: %v", err)
	}
}

// Calls that need no token do not make the caller known, however many there are.
func TestCallsOfStrangersDoNotKeepAConnection(t *testing.T) {
	t.Parallel()
	s := serveStrangers(t, 200*time.Millisecond, nothing, nobody)
	conn, dials := s.dialCounted(t)
	for dials.Load() < 3 {
		_, err := pb.NewCertificateServiceClient(conn).Discover(t.Context(), &pb.DiscoverRequest{}, grpc.WaitForReady(true))
		if err != nil && status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		_, err = pb.NewCertificateServiceClient(conn).DryRun(stack.Bearer(t.Context(), "x"), &pb.DryRunRequest{})
		if c := status.Code(err); c != codes.Unauthenticated && c != codes.ResourceExhausted && c != codes.Unavailable {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // longer than a connection is spared after a call
	}
}

// A call that is under way when the time is over is answered.
func TestACallUnderWayIsAnswered(t *testing.T) {
	t.Parallel()
	s := serveStrangers(t, 500*time.Millisecond, func() *pb.DiscoverResponse {
		time.Sleep(2 * time.Second)
		return &pb.DiscoverResponse{Version: "done"}
	}, nobody)
	// On a slow machine the time may be over before the call begins: then it goes to another connection.
	out, err := pb.NewCertificateServiceClient(s.conn).Discover(t.Context(), &pb.DiscoverRequest{}, grpc.WaitForReady(true))
	if err != nil || out.GetVersion() != "done" {
		t.Errorf("answered %v, %v", out, err)
	}
}

// A connection lasts once an identity was verified on it, whether it got what it asked for or was denied.
func TestAConnectionOfAKnownIdentityLasts(t *testing.T) {
	t.Parallel()
	const age = 2 * time.Second
	s := serveStrangers(t, age, nothing, func() (ca.Caller, error) { return ca.Caller{}, ca.Errorf(ca.Denied, "known, and denied") })
	conn, dials := s.dialCounted(t)
	call := func() {
		t.Helper()
		_, err := pb.NewCertificateServiceClient(conn).DryRun(stack.Bearer(t.Context(), "x"), &pb.DryRunRequest{})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v, want PermissionDenied", err)
		}
	}
	call()
	before := dials.Load() // a slow machine may have taken longer than the age for its first call
	time.Sleep(age + 2*time.Second)
	call()
	if after := dials.Load(); after != before {
		t.Errorf("the connection of a known identity was closed: %d connections, want %d", after, before)
	}
}

// dialCounted returns a connection that counts how often it had to connect.
func (s *stand) dialCounted(t *testing.T) (*grpc.ClientConn, *atomic.Int32) {
	t.Helper()
	var dials atomic.Int32
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(credentials.NewTLS(s.tls)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, &dials
}

// A policy that takes the role away also takes what was let in by it.
func TestFollowersEndWithTheirRole(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	source := sourceOfPolicy(t, s)
	c, carol, alice := s.Client(), auditor(s), s.Login("alice").SignIn
	following, ended := make(chan struct{}), make(chan error, 1)
	var seen atomic.Uint64
	go func() {
		ended <- c.FollowRecords(t.Context(), carol, &pb.FollowRecordsRequest{Last: 1}, func(e *pb.Entry) error {
			if seen.Add(1) == 1 {
				close(following)
			}
			return nil
		})
	}()
	<-following
	stack.WritePolicy(t, source, strings.NewReplacer(`auditor: '"security" in identity.groups'`, `auditor: 'false'`).Replace(rules))
	// carol stays an admin for now, so she may go on; then she is neither.
	reload := func() {
		t.Helper()
		ctx := stack.Prove(t, carol, pb.PolicyService_Reload_FullMethodName)
		if _, err := pb.NewPolicyServiceClient(s.Dial()).Reload(ctx, &pb.ReloadRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	issue(t, s.Client(), alice)
	stack.WritePolicy(t, source, strings.NewReplacer(`auditor: '"security" in identity.groups'`, `auditor: 'false'`,
		`admin: '"ca-admins" in identity.groups'`, `admin: 'false'`).Replace(rules))
	reload()
	issue(t, s.Client(), alice)
	if err := <-ended; ca.KindOf(err) != ca.Denied || !strings.Contains(err.Error(), "the role auditor or admin") {
		t.Errorf("got %v, want kind denied, about the role", err)
	}
	// The newest before, the first reload and the decision after it, perhaps the second reload, which is on record a moment before it
	// is in force, and nothing of what came after that.
	if got := seen.Load(); got != 3 && got != 4 {
		t.Errorf("the follower saw %d records, want 3 or 4", got)
	}
	records := s.Records()
	var refused *pb.AccessRefused
	for _, r := range records {
		if r.GetAccessRefused() != nil {
			refused = r.GetAccessRefused()
		}
	}
	if refused.GetMethod() != pb.AuditService_FollowRecords_FullMethodName {
		t.Errorf("the log says of the refusal %v, want the method", refused)
	}
}

// sourceOfPolicy is the folder that the daemon reads its policy from.
func sourceOfPolicy(t *testing.T, s *stack.Stack) string {
	t.Helper()
	config, err := daemon.LoadConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	return config.Policy.Source
}
