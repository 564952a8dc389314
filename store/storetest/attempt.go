package storetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/store"
	"golang.org/x/crypto/ssh"
)

// Issuer is that of the identities that attempts are of.
const Issuer = "https://id.example.com"

// log is a log with a policy in force and a CA key listed.
type log struct {
	store.Store
	*Fixture
	clock  *Clock
	reopen func() store.Store
}

// Fixture makes attempts as the core does.
type Fixture struct {
	Recorder  *store.Recorder
	Policy    ca.PolicyRef
	Authority ssh.PublicKey
	now       func() time.Time
}

func newLog(t testing.TB, b Backend) *log {
	t.Helper()
	l := &log{clock: NewClock()}
	l.Store, l.reopen = b.Create(t, l.clock.Now)
	l.Fixture = NewFixture(t, l.Store, l.clock.Now)
	return l
}

// NewFixture puts a policy in force and lists a CA key.
func NewFixture(t testing.TB, s store.Store, now func() time.Time) *Fixture {
	t.Helper()
	f := &Fixture{Recorder: store.NewRecorder(s), Policy: policy("one"), Authority: newKey(t), now: now}
	if err := f.Recorder.ListAuthorityKey(t.Context(), "default", f.Authority.Marshal(), "file"); err != nil {
		t.Fatal(err)
	}
	f.load(t, f.Policy)
	return f
}

func (f *Fixture) load(t testing.TB, ref ca.PolicyRef) {
	t.Helper()
	if err := f.Recorder.LoadPolicy(t.Context(), store.PolicyLoad{
		Policy: ref, Source: "/etc/policy", Cause: "start", Engine: "cel v1", Blobs: [][]byte{[]byte("rules of " + ref.Revision)},
	}); err != nil {
		t.Fatal(err)
	}
}

func policy(revision string) ca.PolicyRef {
	return ca.PolicyRef{Digest: sha256.Sum256([]byte(revision)), Revision: revision}
}

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Grant returns an attempt of a person that is granted, with fresh key, token and nonce.
func (f *Fixture) Grant(t testing.TB, subject string) *ca.Attempt {
	t.Helper()
	now := f.now()
	a := &ca.Attempt{
		Caller: ca.Caller{
			Identity: ca.Identity{
				Issuer: Issuer, Subject: subject, Kind: ca.Person, Email: subject + "@example.com",
				Groups: []string{"sre", "developers"}, Claims: map[string]any{"contractor": false, "level": int64(3)},
			},
			Token: ca.Token{Bound: true, AuthTime: now.Add(-time.Hour), IssuedAt: now.Add(-time.Minute), Expires: now.Add(time.Hour)},
		},
		Request: ca.Request{
			PublicKey: newKey(t), Login: "deploy", Host: "db1.prod.example.com", TTL: 2 * time.Hour, Reason: "ticket 4711",
			ClientTime: now, SourceIP: netip.MustParseAddr("192.0.2.7"),
		},
		Now:    now,
		Policy: f.Policy,
		Decision: ca.Decision{
			Outcome: ca.Allow, Rule: "sre-on-prod", Environment: ca.Environment{Name: "prod", Authority: "default"}, TTL: 2 * time.Hour,
		},
		Proven:    true,
		Authority: "default",
	}
	for _, b := range [][]byte{a.Caller.Token.Digest[:], a.Request.Nonce[:], a.Request.Digest[:]} {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// Build returns the func with which the core makes the certificate of a grant.
func (f *Fixture) Build(a *ca.Attempt) func(serial uint64) ([]byte, error) {
	return func(serial uint64) ([]byte, error) {
		if serial == 0 {
			return nil, errors.New("serial 0")
		}
		cert := &ssh.Certificate{
			Nonce: make([]byte, 32), Key: a.Request.PublicKey, Serial: serial, CertType: ssh.UserCert,
			KeyId: fmt.Sprintf("hallpass1 i=%d s=%s r=%s p=%.12s", serial-1, a.Caller.Identity.Subject, a.Decision.Rule, a.Policy.Revision), ValidPrincipals: []string{a.Request.Login},
			ValidAfter: uint64(a.Now.Unix()), ValidBefore: uint64(a.Now.Add(a.Decision.TTL).Unix()),
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}}, SignatureKey: f.Authority,
		}
		whole := cert.Marshal()
		return whole[:len(whole)-4], nil // without the length of the signature, which is 0
	}
}

// Record records an attempt as the core does.
func (f *Fixture) Record(t testing.TB, a *ca.Attempt) (uint64, error) {
	t.Helper()
	return f.Recorder.Record(t.Context(), a, f.Build(a))
}

func (f *Fixture) mustRecord(t testing.TB, a *ca.Attempt) uint64 {
	t.Helper()
	index, err := f.Record(t, a)
	if err != nil {
		t.Fatalf("record an attempt of %s: %v", a.Caller.Identity.Subject, err)
	}
	return index
}
