package faults_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
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
	"google.golang.org/protobuf/types/known/timestamppb"
)

// clients is how many there are at once.
const clients = 16

// users are the people behind the clients, all of them developers, and carol, who is auditor and admin.
func users() []devidp.User {
	all := []devidp.User{{Name: "carol", Subject: "u-carol", Email: "carol@example.com", EmailVerified: true, Groups: []string{"security"}}}
	for i := range clients {
		name := fmt.Sprint("user", i)
		all = append(all, devidp.User{
			Name: name, Subject: "u-" + name, Email: name + "@example.com", EmailVerified: true, Groups: []string{"developers"},
		})
	}
	return all
}

// A caller is a person who has signed in.
type caller struct {
	subject string
	key     ssh.Signer
	token   string
	nonce   []byte // the random bytes behind that of the token
}

// signIn gives the named user an ID token that is bound to a fresh key.
func (a *authority) signIn(t testing.TB, name string) *caller {
	t.Helper()
	return a.signInAt(t, name, time.Now())
}

// signInAt is signIn at a time.
func (a *authority) signInAt(t testing.TB, name string, at time.Time) *caller {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{key: key, nonce: make([]byte, 32)}
	rand.Read(c.nonce)
	claims, ok := a.idp.PersonClaims(name, "hallpass")
	if !ok {
		t.Fatalf("nobody is called %s", name)
	}
	digest := sha256.Sum256(append(append([]byte("hallpass nonce v1\x00"), c.nonce...), key.PublicKey().Marshal()...))
	claims["nonce"] = base64.RawURLEncoding.EncodeToString(digest[:])
	claims["iat"], claims["auth_time"], claims["exp"] = at.Unix(), at.Unix(), at.Add(time.Hour).Unix()
	if c.subject, ok = claims["sub"].(string); !ok {
		t.Fatalf("%s has no subject", name)
	}
	if c.token, err = a.idp.People().Sign(claims, devidp.TokenOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// A request is what a caller sends, perhaps more than once.
type request struct {
	caller  *caller
	nonce   string
	message *pb.IssueRequest
}

// ask makes a fresh request for the login deploy.
func (c *caller) ask(host string) (*request, error) { return c.askAt(host, time.Now()) }

// askAt is ask at a time.
func (c *caller) askAt(host string, at time.Time) (*request, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	body, err := proto.Marshal(&pb.CertificateRequest{
		PublicKey: c.key.PublicKey().Marshal(), Login: "deploy", Host: host, ClientTime: timestamppb.New(at),
		Nonce: nonce, ServerName: "localhost", TokenNonce: c.nonce,
	})
	if err != nil {
		return nil, err
	}
	signature, err := c.sign(ca.RequestNamespace, body)
	if err != nil {
		return nil, err
	}
	return &request{c, string(nonce), &pb.IssueRequest{Request: body, Sshsig: signature}}, nil
}

func (c *caller) sign(namespace string, message []byte) ([]byte, error) {
	signature, err := sshsig.Sign(bytes.NewReader(message), c.key, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, err
	}
	return signature.Marshal(), nil
}

// connect returns a connection to the daemon, whose TLS certificate is verified.
func (a *authority) connect(t testing.TB, p *process) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.listening(),
		grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(a.roots, "localhost")), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// seen is what the clients of an authority were answered.
type seen struct {
	// patience is how long a client waits for an answer; 0 for long.
	patience time.Duration

	mu      sync.Mutex // guards what follows
	granted []grant
	refused []refusal
	// forgotten are certificates whose records were lost, and that was accepted.
	forgotten []grant
	// dark says that the power is about to be cut: an answer that comes now counts for nothing.
	dark bool
	// unwritten were answered with Unavailable: the daemon could not record them.
	unwritten []*request
	// lost got no answer. They are sent again, and then counted.
	lost     []*request
	repeated int
	changed  chan struct{} // closed with the next answer, if anybody waits
}

type grant struct {
	*request
	index       uint64
	certificate []byte
}

type refusal struct {
	*request
	index uint64
}

// send sends a request and notes the answer. It says whether there was one; an answer that must not be is an error.
func (s *seen) send(ctx context.Context, conn *grpc.ClientConn, r *request) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.patience, patience))
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.caller.token)
	answer, err := pb.NewCertificateServiceClient(conn).Issue(ctx, r.message)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	if s.dark {
		s.lost = append(s.lost, r)
		return false, nil
	}
	if err == nil {
		s.granted = append(s.granted, grant{r, answer.GetIndex(), answer.GetCertificate()})
		return true, nil
	}
	st := status.Convert(err)
	var info *errdetails.ErrorInfo // only the daemon's own errors have one
	for _, detail := range st.Details() {
		if i, ok := detail.(*errdetails.ErrorInfo); ok {
			info = i
		}
	}
	switch {
	case info == nil && (st.Code() == codes.Unavailable || st.Code() == codes.Canceled):
		s.lost = append(s.lost, r)
		return false, nil
	case st.Code() == codes.DeadlineExceeded && s.patience > 0: // the client did not wait for the answer; it asks for something else
		s.lost = append(s.lost, r)
		return true, nil
	case info.GetReason() == "UNAVAILABLE":
		s.unwritten = append(s.unwritten, r)
		return true, nil
	case info.GetReason() == "DENIED":
		index, err := strconv.ParseUint(info.GetMetadata()["index"], 10, 64)
		if err != nil {
			return true, fmt.Errorf("a refusal names no record: %w", err)
		}
		s.refused = append(s.refused, refusal{r, index})
		return true, nil
	}
	return true, fmt.Errorf("an answer that no client should get: %w", err)
}

// counts are how many answers of each kind there were.
type counts struct{ granted, refused, unwritten, lost int }

func (s *seen) counts() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return counts{len(s.granted), len(s.refused), len(s.unwritten), len(s.lost)}
}

// reaches waits until enough of what the clients were answered, or the daemon has ended: then it says false.
func (a *authority) reaches(t *testing.T, p *process, what string, enough func(counts) bool) bool {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		s := &a.seen
		s.mu.Lock()
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if enough(s.counts()) {
			return true
		}
		select {
		case <-changed:
		case <-p.ended:
			return false
		case <-timeout.C:
			t.Fatalf("waited in vain for %s: %+v", what, s.counts())
		}
	}
}

// await waits until enough of what the clients were answered, while the daemon lives.
func (a *authority) await(t *testing.T, p *process, what string, enough func(counts) bool) {
	t.Helper()
	if !a.reaches(t, p, what, enough) {
		t.Fatalf("the daemon ended before there were %s: %v\n%s", what, p.cmd.ProcessState, last(p.output(), 4000))
	}
}

// busy waits until every client may have had answers from this daemon, beyond those of before.
func (a *authority) busy(t *testing.T, p *process, before counts) {
	t.Helper()
	a.await(t, p, "certificates and refusals", before.busier)
}

// busier says whether there were answers for every client since.
func (c counts) busier(now counts) bool {
	return now.granted-c.granted >= clients && now.refused-c.refused >= clients
}

// A load is clients that ask without a rest.
type load struct {
	cancel  context.CancelFunc
	working sync.WaitGroup
}

// load lets all clients ask, in turn, for what they may have and for what they may not. Each ends when its connection does.
func (a *authority) load(t *testing.T, p *process) *load {
	t.Helper()
	l := &load{}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	for i := range clients {
		c, conn := a.signIn(t, fmt.Sprint("user", i)), a.connect(t, p)
		l.working.Go(func() {
			for ctx.Err() == nil {
				for _, host := range []string{"app1.staging.example.com", "db1.prod.example.com"} {
					r, err := c.ask(host)
					if err != nil {
						t.Error(err)
						return
					}
					answered, err := a.seen.send(context.WithoutCancel(ctx), conn, r)
					if err != nil {
						t.Error(err)
					}
					if !answered {
						return
					}
				}
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

// stop ends the load, after the answers under way.
func (l *load) stop() {
	l.cancel()
	l.working.Wait()
}

// repeat sends again, in the same bytes, every request that got no answer. Now all of them must get one. It counts those that had
// been recorded before.
func (a *authority) repeat(t *testing.T, p *process) {
	t.Helper()
	s := &a.seen
	s.mu.Lock()
	lost := s.lost
	s.lost = nil
	s.repeated += len(lost)
	s.mu.Unlock()
	if len(lost) == 0 {
		return
	}
	checkpoint, err := a.dial(t, p).GetCheckpoint(t.Context(), a.signIn(t, "carol").who())
	if err != nil {
		t.Fatal(err)
	}
	size := recordsIn(t, []byte(checkpoint.GetCheckpoint()))
	conn, before := a.connect(t, p), s.counts()
	for i, r := range lost {
		if _, err := s.send(t.Context(), conn, r); err != nil {
			t.Error(err)
		}
		if after := s.counts(); after.granted+after.refused != before.granted+before.refused+i+1 {
			t.Fatalf("a request that was sent again got no answer: %+v, %+v before", after, before)
		}
	}
	for _, g := range s.granted[before.granted:] {
		if g.index < size {
			a.recorded++
		}
	}
	for _, r := range s.refused[before.refused:] {
		if r.index < size {
			a.recorded++
		}
	}
}

// doubt takes what was answered with Unavailable for lost: after a failed sync the record may be there or not.
func (s *seen) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = append(s.lost, s.unwritten...)
	s.unwritten = nil
}

// forget takes the records from size on for lost: somebody restored the log without them, and accepted that.
func (s *seen) forget(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.granted[:0:0]
	for _, g := range s.granted {
		if g.index < size {
			kept = append(kept, g)
		} else {
			s.forgotten = append(s.forgotten, g)
		}
	}
	s.granted = kept
	s.refused = slices.DeleteFunc(s.refused, func(r refusal) bool { return r.index >= size })
}

// lightsOut makes all answers from now on count for nothing, until the lights are on again.
func (s *seen) lightsOut(out bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dark = out
}

// errFound ends the reading of a stream.
var errFound = errors.New("found")

// awaitRecord reads the log over the wire, as an auditor, until it has the record of a request, and returns its index.
func (a *authority) awaitRecord(t *testing.T, p *process, r *request) (index uint64) {
	t.Helper()
	c := a.dial(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.FollowRecords(ctx, a.signIn(t, "carol").who(), &pb.FollowRecordsRequest{}, func(e *pb.Entry) error {
		record := &pb.Record{}
		if err := proto.Unmarshal(e.GetRecord(), record); err != nil {
			return err
		}
		if index = record.GetIndex(); string(record.GetDecided().GetAsked().GetNonce()) == r.nonce {
			return errFound
		}
		return nil
	})
	if !errors.Is(err, errFound) {
		t.Fatalf("follow the log: %v", err)
	}
	return index
}

// dial connects as the tool does.
func (a *authority) dial(t *testing.T, p *process) *client.Client {
	t.Helper()
	_, port, err := net.SplitHostPort(p.listening())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), client.Address{Host: "localhost", Port: port, Pin: a.pin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// who is the caller as the tool signs in.
func (c *caller) who() client.SignIn {
	return client.SignIn{
		Token: c.token, TokenNonce: c.nonce, Key: c.key.PublicKey(),
		Sign: func(_ context.Context, namespace string, message []byte) ([]byte, error) {
			return c.sign(namespace, message)
		},
	}
}
