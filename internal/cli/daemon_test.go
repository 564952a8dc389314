package cli_test

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
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/fakelog"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// daemon speaks the protocol and grants whatever it is asked, until it is told how to refuse.
type daemon struct {
	pb.UnimplementedCertificateServiceServer
	authority ssh.Signer
	log       *fakelog.Log

	mu      sync.Mutex // guards what follows
	issued  uint64
	refusal error
	hosts   []string
	stop    func()
}

func newDaemon() *daemon {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	authority, err := ssh.NewSignerFromKey(private)
	if err != nil {
		panic(err)
	}
	return &daemon{authority: authority, log: fakelog.New(), hosts: []string{"*.example.com"}}
}

func (d *daemon) Discover(context.Context, *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	return &pb.DiscoverResponse{
		Version:      "test",
		LogPublicKey: d.log.Key.Verifier(),
		Issuers:      []*pb.Issuer{{Name: "company", Url: "https://login.example.com", ClientId: "hallpass"}},
		UserCaKeys:   []*pb.UserCAKey{{Authority: "default", PublicKey: d.authority.PublicKey().Marshal()}},
	}, nil
}

func (d *daemon) ListEnvironments(context.Context, *pb.ListEnvironmentsRequest) (*pb.ListEnvironmentsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &pb.ListEnvironmentsResponse{Environments: []*pb.Environment{{Name: "test", Hosts: d.hosts}}}, nil
}

func (d *daemon) Issue(_ context.Context, in *pb.IssueRequest) (*pb.IssueResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.issued++
	if d.refusal != nil {
		return nil, d.refusal
	}
	var r pb.CertificateRequest
	if err := proto.Unmarshal(in.GetRequest(), &r); err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(r.GetPublicKey())
	if err != nil {
		return nil, err
	}
	cert := &ssh.Certificate{
		Nonce: make([]byte, 32), Key: key, Serial: d.issued + 1, CertType: ssh.UserCert, KeyId: "test",
		ValidPrincipals: []string{r.GetLogin()},
		ValidAfter:      uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}
	if err := cert.SignCert(rand.Reader, d.authority); err != nil {
		return nil, err
	}
	answer := &pb.IssueResponse{
		Certificate: cert.Marshal(), Index: d.issued,
		Decision: &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOW, Rule: "everybody", Environment: "test"},
		Policy:   &pb.PolicyRef{Revision: "0123456789abcdef"},
	}
	d.log.Prove(answer, in)
	return answer, nil
}

func (d *daemon) DryRun(context.Context, *pb.DryRunRequest) (*pb.DryRunResponse, error) {
	return &pb.DryRunResponse{Decision: &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_NEEDS, Rule: "sre-on-prod", Environment: "test", Message: "a reason is needed",
		Needs: []*pb.Need{{Kind: pb.NeedKind_NEED_KIND_REASON}},
	}}, nil
}

// serve answers on loopback and returns the address with its pin.
func (d *daemon) serve() (address string, stop func(), err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})))
	pb.RegisterCertificateServiceServer(server, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends by stop
	}()
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return fmt.Sprintf("%s#sha256:%s", listener.Addr(), hex.EncodeToString(pin[:])), func() { server.Stop(); <-done }, nil
}

// daemons are those of the scripts that run, by their folder.
var daemons sync.Map

func daemonOf(ts *testscript.TestScript) *daemon {
	found, _ := daemons.Load(ts.Getenv("WORK"))
	d, ok := found.(*daemon)
	if !ok {
		ts.Fatalf("no daemon was started")
	}
	return d
}

// daemonCommand is `daemon start`, `daemon stop`, `daemon deny`, `daemon needs-fresh-login`, `daemon hosts PATTERN...`, `daemon cut N`, after
// which its log has N records, or
// `daemon issued N`, which wants the daemon to have been asked N times.
func daemonCommand(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "start" {
		d := newDaemon()
		address, stop, err := d.serve()
		ts.Check(err)
		d.stop = sync.OnceFunc(stop)
		ts.Defer(d.stop)
		daemons.Store(ts.Getenv("WORK"), d)
		ts.Setenv("HALLPASS_SERVER", address)
		file := ts.MkAbs("ca.pub")
		ts.Check(os.WriteFile(file, bytes.TrimSpace(ssh.MarshalAuthorizedKey(d.authority.PublicKey())), 0o600))
		return
	}
	d := daemonOf(ts)
	if args[0] == "stop" {
		d.stop()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch args[0] {
	case "hosts":
		d.hosts = args[1:]
	case "issued":
		if want, err := strconv.ParseUint(args[1], 10, 64); err != nil || d.issued != want {
			ts.Fatalf("the daemon was asked %d times, want %s", d.issued, args[1])
		}
	case "deny":
		d.refusal = refusal(codes.PermissionDenied, "DENIED", "not\x1b[31m on Fridays")
	case "cut":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		d.log.Cut(n)
		d.issued = uint64(n) - 1 // the next record goes where the log ends
	case "needs":
		d.refusal = refusal(codes.FailedPrecondition, "NEEDS", "sre-on-prod needs more", &errdetails.PreconditionFailure{
			Violations: []*errdetails.PreconditionFailure_Violation{{Type: "REASON"}, {Type: "FRESH_LOGIN", Subject: "15m0s"}},
		})
	case "unauthenticated":
		d.refusal = refusal(codes.Unauthenticated, "UNAUTHENTICATED", "the ID token is not known here")
	default:
		ts.Fatalf("daemon %q?", args)
	}
}

func refusal(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "hallpass", Metadata: map[string]string{
		"index": "17", "rule": "sre-on-prod", "environment": "test", "policy": "0123456789abcdef",
	}}
	st, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		return err
	}
	return st.Err()
}
