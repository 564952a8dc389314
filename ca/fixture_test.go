package ca_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const serverName = "ca.example.com"

// stand is a CA with everything around it that it needs, and counters of what it did.
type stand struct {
	*ca.CA
	t         testing.TB
	now       time.Time
	log       *watchedLog
	rules     atomic.Pointer[rules]
	callers   map[string]caller // by token
	strangers atomic.Int64
	signer    *countingAgent
}

type caller struct {
	ca.Caller
	err error
}

// newStand returns a CA whose one key is in an agent that counts signatures. change may alter it before it is made.
func newStand(t testing.TB, change ...func(*ca.CA)) *stand {
	t.Helper()
	s := &stand{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC), callers: map[string]caller{}}
	start := s.now
	s.log = openLog(t, func() time.Time {
		if s.now.Before(start) { // the clock of the log never goes back
			return start
		}
		return s.now
	})
	s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: 2 * time.Hour, Extensions: []ca.Extension{ca.PermitPTY}})})
	authority, counting := agentAuthority(t, "default")
	s.signer = counting
	config := ca.CA{
		Authenticate: func(_ context.Context, token string, _ time.Time) (ca.Caller, error) {
			c, ok := s.callers[token]
			if !ok {
				return ca.Caller{}, ca.Errorf(ca.Unauthenticated, "the ID token does not verify")
			}
			return c.Caller, c.err
		},
		Parse:           parseRequest,
		ParsePossession: parsePossession,
		Rules:           func() ca.Rules { return s.rules.Load() },
		Log:             s.log,
		Authorities:     map[string]*ca.Authority{"default": authority},
		ServerNames:     []string{serverName},
		Stranger:        func(_ netip.Addr, reason error) error { s.strangers.Add(1); return reason },
		Now:             func() time.Time { return s.now },
	}
	for _, f := range change {
		f(&config)
	}
	made, err := ca.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.CA = made
	for name, a := range made.Authorities {
		if err := s.log.ListAuthorityKey(t.Context(), name, a.PublicKey.Marshal(), a.Source); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stand) setRules(r *rules) {
	s.rules.Store(r)
	s.log.putInForce(r.Ref())
}

// person returns a person whose ID token is bound to key, the token, and the random bytes behind its nonce.
func (s *stand) person(subject string, key ssh.PublicKey) (token string, random []byte) {
	random = make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		s.t.Fatal(err)
	}
	c := identify(subject, ca.Person)
	c.Token.Nonce = ca.TokenNonce(random, key.Marshal())
	return s.token(c, nil), random
}

// token makes a token that authenticates as c.
func (s *stand) token(c ca.Caller, err error) string {
	token := fmt.Sprintf("token-%d", len(s.callers))
	c.Token.Digest = sha256.Sum256([]byte(token))
	c.Token.IssuedAt, c.Token.Expires = s.now.Add(-time.Minute), s.now.Add(time.Hour)
	s.callers[token] = caller{c, err}
	return token
}

func identify(subject string, kind ca.CallerKind) ca.Caller {
	return ca.Caller{
		Identity: ca.Identity{Issuer: "https://idp.example.com", Subject: subject, Kind: kind, Groups: []string{"developers"}},
		Token:    ca.Token{AuthTime: time.Date(2026, 11, 23, 11, 0, 0, 0, time.UTC)},
		Claims:   map[string]any{"secret": "claim nobody declared"},
	}
}

// request returns a good request for the key.
func (s *stand) request(key ssh.PublicKey, random []byte) *pb.CertificateRequest {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		s.t.Fatal(err)
	}
	return &pb.CertificateRequest{
		PublicKey: key.Marshal(), Login: "deploy", Host: "db1.prod.example.com", ClientTime: timestamppb.New(s.now),
		Nonce: nonce, ServerName: serverName, TokenNonce: random,
	}
}

// call signs m for a namespace.
func call(t testing.TB, token string, m proto.Message, signer ssh.Signer, namespace string) ca.Call {
	t.Helper()
	signed, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Call{Token: token, Signed: signed, SSHSIG: signSSHSIG(t, signed, signer, namespace)}
}

func signSSHSIG(t testing.TB, signed []byte, signer ssh.Signer, namespace string) []byte {
	t.Helper()
	sig, err := sshsig.Sign(bytes.NewReader(signed), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return sig.Marshal()
}

// ask makes a person and a signed request of that person; change may spoil the request before it is signed.
func (s *stand) ask(change ...func(*pb.CertificateRequest)) ca.Call {
	s.t.Helper()
	signer := newSigner(s.t)
	token, random := s.person("alice", signer.PublicKey())
	r := s.request(signer.PublicKey(), random)
	for _, f := range change {
		f(r)
	}
	return call(s.t, token, r, signer, ca.RequestNamespace)
}

// refused checks that a call came to nothing for the stated reason, that nothing was signed, and what was recorded: records
// more records than before, the last of which says the same.
func (s *stand) refused(c ca.Call, kind ca.Kind, fragment string, records int) {
	s.t.Helper()
	signed, size := s.signer.signed.Load(), s.log.size()
	issued, err := s.Issue(s.t.Context(), c)
	if issued != nil || err == nil {
		s.t.Fatalf("Issue = %v, %v; want a refusal", issued, err)
	}
	wantError(s.t, err, kind, fragment)
	if got := s.signer.signed.Load(); got != signed {
		s.t.Errorf("%d signatures were made for a refusal", got-signed)
	}
	if got := s.log.size() - size; got != records {
		s.t.Fatalf("%d records were written, want %d", got, records)
	}
	if records == 0 {
		return
	}
	last := s.log.last()
	if last.refusal == nil || last.refusal.Kind != kind || len(last.toBeSigned) > 0 {
		s.t.Errorf("recorded %v with %d bytes to be signed, want kind %v and none", last.refusal, len(last.toBeSigned), kind)
	}
}

// issued checks that a call is granted and returns the certificate, after x/crypto read and checked it.
func (s *stand) issued(c ca.Call) (*ssh.Certificate, *ca.Issued) {
	s.t.Helper()
	issued, err := s.Issue(s.t.Context(), c)
	if err != nil {
		s.t.Fatalf("Issue: %v", err)
	}
	return readCertificate(s.t, issued.Certificate), issued
}

func readCertificate(t testing.TB, wire []byte) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatalf("parse certificate: %v", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		t.Fatalf("got a %T, want a certificate", key)
	}
	return cert
}

func wantError(t testing.TB, err error, kind ca.Kind, fragment string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want kind %v: %q", kind, fragment)
	}
	if _, ok := errors.AsType[*ca.Error](err); !ok {
		t.Errorf("the error is a %T: %v", err, err)
	}
	if got := ca.KindOf(err); got != kind {
		t.Errorf("kind %v, want %v: %v", got, kind, err)
	}
	if !bytes.Contains([]byte(err.Error()), []byte(fragment)) {
		t.Errorf("error %q does not say %q", err, fragment)
	}
}

// rules is a policy that answers what a test wants, also what no policy may.
type rules struct {
	digest  byte
	declare func(ca.Caller) (ca.Identity, error)
	decide  func(ca.Question) ca.Decision
	// wants and review are those of review rules; there are none if review is nil.
	wants  ca.Wants
	review func(ca.Settled) []ca.ReviewRule
}

func (r *rules) Ref() ca.PolicyRef {
	return ca.PolicyRef{Digest: [32]byte{r.digest}, Revision: "3f2a9c1d0b7e4455667788990011223344556677"}
}

func (r *rules) Declare(c ca.Caller) (ca.Identity, error) {
	if r.declare != nil {
		return r.declare(c)
	}
	return c.Identity, nil
}

func (r *rules) Decide(_ context.Context, q ca.Question) ca.Decision { return r.decide(q) }

func (r *rules) Reviews() (ca.Wants, bool) { return r.wants, r.review != nil }

func (r *rules) Review(_ context.Context, s ca.Settled) ca.Review {
	out := ca.Review{Rules: r.review(s), History: s.History}
	if out.Rules != nil {
		out.Due = s.Now.Add(time.Hour).Truncate(time.Second)
	}
	return out
}

// grant returns a policy that grants g to everybody, for as long as asked or as long as it can.
func grant(g ca.Grant, change ...func(*ca.Decision)) func(ca.Question) ca.Decision {
	return func(q ca.Question) ca.Decision {
		d := ca.Decision{
			Outcome: ca.Allow, Rule: "developers-on-prod", TTL: g.TTL, Grant: g,
			Environment: ca.Environment{Name: "prod", Authority: "default"},
			Limits: ca.Limits{MaxTTL: 12 * time.Hour, NeverLogins: []string{"root"}, Keys: []ca.KeyRule{
				{Type: "ed25519"}, {Type: "sk-ed25519"}, {Type: "ecdsa"}, {Type: "sk-ecdsa"}, {Type: "rsa", MinBits: 3072},
			}},
		}
		if q.Request.TTL > 0 {
			d.TTL = q.Request.TTL
		}
		for _, f := range change {
			f(&d)
		}
		return d
	}
}

func parseRequest(signed []byte) (ca.Request, error) {
	m := &pb.CertificateRequest{}
	if err := proto.Unmarshal(signed, m); err != nil {
		return ca.Request{}, err
	}
	key, err := ca.ParseSubjectKey(m.GetPublicKey())
	if err != nil {
		return ca.Request{}, err
	}
	r := ca.Request{
		PublicKey: key, Login: m.GetLogin(), Host: m.GetHost(), TTL: m.GetTtl().AsDuration(), Reason: m.GetReason(), Rule: m.GetRule(),
		BreakGlass: m.GetBreakGlass(), ClientTime: m.GetClientTime().AsTime(), ServerName: m.GetServerName(), TokenNonce: m.GetTokenNonce(),
	}
	copy(r.Nonce[:], m.GetNonce())
	return r, nil
}

func parsePossession(signed []byte) (ca.Possession, error) {
	m := &pb.Possession{}
	if err := proto.Unmarshal(signed, m); err != nil {
		return ca.Possession{}, err
	}
	key, err := ca.ParseSubjectKey(m.GetPublicKey())
	if err != nil {
		return ca.Possession{}, err
	}
	return ca.Possession{
		PublicKey: key, Method: m.GetMethod(), ClientTime: m.GetClientTime().AsTime(), ServerName: m.GetServerName(), TokenNonce: m.GetTokenNonce(),
	}, nil
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// fileAuthority makes a CA key in a file.
func fileAuthority(t testing.TB, name string) (*ca.Authority, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca_"+name)
	if _, err := ca.Generate(path); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.LoadFile(name, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return authority, path
}

func seconds(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }
