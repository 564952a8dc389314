//go:build linux

package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hiddeco/sshsig"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// The bare server is this program again, in a process of its own like the daemon. The variable holds a bareConfig.
const (
	bareVariable    = "HALLPASS_BENCH_BARE"
	bareEchoMethod  = "/bench.Bare/Echo"
	bareIssueMethod = "/bench.Bare/Issue"
)

// bareConfig says what the daemon works with, and what comes of it.
type bareConfig struct {
	Dir         string // of the daemon: its TLS certificate, its policy and the key of its CA
	Issuer      string
	Certificate []byte
	Record      []byte
	Answer      int // bytes
}

// startBare starts the server, which has the tables and the clients of a daemon.
func startBare(b *testing.B, c bareConfig) *daemon {
	config, err := json.Marshal(c)
	must(b, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	must(b, err)
	stdin, err := cmd.StdinPipe() // its end is the end of the server
	must(b, err)
	must(b, cmd.Start())
	p := &process{cmd: cmd}
	b.Cleanup(func() { _ = stdin.Close(); p.stop() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	must(b, err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "tls", "cert.pem"), filepath.Join(c.Dir, "tls", "key.pem"))
	must(b, err)
	pin := sha256.Sum256(pair.Leaf.RawSubjectPublicKeyInfo)
	p.connect(b, client.Address{Host: "localhost", Port: strings.TrimSpace(port), Pin: pin[:]})
	return &daemon{name: "bare", method: bareIssueMethod, process: p}
}

// serveBare answers until in ends. What the daemon sets to spend less, its collector and the goroutines of gRPC, is set here too.
func serveBare(in io.Reader, out io.Writer) error {
	var c bareConfig
	if err := json.Unmarshal([]byte(os.Getenv(bareVariable)), &c); err != nil {
		return err
	}
	defer runtime.KeepAlive(make([]byte, 32<<20))
	s, err := newBareServer(c)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "tls", "cert.pem"), filepath.Join(c.Dir, "tls", "key.pem"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.NumStreamWorkers(128),
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})))
	method := func(name string, f func(context.Context, frame) (frame, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var request frame
			if err := decode(&request); err != nil {
				return nil, err
			}
			answer, err := f(ctx, request)
			return &answer, err
		}}
	}
	echoed := make(frame, c.Answer)
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "bench.Bare", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		method("Echo", func(context.Context, frame) (frame, error) { return echoed, nil }),
		method("Issue", s.issue),
	}}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		server.Stop()
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	fmt.Fprintln(out, port)
	return server.Serve(listener)
}

// bareServer does for a certificate each of the parts of the floor, with the libraries that the daemon uses, and nothing else: it shows how
// near to their sum a server can come that has many callers at once.
type bareServer struct {
	parts  *parts
	signer ssh.Signer
	serial atomic.Uint64
	db     *bbolt.DB
	queue  chan unwritten

	mu     sync.Mutex // guards tokens
	tokens map[[32]byte]bool
}

// unwritten is a record whose caller waits.
type unwritten struct {
	record []byte
	done   chan error
}

func newBareServer(c bareConfig) (*bareServer, error) {
	p, err := newParts(c)
	if err != nil {
		return nil, err
	}
	s := &bareServer{parts: p, tokens: map[[32]byte]bool{}, queue: make(chan unwritten, maxClients)}
	key, err := os.ReadFile(filepath.Join(c.Dir, "keys", "ca-default"))
	if err != nil {
		return nil, err
	}
	if s.signer, err = ssh.ParsePrivateKey(key); err != nil {
		return nil, err
	}
	if s.db, err = openBareLog(filepath.Join(c.Dir, "bare.db")); err != nil {
		return nil, err
	}
	go s.commit()
	return s, nil
}

func (s *bareServer) issue(ctx context.Context, body frame) (frame, error) {
	key, err := possession(body)
	if err != nil {
		return nil, err
	}
	if err := s.checkToken(ctx); err != nil {
		return nil, err
	}
	if err := s.parts.decide(ctx, key); err != nil {
		return nil, err
	}
	certificate, err := s.parts.sign(s.signer, key, s.serial.Add(1))
	if err != nil {
		return nil, err
	}
	record, err := s.parts.encode()
	if err != nil {
		return nil, err
	}
	w := unwritten{record, make(chan error, 1)}
	s.queue <- w
	if err := <-w.done; err != nil {
		return nil, err
	}
	rest := max(0, s.parts.config.Answer-len(certificate))
	return proto.Marshal(&pb.IssueResponse{Certificate: certificate, Record: make([]byte, rest)})
}

func (s *bareServer) checkToken(ctx context.Context) error {
	fields, _ := metadata.FromIncomingContext(ctx)
	if len(fields["authorization"]) != 1 {
		return errors.New("there is no token")
	}
	raw := strings.TrimPrefix(fields["authorization"][0], "Bearer ")
	digest := sha256.Sum256([]byte(raw))
	s.mu.Lock()
	seen := s.tokens[digest]
	s.mu.Unlock()
	if seen {
		return nil
	}
	if err := s.parts.verifyToken(raw); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[digest] = true
	return nil
}

// commit writes and syncs what waits, up to 64 records at a time. Nobody waits for a batch to fill.
func (s *bareServer) commit() {
	var written uint64
	for first := range s.queue {
		batch := []unwritten{first}
		for len(s.queue) > 0 && len(batch) < 64 {
			batch = append(batch, <-s.queue)
		}
		records := make([][]byte, len(batch))
		for i, w := range batch {
			records[i] = w.record
		}
		err := appendBareLog(s.db, written, records)
		written += uint64(len(batch))
		for _, w := range batch {
			w.done <- err
		}
	}
}

func openBareLog(path string) (*bbolt.DB, error) {
	return bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoStatistics: true})
}

// appendBareLog writes records in one transaction, the first of them as number next, and syncs them.
func appendBareLog(db *bbolt.DB, next uint64, records [][]byte) error {
	return db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("records"))
		if err != nil {
			return err
		}
		bucket.FillPercent = 0.9
		for i, record := range records {
			if err := bucket.Put(binary.BigEndian.AppendUint64(nil, next+uint64(i)), record); err != nil {
				return err
			}
		}
		return nil
	})
}

// possession decodes a request and verifies its signature.
func possession(body []byte) (ssh.PublicKey, error) {
	var in pb.IssueRequest
	if err := proto.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	sig, err := sshsig.ParseSignature(in.GetSshsig())
	if err != nil {
		return nil, err
	}
	return sig.PublicKey, sshsig.Verify(bytes.NewReader(in.GetRequest()), sig, sig.PublicKey, sig.HashAlgorithm, ca.RequestNamespace)
}

// parts are what is measured alone for the floor, and at once by the bare server: the policy, token, certificate and record of the daemon.
type parts struct {
	config      bareConfig
	policy      *policy.Policy
	question    ca.Question
	verifier    *oidc.IDTokenVerifier
	certificate *ssh.Certificate
	record      *pb.Record
}

func newParts(c bareConfig) (*parts, error) {
	p := &parts{config: c, question: question(c.Issuer), record: &pb.Record{}}
	files, err := policy.ReadDir(filepath.Join(c.Dir, "policy"), false)
	if err != nil {
		return nil, err
	}
	if p.policy, err = policy.Compile(files); err != nil {
		return nil, err
	}
	provider, err := oidc.NewProvider(context.Background(), c.Issuer)
	if err != nil {
		return nil, err
	}
	p.verifier = provider.Verifier(&oidc.Config{ClientID: "hallpass"})
	example, err := ssh.ParsePublicKey(c.Certificate)
	if err != nil {
		return nil, err
	}
	certificate, ok := example.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("the example is a %T", example)
	}
	p.certificate = certificate
	return p, proto.Unmarshal(c.Record, p.record)
}

func (p *parts) verifyToken(raw string) error {
	token, err := p.verifier.Verify(context.Background(), raw)
	if err != nil {
		return err
	}
	var claims map[string]any
	return token.Claims(&claims)
}

func (p *parts) decide(ctx context.Context, key ssh.PublicKey) error {
	q := p.question
	q.Request.PublicKey = key
	if d := p.policy.Decide(ctx, q); d.Outcome != ca.Allow {
		return fmt.Errorf("the policy says: %s", d.Message)
	}
	return nil
}

func (p *parts) sign(signer ssh.Signer, key ssh.PublicKey, serial uint64) ([]byte, error) {
	c := *p.certificate
	c.Key, c.Serial = key, serial
	if err := c.SignCert(rand.Reader, signer); err != nil {
		return nil, err
	}
	return c.Marshal(), nil
}

func (p *parts) encode() ([]byte, error) {
	encoded, err := proto.Marshal(p.record)
	sha256.Sum256(encoded)
	return encoded, err
}
