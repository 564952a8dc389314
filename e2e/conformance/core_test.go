package conformance_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// core is a CA that writes into a real log and signs with a key in an agent, under a policy that grants whatever a test makes it
// grant, for callers who ask for whatever a test makes them ask.
type core struct {
	*ca.CA
	keys   *keys
	log    store.Store
	signer *countingAgent
	// caller, request and decision are those of the next call.
	caller   ca.Caller
	request  ca.Request
	decision ca.Decision
}

// countingAgent counts the signatures that it makes.
type countingAgent struct {
	agent.Agent
	signed atomic.Int64
}

func (a *countingAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	a.signed.Add(1)
	return a.Agent.Sign(key, data)
}

// Ref, Declare, Decide, Reviews and Review make a core a hostile ca.Rules.
func (c *core) Ref() ca.PolicyRef                               { return ca.PolicyRef{Digest: [32]byte{1}} }
func (c *core) Declare(caller ca.Caller) (ca.Identity, error)   { return caller.Identity, nil }
func (c *core) Decide(context.Context, ca.Question) ca.Decision { return c.decision }
func (c *core) Reviews() (ca.Wants, bool)                       { return ca.Wants{}, false }
func (c *core) Review(context.Context, ca.Settled) ca.Review    { return ca.Review{} }

func newCore(t testing.TB, k *keys) *core {
	t.Helper()
	c := &core{keys: k, signer: &countingAgent{Agent: agent.NewKeyring()}}
	logKey, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Create(filepath.Join(t.TempDir(), "log.db"), bolt.Config{LogKey: logKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	recorder := store.NewRecorder(log)
	authority := c.authority(t)
	if err := recorder.ListAuthorityKey(t.Context(), authority.Name, authority.PublicKey.Marshal(), "agent"); err != nil {
		t.Fatal(err)
	}
	if err := recorder.LoadPolicy(t.Context(), store.PolicyLoad{Policy: c.Ref(), Source: "hostile", Cause: "start", Engine: "none"}); err != nil {
		t.Fatal(err)
	}
	c.log = log
	c.CA, err = ca.New(ca.CA{
		Authenticate:    func(context.Context, string, time.Time) (ca.Caller, error) { return c.caller, nil },
		Parse:           func([]byte) (ca.Request, error) { return c.request, nil },
		ParsePossession: func([]byte) (ca.Possession, error) { return ca.Possession{}, errors.New("nobody asks") },
		Rules:           func() ca.Rules { return c },
		Log:             recorder,
		Authorities:     map[string]*ca.Authority{authority.Name: authority},
		ServerNames:     []string{"ca.example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// authority puts the CA key into the agent.
func (c *core) authority(t testing.TB) *ca.Authority {
	t.Helper()
	private, err := os.ReadFile(c.keys.get("ed25519 ca").path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ssh.ParseRawPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.signer.Add(agent.AddedKey{PrivateKey: raw}); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "ca.pub")
	if err := os.WriteFile(public, ssh.MarshalAuthorizedKey(c.keys.get("ed25519 ca").public), 0o600); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.OpenAgent("default", serveAgent(t, c.signer), public)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

// ask sets up a caller, a request and a decision with which all is well, then spoils them, and asks for a certificate.
func (c *core) ask(t testing.TB, key string, spoil func(*core)) (*ca.Issued, error) {
	t.Helper()
	subject := c.keys.get(key)
	var random [48]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.caller = ca.Caller{
		Identity: ca.Identity{Issuer: "https://idp.example.com", Subject: "alice", Kind: ca.Person},
		Token:    ca.Token{Digest: sha256.Sum256(random[16:]), IssuedAt: now, Expires: now.Add(time.Hour)},
	}
	c.request = ca.Request{
		PublicKey: subject.public, Login: "deploy", Host: "db1.prod.example.com", ClientTime: now,
		Nonce: [16]byte(random[:16]), ServerName: "ca.example.com",
	}
	c.decision = ca.Decision{
		Outcome: ca.Allow, Rule: "hostile", Environment: ca.Environment{Name: "prod", Authority: "default"}, TTL: time.Hour,
		Grant: ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: time.Hour, Extensions: []ca.Extension{ca.PermitPTY}},
		Limits: ca.Limits{MaxTTL: time.Hour, Keys: []ca.KeyRule{
			{Type: "ed25519"}, {Type: "sk-ed25519"}, {Type: "ecdsa"}, {Type: "sk-ecdsa"}, {Type: "rsa"},
		}},
	}
	spoil(c)
	return c.Issue(t.Context(), ca.Call{
		Token: "token", Signed: random[:], SSHSIG: subject.prove(t, random[:]), SourceIP: netip.MustParseAddr("127.0.0.1"),
	})
}

// asking makes the request and the grant agree on a login.
func asking(login string) func(*core) {
	return func(c *core) { c.request.Login, c.decision.Grant.Logins = login, []string{login} }
}

// lasting makes every ceiling and the grant agree on a lifetime.
func lasting(ttl time.Duration) func(*core) {
	return func(c *core) { c.decision.TTL, c.decision.Grant.TTL, c.decision.Limits.MaxTTL = ttl, ttl, ttl }
}

func extending(extensions ...ca.Extension) func(*core) {
	return func(c *core) { c.decision.Grant.Extensions = extensions }
}

func from(prefixes ...netip.Prefix) func(*core) {
	return func(c *core) { c.decision.Grant.SourceAddresses = prefixes }
}

// records returns what the log says of all attempts.
func (c *core) records(t testing.TB) []*ca.Recorded {
	t.Helper()
	size, err := c.log.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.log.Records(t.Context(), 0, int(size))
	if err != nil || len(raw) != int(size) {
		t.Fatalf("read %d of %d records: %v", len(raw), size, err)
	}
	var attempts []*ca.Recorded
	for _, bytes := range raw {
		r, err := audit.Parse(bytes)
		if err != nil {
			t.Fatal(err)
		}
		if r.GetDecided() != nil {
			attempts = append(attempts, audit.Recorded(r))
		}
	}
	return attempts
}
