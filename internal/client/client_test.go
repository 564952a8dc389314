package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/fakelog"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// hostile is a daemon that speaks the protocol and answers as a test wants.
type hostile struct {
	pb.UnimplementedCertificateServiceServer
	pb.UnimplementedAuditServiceServer
	issue func(context.Context, *pb.CertificateRequest) (*pb.IssueResponse, error)
	// log proves what issue returns, unless that has a record already.
	log *fakelog.Log
	// deciding makes one of issue and the proof of its answer: records enter the log in the order of their indexes.
	deciding sync.Mutex

	mu       sync.Mutex // guards what follows
	requests [][]byte
	metadata metadata.MD
}

func (h *hostile) Issue(ctx context.Context, in *pb.IssueRequest) (*pb.IssueResponse, error) {
	h.mu.Lock()
	h.requests = append(h.requests, in.GetRequest())
	h.metadata, _ = metadata.FromIncomingContext(ctx)
	h.mu.Unlock()
	var r pb.CertificateRequest
	if err := proto.Unmarshal(in.GetRequest(), &r); err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(r.GetPublicKey())
	if err != nil {
		return nil, err
	}
	if err := verifySSHSIG(in.GetRequest(), in.GetSshsig(), key, ca.RequestNamespace); err != nil {
		return nil, err
	}
	h.deciding.Lock()
	defer h.deciding.Unlock()
	answer, err := h.issue(ctx, &r)
	if err != nil {
		return nil, err
	}
	if answer.GetRecord() == nil && h.log != nil {
		h.log.Prove(answer, in)
	}
	return answer, nil
}

func (h *hostile) ListEnvironments(ctx context.Context, _ *pb.ListEnvironmentsRequest) (*pb.ListEnvironmentsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.metadata, _ = metadata.FromIncomingContext(ctx)
	return &pb.ListEnvironmentsResponse{}, nil
}

func verifySSHSIG(message, blob []byte, key ssh.PublicKey, namespace string) error {
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		return err
	}
	return sshsig.Verify(bytes.NewReader(message), sig, key, sshsig.HashSHA512, namespace)
}

// tlsCertificate is a self-made one for names.
func tlsCertificate(t testing.TB, names ...string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pin[:]
}

// services are those of a daemon.
type services interface {
	pb.CertificateServiceServer
	pb.AuditServiceServer
}

// serve runs h over TLS with a certificate for names and returns its address.
func serve(t testing.TB, h services, config *tls.Config, names ...string) client.Address {
	t.Helper()
	certificate, pin := tlsCertificate(t, names...)
	config.Certificates = []tls.Certificate{certificate}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	pb.RegisterCertificateServiceServer(server, h)
	pb.RegisterAuditServiceServer(server, h)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return client.Address{Host: "127.0.0.1", Port: port, Pin: pin}
}

func dial(t testing.TB, address client.Address) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newSignIn(t testing.TB, authority ssh.Signer, log *fakelog.Log) client.SignIn {
	key := newSigner(t)
	return client.SignIn{
		Token:      "header.payload.signature",
		TokenNonce: bytes.Repeat([]byte{7}, 32),
		Key:        key.PublicKey(),
		CAKeys:     []ssh.PublicKey{authority.PublicKey()},
		Log:        client.Log{PublicKey: log.Key.Verifier()},
		Sign: func(_ context.Context, namespace string, message []byte) ([]byte, error) {
			sig, err := sshsig.Sign(bytes.NewReader(message), key, sshsig.HashSHA512, namespace)
			if err != nil {
				return nil, err
			}
			return sig.Marshal(), nil
		},
	}
}

var asked = ca.Request{Login: "deploy", Host: "DB1.prod.example.com.", TTL: time.Hour}

// honest is the certificate that a good daemon gives for r, and its index.
func honest(t testing.TB, r *pb.CertificateRequest) (*ssh.Certificate, uint64) {
	t.Helper()
	key, err := ssh.ParsePublicKey(r.GetPublicKey())
	if err != nil {
		t.Error(err)
	}
	now := time.Now()
	return &ssh.Certificate{
		Nonce: bytes.Repeat([]byte{1}, 32), Key: key, Serial: 1<<40 + 18, CertType: ssh.UserCert, KeyId: "hallpass1 i=17",
		ValidPrincipals: []string{r.GetLogin()},
		ValidAfter:      uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(r.GetTtl().AsDuration()).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}, 17
}

func TestWhatComesBackIsChecked(t *testing.T) {
	authority, other := newSigner(t), newSigner(t)
	for _, tt := range []struct {
		name    string
		change  func(*ssh.Certificate)
		signer  ssh.Signer
		tamper  func([]byte) []byte
		index   uint64
		refused string // empty: taken
	}{
		{name: "an honest certificate is taken"},
		{name: "a principal scoped to the environment is taken", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"deploy@prod"} }},
		{name: "a principal scoped to the host is taken", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"deploy@db1.prod.example.com"} }},
		{name: "options that restrict are taken", change: func(c *ssh.Certificate) {
			c.CriticalOptions = map[string]string{"force-command": "id", "source-address": "10.0.0.0/8"}
		}},
		{name: "backdating by five minutes is taken", change: func(c *ssh.Certificate) { c.ValidAfter = c.ValidBefore - 3900 }},
		{name: "another key", change: func(c *ssh.Certificate) { c.Key = other.PublicKey() }, refused: "another key"},
		{name: "another CA", signer: other, refused: "not a CA key known since login"},
		{name: "a host certificate", change: func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, refused: "not a user certificate"},
		{name: "a type of certificate that does not exist", change: func(c *ssh.Certificate) { c.CertType = 3 }, refused: "not a user certificate"},
		{name: "no principal, which means all", change: func(c *ssh.Certificate) { c.ValidPrincipals = nil }, refused: "principals"},
		{name: "a principal more", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"deploy", "root"} }, refused: "principals"},
		{name: "another principal", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} }, refused: "principals"},
		{name: "a principal of another environment", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"deploy@staging"} }, refused: "principals"},
		{name: "a second longer than asked", change: func(c *ssh.Certificate) { c.ValidAfter = c.ValidBefore - 3901 }, refused: "longer than"},
		{name: "for ever", change: func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 0, ssh.CertTimeInfinity }, refused: "longer than"},
		{name: "an end before its begin", change: func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter - 1 }, refused: "window is empty"},
		{name: "already expired", change: func(c *ssh.Certificate) {
			c.ValidBefore = uint64(time.Now().Unix()) - 1
			c.ValidAfter = c.ValidBefore - 10
		}, refused: "expired"},
		{name: "not yet valid", change: func(c *ssh.Certificate) {
			c.ValidAfter = uint64(time.Now().Unix()) + 600
			c.ValidBefore = c.ValidAfter + 10
		}, refused: "begins at"},
		{name: "an unknown critical option", change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x@example.com": ""} }, refused: "critical option"},
		{name: "verify-required on a key that cannot", change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }, refused: "critical option"},
		{name: "an unknown extension", change: func(c *ssh.Certificate) { c.Extensions["x@example.com"] = "" }, refused: "extension"},
		{name: "a critical option among the extensions", change: func(c *ssh.Certificate) { c.Extensions["force-command"] = "id" }, refused: "extension"},
		{name: "no-touch-required", change: func(c *ssh.Certificate) { c.Extensions["no-touch-required"] = "" }, refused: "extension"},
		{name: "an extension with a value", change: func(c *ssh.Certificate) { c.Extensions["permit-pty"] = "x" }, refused: "extension"},
		{name: "a serial of another record", index: 18, refused: "does not belong to record"},
		{name: "serial 0", change: func(c *ssh.Certificate) { c.Serial = 0 }, refused: "does not belong to record"},
		{name: "a broken signature", tamper: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, refused: "signature does not verify"},
		{name: "bytes after the end", tamper: func(b []byte) []byte { return append(b, 0) }, refused: "must not be used"},
		{name: "a plain key", tamper: func([]byte) []byte { return other.PublicKey().Marshal() }, refused: "plain ssh-ed25519 key"},
		{name: "nothing", tamper: func([]byte) []byte { return nil }, refused: "must not be used"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := newLog()
			h := &hostile{log: log, issue: func(_ context.Context, r *pb.CertificateRequest) (*pb.IssueResponse, error) {
				cert, index := honest(t, r)
				if tt.change != nil {
					tt.change(cert)
				}
				signer := authority
				if tt.signer != nil {
					signer = tt.signer
				}
				if err := cert.SignCert(rand.Reader, signer); err != nil {
					return nil, err
				}
				wire := cert.Marshal()
				if tt.tamper != nil {
					wire = tt.tamper(wire)
				}
				if tt.index != 0 {
					index = tt.index
				}
				return &pb.IssueResponse{Certificate: wire, Index: index, Decision: &pb.Decision{Environment: "prod"}}, nil
			}}
			issued, err := dial(t, serve(t, h, &tls.Config{}, "127.0.0.1")).Issue(t.Context(), newSignIn(t, authority, log), asked)
			switch {
			case tt.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.refused == "" && issued.Index != 17:
				t.Errorf("got record %d, want 17", issued.Index)
			case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)):
				t.Errorf("got %v, want an error with %q", err, tt.refused)
			}
		})
	}
}

func TestALostAnswerIsAskedForWithTheSameBytes(t *testing.T) {
	authority := newSigner(t)
	lost := 1
	log := newLog()
	h := &hostile{log: log}
	h.issue = func(_ context.Context, r *pb.CertificateRequest) (*pb.IssueResponse, error) {
		if lost > 0 {
			lost--
			return nil, status.Error(codes.Unavailable, "connection reset")
		}
		cert, index := honest(t, r)
		if err := cert.SignCert(rand.Reader, authority); err != nil {
			return nil, err
		}
		return &pb.IssueResponse{Certificate: cert.Marshal(), Index: index}, nil
	}
	c := dial(t, serve(t, h, &tls.Config{}, "127.0.0.1"))
	who := newSignIn(t, authority, log)
	if _, err := c.Issue(t.Context(), who, asked); err != nil {
		t.Fatal(err)
	}
	if len(h.requests) != 2 || !bytes.Equal(h.requests[0], h.requests[1]) {
		t.Errorf("the daemon saw %d requests, want twice the same", len(h.requests))
	}
	if got := h.metadata.Get("authorization"); !cmp.Equal(got, []string{"Bearer " + who.Token}) {
		t.Errorf("authorization: %q", got)
	}
	lost = 2
	if _, err := c.Issue(t.Context(), who, asked); ca.KindOf(err) != ca.Unavailable {
		t.Errorf("got %v, want it given up after the second time", err)
	}
	if len(h.requests) != 4 || bytes.Equal(h.requests[1], h.requests[2]) {
		t.Errorf("the daemon saw %d requests, want two more with a nonce of their own", len(h.requests))
	}
}

func TestRefusalsComeBackWhole(t *testing.T) {
	refusal := func(code codes.Code, details ...proto.Message) error {
		s := status.New(code, "no").Proto()
		for _, d := range details {
			detail, err := anypb.New(d)
			if err != nil {
				t.Fatal(err)
			}
			s.Details = append(s.Details, detail)
		}
		return status.FromProto(s).Err()
	}
	info := func(reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Reason: reason, Domain: "hallpass", Metadata: map[string]string{
			"index": "17", "rule": "sre", "environment": "prod", "policy": "abc", "request_id": "r1",
		}}
	}
	cited := client.Refusal{Index: "17", Rule: "sre", Environment: "prod", Policy: "abc", RequestID: "r1"}
	for _, tt := range []struct {
		name string
		err  error
		want ca.Error
	}{
		{"denied", refusal(codes.PermissionDenied, info("DENIED")), ca.Error{Kind: ca.Denied}},
		{"two words", refusal(codes.NotFound, info("NOT_FOUND")), ca.Error{Kind: ca.NotFound}},
		{"a kind of a later daemon", refusal(codes.PermissionDenied, info("TOO_EARLY")), ca.Error{Kind: ca.Internal}},
		{"needs", refusal(codes.FailedPrecondition, info("NEEDS"), &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: "REASON"}, {Type: "FRESH_LOGIN", Subject: "15m0s"}, {Type: "LATER"},
		}}), ca.Error{Kind: ca.Needs, Needs: []ca.Need{{Kind: ca.NeedReason}, {Kind: ca.NeedFreshLogin, LoginWithin: 15 * time.Minute}}}},
		{"exhausted", refusal(codes.ResourceExhausted, info("EXHAUSTED"), &errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)}),
			ca.Error{Kind: ca.Exhausted, RetryAfter: 3 * time.Second}},
		{"unavailable, which is an answer and not asked for again", refusal(codes.Unavailable, info("UNAVAILABLE")), ca.Error{Kind: ca.Unavailable}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &hostile{issue: func(context.Context, *pb.CertificateRequest) (*pb.IssueResponse, error) { return nil, tt.err }}
			_, err := dial(t, serve(t, h, &tls.Config{}, "127.0.0.1")).Issue(t.Context(), newSignIn(t, newSigner(t), newLog()), asked)
			got, ok := errors.AsType[*client.Refusal](err)
			if !ok {
				t.Fatalf("got %v, want a Refusal", err)
			}
			want, wantReason := cited, tt.want
			wantReason.Message = "no"
			want.Reason = &wantReason
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Error(diff)
			}
			if len(h.requests) != 1 {
				t.Errorf("asked %d times, want once", len(h.requests))
			}
		})
	}
}

func TestOtherCallsProvePossession(t *testing.T) {
	h := &hostile{}
	who := newSignIn(t, newSigner(t), newLog())
	if _, err := dial(t, serve(t, h, &tls.Config{}, "127.0.0.1")).ListEnvironments(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	sent := h.metadata.Get("hallpass-possession-bin")
	if len(sent) != 1 {
		t.Fatalf("got %d proofs, want one", len(sent))
	}
	var signed pb.SignedPossession
	var possession pb.Possession
	if err := errors.Join(proto.Unmarshal([]byte(sent[0]), &signed), proto.Unmarshal(signed.GetPossession(), &possession)); err != nil {
		t.Fatal(err)
	}
	if err := verifySSHSIG(signed.GetPossession(), signed.GetSshsig(), who.Key, ca.CallNamespace); err != nil {
		t.Error(err)
	}
	if possession.GetMethod() != pb.CertificateService_ListEnvironments_FullMethodName || possession.GetServerName() != "127.0.0.1" ||
		!bytes.Equal(possession.GetTokenNonce(), who.TokenNonce) || time.Since(possession.GetClientTime().AsTime()) > time.Minute {
		t.Errorf("the proof says %v", &possession)
	}
}

func TestDialTrustsThePinAndTheName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config *tls.Config
		names  []string
		change func(*client.Address)
		want   string // empty: connects
	}{
		{name: "the pin and the name", names: []string{"127.0.0.1"}},
		{name: "the pin of a certificate without names"},
		{name: "the pin and another name", names: []string{"ca.example.com"}, want: "IP SANs"},
		{name: "another pin", change: func(a *client.Address) { a.Pin = make([]byte, 32) }, want: "not the one expected"},
		{name: "no pin, and no public CA", names: []string{"127.0.0.1"}, change: func(a *client.Address) { a.Pin = nil }, want: "unknown authority"},
		{name: "TLS 1.2", config: &tls.Config{MaxVersion: tls.VersionTLS12}, want: "protocol version"},
		{name: "nobody there", change: func(a *client.Address) { a.Port = "1" }, want: "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.config == nil {
				tt.config = &tls.Config{}
			}
			address := serve(t, &hostile{}, tt.config, tt.names...)
			if tt.change != nil {
				tt.change(&address)
			}
			c, err := client.Dial(t.Context(), address)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			if ca.KindOf(err) != ca.Unavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want Unavailable with %q", err, tt.want)
			}
		})
	}
}

func TestADaemonThatAcceptsAndIsSilentIsUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = client.Dial(t.Context(), client.Address{Host: "127.0.0.1", Port: port}); ca.KindOf(err) != ca.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
}

func TestParseAddress(t *testing.T) {
	pin := bytes.Repeat([]byte{0xfb}, 32)
	for _, tt := range []struct {
		text string
		want client.Address
		err  string
	}{
		{text: "ca.example.com:8443", want: client.Address{Host: "ca.example.com", Port: "8443"}},
		{text: "CA.example.com.:8443", want: client.Address{Host: "ca.example.com", Port: "8443"}},
		{text: "[::1]:8443", want: client.Address{Host: "::1", Port: "8443"}},
		{text: "h:1#sha256:" + hex.EncodeToString(pin), want: client.Address{Host: "h", Port: "1", Pin: pin}},
		{text: "h:1#sha256:" + base64.RawURLEncoding.EncodeToString(pin), want: client.Address{Host: "h", Port: "1", Pin: pin}},
		{text: "h:1#sha256:" + base64.URLEncoding.EncodeToString(pin), want: client.Address{Host: "h", Port: "1", Pin: pin}},
		{text: "ca.example.com", err: "host:port"},
		{text: "ca.example.com:0", err: "1 to 65535"},
		{text: "ca.example.com:https", err: "1 to 65535"},
		{text: ":8443", err: "1 to 65535"},
		{text: "https://ca.example.com:8443", err: "host:port"},
		{text: "h:1#" + hex.EncodeToString(pin), err: "want sha256:"},
		{text: "h:1#sha256:", err: "64 hexadecimal"},
		{text: "h:1#sha256:" + hex.EncodeToString(pin[1:]), err: "64 hexadecimal"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := client.ParseAddress(tt.text)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
			if again, err := client.ParseAddress(got.String()); err != nil || !cmp.Equal(got, again) {
				t.Errorf("%s does not read back: %v", got, err)
			}
		})
	}
}
