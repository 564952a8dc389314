package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/internal/server"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// stand is a server whose parts a test can make fail.
type stand struct {
	*server.Server
	conn   *grpc.ClientConn
	output *stack.Output
	served chan error
	tls    *tls.Config // by which clients trust it
	addr   string
}

// serve runs a server on loopback whose discovery is discover, and whose callers authenticate makes.
func serve(t *testing.T, discover func() *pb.DiscoverResponse, authenticate func() (ca.Caller, error)) *stand {
	t.Helper()
	return serveStrangers(t, 0, discover, authenticate)
}

// serveStrangers does the same; a connection of strangers lasts for age.
func serveStrangers(t *testing.T, age time.Duration, discover func() *pb.DiscoverResponse, authenticate func() (ca.Caller, error)) *stand {
	t.Helper()
	logKey, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Create(filepath.Join(t.TempDir(), "log.db"), bolt.Config{LogKey: logKey, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	recorder := store.NewRecorder(log)
	keyFile := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.Generate(keyFile); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.LoadFile("default", keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{output: &stack.Output{}, served: make(chan error, 1)}
	logger := slog.New(slog.NewJSONHandler(s.output, nil))
	limiter := server.NewLimiter(server.Rates{}, time.Now())
	core, err := ca.New(ca.CA{
		Authenticate: func(context.Context, string, time.Time) (ca.Caller, error) { return authenticate() },
		Parse:        server.ParseRequest, ParsePossession: server.ParsePossession,
		Rules: func() ca.Rules { return nil }, Log: recorder, Authorities: map[string]*ca.Authority{"default": authority},
		ServerNames: []string{"localhost"}, Admit: limiter.Admit, Stranger: limiter.Stranger, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	certificate, roots := selfSigned(t)
	s.Server = server.New(server.Config{
		CA: core, Store: log, Certificate: certificate, Limiter: limiter, Discovery: discover,
		RefuseAccess: recorder.RefuseAccess, Now: time.Now, Logger: logger, StrangerAge: age,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { s.served <- s.Serve(listener) }()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // a test that wants calls to end in good order shuts down itself
		s.Shutdown(ctx)
		if err := <-s.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	s.tls, s.addr = &tls.Config{RootCAs: roots, ServerName: "localhost"}, listener.Addr().String()
	s.conn, err = grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(credentials.NewTLS(s.tls)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func nothing() *pb.DiscoverResponse { return &pb.DiscoverResponse{} }

func nobody() (ca.Caller, error) { return ca.Caller{}, ca.Errorf(ca.Unauthenticated, "nobody") }

// Each kind of error has its code and its name on the wire. What caused it stays in the daemon.
func TestErrorsOnTheWire(t *testing.T) {
	const secret = "/var/lib/hallpass/log.db: input/output error"
	cause := errors.New(secret)
	alice := ca.Caller{Identity: ca.Identity{Issuer: "https://idp.example.com", Subject: "alice", Kind: ca.Person}}
	var answer error
	s := serve(t, nothing, func() (ca.Caller, error) { return alice, answer })
	for _, tt := range []struct {
		name   string
		err    error
		code   codes.Code
		reason string
		text   string
	}{
		{"invalid", &ca.Error{Kind: ca.Invalid, Message: "told", Err: cause}, codes.InvalidArgument, "INVALID", "told"},
		{"unauthenticated", &ca.Error{Kind: ca.Unauthenticated, Message: "told", Err: cause}, codes.Unauthenticated, "UNAUTHENTICATED", "told"},
		{"denied", &ca.Error{Kind: ca.Denied, Message: "told", Err: cause}, codes.PermissionDenied, "DENIED", "told"},
		{"needs", &ca.Error{Kind: ca.Needs, Message: "told", Err: cause}, codes.FailedPrecondition, "NEEDS", "told"},
		{"not found", &ca.Error{Kind: ca.NotFound, Message: "told", Err: cause}, codes.NotFound, "NOT_FOUND", "told"},
		{"conflict", &ca.Error{Kind: ca.Conflict, Message: "told", Err: cause}, codes.Aborted, "CONFLICT", "told"},
		{"exhausted", &ca.Error{Kind: ca.Exhausted, Message: "told", Err: cause}, codes.ResourceExhausted, "EXHAUSTED", "told"},
		{"unavailable", &ca.Error{Kind: ca.Unavailable, Message: "told", Err: cause}, codes.Unavailable, "UNAVAILABLE", "told"},
		{"internal", &ca.Error{Kind: ca.Internal, Message: "not told", Err: cause}, codes.Internal, "INTERNAL", "internal error, request "},
		{"a kind of tomorrow", &ca.Error{Kind: 99, Message: "not told", Err: cause}, codes.Internal, "KIND_99", "internal error, request "},
		{"nobody's", cause, codes.Internal, "INTERNAL", "internal error, request "},
		{"unavailable, because time ran out", &ca.Error{Kind: ca.Unavailable, Message: "told", Err: context.DeadlineExceeded}, codes.Unavailable, "UNAVAILABLE", "told"},
		{"denied, because another service said so", &ca.Error{Kind: ca.Denied, Message: "told", Err: status.Error(codes.OK, secret)}, codes.PermissionDenied, "DENIED", "told"},
		{"wrapped", fmt.Errorf("%s: %w", secret, ca.Errorf(ca.Denied, "told")), codes.PermissionDenied, "DENIED", "told"},
		{"what another service said, wrapped", fmt.Errorf("ask: %w", status.Error(codes.NotFound, secret)), codes.Internal, "INTERNAL", "internal error, request "},
	} {
		answer = tt.err
		var header metadata.MD
		_, err := pb.NewCertificateServiceClient(s.conn).DryRun(stack.Bearer(t.Context(), "x"), &pb.DryRunRequest{}, grpc.Header(&header))
		st := status.Convert(err)
		if st.Code() != tt.code || !strings.HasPrefix(st.Message(), tt.text) {
			t.Errorf("%s: got %v, want %s with %q", tt.name, err, tt.code, tt.text)
		}
		if strings.Contains(st.String(), secret) || strings.Contains(st.String(), "not told") {
			t.Errorf("%s: the cause leaves the daemon: %v", tt.name, st)
		}
		want := map[string]string{"request_id": strings.Join(header.Get("hallpass-request-id"), ",")}
		if info := infoOf(st); info.GetReason() != tt.reason || info.GetDomain() != "hallpass" || len(want["request_id"]) != 16 {
			t.Errorf("%s: error info %v, request id %q", tt.name, info, want["request_id"])
		} else if diff := cmp.Diff(want, info.GetMetadata()); diff != "" {
			t.Errorf("%s: metadata (-want +got):\n%s", tt.name, diff)
		}
	}
	if !strings.Contains(s.output.String(), "input/output error") {
		t.Error("the daemon's own log lacks the cause")
	}
}

func infoOf(st *status.Status) *errdetails.ErrorInfo {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// A refusal of the log's tells its place, and what is needed in a form for machines.
func TestRefusalsOnTheWire(t *testing.T) {
	st := status.Convert(server.ToStatus(&ca.Error{
		Kind: ca.Needs, Message: "told", RetryAfter: time.Second,
		Needs:   []ca.Need{{Kind: ca.NeedReason}, {Kind: ca.NeedFreshLogin, LoginWithin: 15 * time.Minute}},
		Refused: &ca.Refused{Index: 17, Rule: "sre", Environment: "prod", Policy: ca.PolicyRef{Digest: [32]byte{1}}},
	}, "0123"))
	want := map[string]string{
		"request_id": "0123", "index": "17", "rule": "sre", "environment": "prod",
		"policy": "01" + strings.Repeat("00", 31),
	}
	if diff := cmp.Diff(want, infoOf(st).GetMetadata()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	var needs, retry string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.PreconditionFailure:
			for _, v := range d.GetViolations() {
				needs += v.GetType() + "(" + v.GetSubject() + ")"
			}
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration().String()
		}
	}
	if needs != "REASON()FRESH_LOGIN(15m0s)" || retry != "1s" {
		t.Errorf("needs %q, retry after %q", needs, retry)
	}
	if err := server.ToStatus(nil, "0123"); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// A handler that panics costs one call.
func TestAPanicInAHandler(t *testing.T) {
	s := serve(t, func() *pb.DiscoverResponse { panic("the secret of the handler") }, func() (ca.Caller, error) { panic("the secret of authentication") })
	for range 2 {
		_, err := pb.NewCertificateServiceClient(s.conn).Discover(t.Context(), &pb.DiscoverRequest{})
		if st := status.Convert(err); st.Code() != codes.Internal || !strings.HasPrefix(st.Message(), "internal error, request ") || strings.Contains(st.String(), "secret") {
			t.Errorf("got %v, want Internal with a request id and nothing else", err)
		}
		_, err = pb.NewCertificateServiceClient(s.conn).DryRun(stack.Bearer(t.Context(), "x"), &pb.DryRunRequest{})
		if st := status.Convert(err); st.Code() != codes.Internal || strings.Contains(st.String(), "secret") || strings.Contains(st.String(), ".go:") {
			t.Errorf("got %v, want Internal without a stack", err)
		}
	}
	if out := s.output.String(); !strings.Contains(out, "the secret of the handler") || !strings.Contains(out, "server_test.go") {
		t.Errorf("the daemon's own log lacks the panic and its stack:\n%s", out)
	}
}

// Calls under way end before the server does; new calls are refused.
func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}, 1), make(chan struct{})
	s := serve(t, func() *pb.DiscoverResponse {
		begun <- struct{}{}
		<-release
		return &pb.DiscoverResponse{Version: "done"}
	}, nobody)
	if out, err := healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", out, err)
	}
	// A stream that anybody could hold open for nothing is not served.
	watch, err := healthpb.NewHealthClient(s.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Fatalf("watching the health: got %v, want PermissionDenied", err)
	}
	answered := make(chan error, 1)
	go func() {
		out, err := pb.NewCertificateServiceClient(s.conn).Discover(t.Context(), &pb.DiscoverRequest{})
		if err == nil && out.GetVersion() != "done" {
			err = fmt.Errorf("answered %v", out)
		}
		answered <- err
	}()
	<-begun
	down := make(chan struct{})
	go func() { s.Shutdown(t.Context()); close(down) }()
	select {
	case <-down:
		t.Error("the server ended before the call")
	default:
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-down
	if _, err := pb.NewCertificateServiceClient(s.conn).Discover(t.Context(), &pb.DiscoverRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after the end: got %v, want Unavailable", err)
	}
}

// A call that does not end is cut off when the time is over.
func TestDrainDoesNotWaitForEver(t *testing.T) {
	begun, release := make(chan struct{}, 1), make(chan struct{})
	s := serve(t, func() *pb.DiscoverResponse { begun <- struct{}{}; <-release; return nil }, nobody)
	answered := make(chan error, 1)
	go func() {
		_, err := pb.NewCertificateServiceClient(s.conn).Discover(t.Context(), &pb.DiscoverRequest{})
		answered <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	down := make(chan struct{})
	go func() { s.Shutdown(ctx); close(down) }()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	close(release)
	<-down
}

// A refused call is one line of the daemon's log, and holds neither token nor reason.
func TestCallsAreLoggedOnce(t *testing.T) {
	s := serve(t, nothing, nobody)
	if _, err := pb.NewCertificateServiceClient(s.conn).DryRun(stack.Bearer(t.Context(), "the-token"), &pb.DryRunRequest{Request: []byte("the reason")}); err == nil {
		t.Fatal("a stranger got an answer")
	}
	line := s.output.Await(t, 0, "call")
	if !strings.Contains(line, "/hallpass.v1.CertificateService/DryRun") || !strings.Contains(line, `"code":"Unauthenticated"`) || !strings.Contains(line, `"peer":"127.0.0.1"`) {
		t.Errorf("logged %s", line)
	}
	if out := s.output.String(); strings.Count(out, "\n") != 1 || strings.Contains(out, "the-token") || bytes.Contains([]byte(out), []byte("the reason")) {
		t.Errorf("logged %s", out)
	}
}
