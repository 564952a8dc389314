package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	discover     = "/hallpass.v1.CertificateService/Discover"
	issuePath    = "/hallpass.v1.CertificateService/Issue"
	reflectionV1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
)

// What gRPC refuses before our own code runs, and what no gRPC client would send: each ends without harm, says nothing of ours,
// and leaves the daemon to others.
func TestWhatIsNoGRPCOfOurs(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	for _, tt := range []struct {
		name   string
		path   string
		differ map[string]string
		flag   byte
		body   []byte
		want   []string
	}{
		{"a good call", discover, nil, 0, nil, []string{"grpc 0"}},
		{"a path without its slash (CVE-2026-33186)", discover[1:], nil, 0, nil, []string{"grpc 12"}},
		{"a path with two", "/" + discover, nil, 0, nil, []string{"grpc 12"}},
		{"a path in another case", strings.ToLower(discover), nil, 0, nil, []string{"grpc 12"}},
		{"a path with a dot segment", "/hallpass.v1.AuditService/../hallpass.v1.CertificateService/Discover", nil, 0, nil, []string{"grpc 12"}},
		{"a path with a query", discover + "?x=1", nil, 0, nil, []string{"grpc 12"}},
		{"a method that is not there", "/hallpass.v1.CertificateService/Sign", nil, 0, nil, []string{"grpc 12"}},
		{"a service that is not there", "/hallpass.v1.AdminService/Issue", nil, 0, nil, []string{"grpc 12"}},
		{"reflection", reflectionV1, nil, 0, nil, []string{"grpc 12"}},
		{"no path", discover, map[string]string{":path": ""}, 0, nil, []string{"reset", "grpc 12", "closed", "grpc 13"}},
		{"GET", discover, map[string]string{":method": "GET"}, 0, nil, []string{"reset", "grpc 13", "http 405"}},
		{"JSON", discover, map[string]string{"content-type": "application/json"}, 0, []byte("{}"), []string{"http 415", "grpc 3", "grpc 13"}},
		{"no content type", discover, map[string]string{"content-type": ""}, 0, nil, []string{"http 415", "grpc 3", "grpc 13"}},
		{"another codec", discover, map[string]string{"content-type": "application/grpc+json"}, 0, []byte("{}"), []string{"grpc 13", "grpc 12"}},
		{"a compression bomb", issuePath, map[string]string{"grpc-encoding": "gzip"}, 1, bomb(t), []string{"grpc 12"}},
		{"compressed without saying how", issuePath, nil, 1, bomb(t), []string{"grpc 13"}},
		{"a message that is no protobuf", issuePath, nil, 0, bytes.Repeat([]byte{0xff}, 100), []string{"grpc 13"}},
		{"metadata over the limit", discover, map[string]string{"x": strings.Repeat("x", 40<<10)}, 0, nil, []string{"reset", "closed", "grpc 13", "grpc 8"}},
		{"a megabyte of metadata", discover, map[string]string{"x": strings.Repeat("x", 1<<20)}, 0, nil, []string{"reset", "closed", "grpc 13", "grpc 8"}},
		{"a deadline that is none", discover, map[string]string{"grpc-timeout": "soon"}, 0, nil, []string{"grpc 13", "grpc 3", "http 400"}},
	} {
		c := dialRaw(t, s.Listening(), s.TLS())
		stream := c.begin(headers(tt.path, tt.differ))
		c.message(stream, tt.flag, tt.body)
		if got := c.status(stream); !slices.Contains(tt.want, got) {
			t.Errorf("%s: ended with %q, want one of %q", tt.name, got, tt.want)
		}
		c.conn.Close() // it answers no ping, so the daemon would wait for it at its end
		if _, err := pb.NewCertificateServiceClient(s.Dial()).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
			t.Fatalf("after %s others are not served: %v", tt.name, err)
		}
	}
	if out := s.Output.String(); strings.Contains(out, "panic") {
		t.Errorf("the daemon panicked:\n%s", out)
	}
}

// bomb is a little that becomes a megabyte.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.CopyN(w, zeros{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Limits as honest clients meet them.
func TestMessagesOverTheLimit(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	client := pb.NewCertificateServiceClient(s.Dial())
	for _, size := range []int{64<<10 + 1, 5 << 20} {
		_, err := client.Issue(stack.Bearer(t.Context(), "x"), &pb.IssueRequest{Request: make([]byte, size)})
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a message of %d bytes: got %v, want ResourceExhausted", size, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 1<<20))
	if _, err := client.Discover(ctx, &pb.DiscoverRequest{}); err == nil {
		t.Error("a megabyte of metadata was taken")
	}
	if _, err := client.Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
		t.Errorf("the same connection afterwards: %v", err)
	}
}

func TestOnlyTLS13(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	config := s.TLS()
	config.MaxVersion = tls.VersionTLS12
	if _, err := tls.Dial("tcp", s.Listening(), config); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: got %v, want an alert about the protocol version", err)
	}
	conn, err := net.Dial("tcp", s.Listening())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err == nil && bytes.Contains(answer, []byte("HTTP")) || len(answer) > 16 {
		t.Errorf("plaintext was answered with %q", answer)
	}
}

// Whoever connects and says nothing is sent away, and cannot take the places of others: not from one address, in any number.
func TestAFloodOfConnections(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	var flood []net.Conn
	for range 700 {
		conn, err := dialer.DialContext(t.Context(), "tcp", s.Listening())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		flood = append(flood, conn)
	}
	if _, err := pb.NewCertificateServiceClient(s.Dial()).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
		t.Errorf("another address, during the flood: %v", err)
	}
	for i, conn := range flood { // those above the limit at once, the others when the time for the handshake is over
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	from := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", address)
	})
	if _, err := pb.NewCertificateServiceClient(s.Dial(from)).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
		t.Errorf("the same address, after the flood: %v", err)
	}
}

// Requests that begin and never end hold only their own connection up.
func TestRequestsThatNeverEnd(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	for range 20 {
		c := dialRaw(t, s.Listening(), s.TLS())
		for range 40 { // more than a connection may have at once
			c.begin(headers(issuePath, nil))
		}
		last := c.begin(headers(issuePath, nil))
		if got := c.status(last); got != "reset" {
			t.Errorf("a request above the limit of a connection ended with %q, want a reset", got)
		}
		defer c.conn.Close()
	}
	if _, err := pb.NewCertificateServiceClient(s.Dial()).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil {
		t.Errorf("others are not served: %v", err)
	}
}
