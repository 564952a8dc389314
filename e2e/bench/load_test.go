//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A call is made before the clock starts, so that the client costs no more than gRPC and TLS do.
type call struct {
	ctx  context.Context // with the token
	body frame
}

// frame is an encoded message.
type frame []byte

// rawCodec passes frames as they are, under the name of the codec that made them.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("encode a %T", v)
	}
	return *f, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("decode a %T", v)
	}
	*f = append((*f)[:0], data...)
	return nil
}

// connections are those to one server. Its callers share them, as those of a busy helper machine would.
type connections []*grpc.ClientConn

const maxConnections = 8

// What everybody asks for, by the example policy of `hallpassd init`.
const (
	login = "deploy"
	host  = "app1.staging.example.com"
)

var groups = []string{"everybody", "developers", "berlin", "payments", "on-call", "go"}

// connect opens the connections. Nothing is sent yet.
func (c *connections) connect(b *testing.B, address client.Address) {
	*c = nil
	for range maxConnections {
		conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort("127.0.0.1", address.Port),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
				MinVersion:         tls.VersionTLS13,
				InsecureSkipVerify: true, // the pin is checked instead
				VerifyConnection: func(state tls.ConnectionState) error {
					if got := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo); string(got[:]) != string(address.Pin) {
						return errors.New("another server answers here")
					}
					return nil
				},
			})),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})), grpc.WithDisableServiceConfig())
		must(b, err)
		*c = append(*c, conn)
	}
}

func (c connections) close() {
	for _, conn := range c {
		_ = conn.Close()
	}
}

// issue makes calls for certificates, each with a nonce of its own. Client i is the person i, and takes every n-th call.
func (w *world) issue(b *testing.B, p point) []call {
	calls := make([]call, p.requests)
	issuedAt := time.Now().Add(-time.Second)
	reused := make([]string, p.clients)
	must(b, parallel(len(reused), func(i int) (err error) {
		reused[i], err = w.idToken(w.people[i], issuedAt)
		return err
	}))
	must(b, parallel(len(calls), func(i int) (err error) {
		who, token := w.people[i%p.clients], reused[i%p.clients]
		if p.tokens == "fresh" {
			if token, err = w.idToken(who, issuedAt); err != nil {
				return err
			}
		}
		calls[i], err = newCall(who, token)
		return err
	}))
	return calls
}

// idToken is one of a sign-in with the key of the person, with as many claims as usual, and perhaps more groups.
func (w *world) idToken(who *person, issuedAt time.Time, more ...string) (string, error) {
	claims, ok := w.idp.PersonClaims("alice", "hallpass")
	if !ok {
		return "", errors.New("the provider does not know alice")
	}
	claims["sub"], claims["email"] = who.subject, who.subject+"@example.com"
	claims["iat"], claims["auth_time"] = issuedAt.Unix(), issuedAt.Unix()
	claims["groups"] = slices.Concat(groups, more)
	claims["nonce"], claims["jti"] = ca.TokenNonce(who.random, who.key.PublicKey().Marshal()), rand.Text()
	return w.idp.People().Sign(claims, devidp.TokenOptions{})
}

func newCall(who *person, token string) (call, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	request, err := proto.Marshal(&pb.CertificateRequest{
		PublicKey: who.key.PublicKey().Marshal(), Login: login, Host: host, ClientTime: timestamppb.Now(),
		Nonce: nonce, ServerName: "localhost", TokenNonce: who.random,
	})
	if err != nil {
		return call{}, err
	}
	signature, err := sshsig.Sign(bytes.NewReader(request), who.key, sshsig.HashSHA512, ca.RequestNamespace)
	if err != nil {
		return call{}, err
	}
	body, err := proto.Marshal(&pb.IssueRequest{Request: request, Sshsig: signature.Marshal()})
	return call{metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), body}, err
}

// warm lets tokens be seen, connections be made and pages be read, and the collector begin with what is not measured.
func (w *world) warm(b *testing.B, d *daemon, p point) {
	p.requests = 2 * p.clients
	d.fire(b, w.issue(b, p), p.clients)
	runtime.GC()
}

// measure has a daemon issue certificates, and looks at each of them afterwards.
func (w *world) measure(b *testing.B, d *daemon, p point) sample {
	calls := w.issue(b, p)
	runtime.GC()
	s, answers := d.fire(b, calls, p.clients)
	serials := map[uint64]bool{}
	for _, answer := range answers {
		serials[certificate(b, answer).Serial] = true
	}
	if len(serials) != p.requests {
		b.Fatalf("%d certificates have only %d serials", p.requests, len(serials))
	}
	return s
}

func certificate(b *testing.B, answer frame) *ssh.Certificate {
	var issued pb.IssueResponse
	must(b, proto.Unmarshal(answer, &issued))
	key, err := ssh.ParsePublicKey(issued.GetCertificate())
	must(b, err)
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		b.Fatalf("the answer is a %T", key)
	}
	return cert
}

// fire makes the calls, this many clients at a time.
func (d *daemon) fire(b *testing.B, calls []call, clients int) (sample, []frame) {
	s := sample{requests: len(calls), latencies: make([]time.Duration, len(calls))}
	answers := make([]frame, len(calls))
	errs := make([]error, clients)
	serverCPU, clientCPU, begin := d.cpu(b), ownCPU(b), time.Now()
	var wait sync.WaitGroup
	for n := range clients {
		wait.Go(func() {
			conn := d.connections[n%min(clients, maxConnections)]
			for i := n; i < len(calls) && errs[n] == nil; i += clients {
				sent := time.Now()
				errs[n] = conn.Invoke(calls[i].ctx, d.method, &calls[i].body, &answers[i])
				s.latencies[i] = time.Since(sent)
			}
		})
	}
	wait.Wait()
	s.elapsed, s.clientCPU, s.serverCPU = time.Since(begin), ownCPU(b)-clientCPU, d.cpu(b)-serverCPU
	must(b, errors.Join(errs...))
	return s, answers
}

// parallel calls f for 0 to n-1, on all cores.
func parallel(n int, f func(int) error) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
