package conformance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hiddeco/sshsig"
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

// Ref, Declare and Decide make a core a hostile ca.Rules.
func (c *core) Ref() ca.PolicyRef                               { return ca.PolicyRef{Digest: [32]byte{1}} }
func (c *core) Declare(caller ca.Caller) (ca.Identity, error)   { return caller.Identity, nil }
func (c *core) Decide(context.Context, ca.Question) ca.Decision { return c.decision }

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
	if err := recorder.LoadPolicy(t.Context(), c.Ref(), "hostile", "start", "none", nil); err != nil {
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
	signature, err := sshsig.Sign(bytes.NewReader(random[:]), subject.signer, sshsig.HashSHA512, ca.RequestNamespace)
	if err != nil {
		t.Fatal(err)
	}
	return c.Issue(t.Context(), ca.Call{
		Token: "token", Signed: random[:], SSHSIG: signature.Marshal(), SourceIP: netip.MustParseAddr("127.0.0.1"),
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

// TestCoreRefuses asks the core for what a server would misread, by the cells that show how. The policy always says yes.
func TestCoreRefuses(t *testing.T) {
	t.Parallel()
	c := newCore(t, newKeys(t))
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, row := range []struct {
		id, name string
		key      string // "ed25519 user" if empty
		spoil    func(*core)
		kind     ca.Kind
		fragment string
	}{
		{id: "U03", name: "no login asked and none granted", spoil: func(c *core) { c.request.Login, c.decision.Grant.Logins = "", nil }, kind: ca.Invalid, fragment: "is not a login"},
		{id: "A11", name: "a login asked and none granted", spoil: func(c *core) { c.decision.Grant.Logins = nil }, kind: ca.Internal, fragment: "other logins"},
		{id: "U05", name: "a comma in the login", spoil: asking("deploy,root"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U05c", name: "a comma in the environment", spoil: func(c *core) {
			c.decision.Grant.Scope, c.decision.Environment.Name = ca.ScopeEnvironment, "prod,root"
		}, kind: ca.Internal, fragment: "would not be what was granted"},
		{id: "U06", name: "an empty login", spoil: asking(""), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U08", name: "a NUL in the login", spoil: asking("deploy\x00x"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U09", name: "a space after the login", spoil: asking("deploy "), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U10", name: "a line break after the login", spoil: asking("deploy\n"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U11b", name: "an invisible character in the login", spoil: asking("deploy\u200b"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U13", name: "a star for a login", spoil: asking("*"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U13c", name: "a star for an environment", spoil: func(c *core) {
			c.decision.Grant.Scope, c.decision.Environment.Name = ca.ScopeEnvironment, "*"
		}, kind: ca.Internal, fragment: "would not be what was granted"},
		{id: "U16", name: "a lifetime that is over", spoil: lasting(-time.Hour), kind: ca.Internal, fragment: "lifetime"},
		{id: "U17", name: "no lifetime", spoil: lasting(0), kind: ca.Internal, fragment: "lifetime"},
		{id: "U18", name: "the longest lifetime there is", spoil: lasting(time.Duration(math.MaxInt64).Truncate(time.Second)), kind: ca.Denied, fragment: "the longest, 24h0m0s"},
		{id: "U19", name: "a second more than a day", spoil: lasting(24*time.Hour + time.Second), kind: ca.Denied, fragment: "the longest, 24h0m0s"},
		{id: "U28", name: "an unknown option", spoil: extending("nobody-knows@example.com"), kind: ca.Internal, fragment: "the extension"},
		{id: "U30", name: "a forced command as an extension", spoil: extending("force-command"), kind: ca.Internal, fragment: "the extension"},
		{id: "U31", name: "source addresses as an extension", spoil: extending("source-address"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33", name: "an extension with data", spoil: extending("permit-pty=yes"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33b", name: "an extension with the bytes of an empty value", spoil: extending("permit-pty\x00\x00\x00\x04\x00\x00\x00\x00"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33c", name: "an extension twice", spoil: extending(ca.PermitPTY, ca.PermitPTY), kind: ca.Internal, fragment: "the extension"},
		{id: "U34b", name: "a forced command of blanks", spoil: func(c *core) { c.decision.Grant.ForceCommand = " " }, kind: ca.Internal, fragment: "forced command"},
		{id: "U38b", name: "an IPv4 network in IPv6", spoil: from(netip.MustParsePrefix("::ffff:127.0.0.0/104")), kind: ca.Internal, fragment: "source address"},
		{id: "U41", name: "a mask of 33 bits", spoil: from(netip.PrefixFrom(loopback, 33)), kind: ca.Internal, fragment: "source address"},
		{id: "U42", name: "host bits beyond the mask", spoil: from(netip.PrefixFrom(loopback, 8)), kind: ca.Internal, fragment: "source address"},
		{id: "U43", name: "an empty list of source addresses", spoil: from([]netip.Prefix{}...), kind: ca.Internal, fragment: "source addresses"},
		{id: "U50", name: "one bad source address among good ones", spoil: from(netip.PrefixFrom(loopback, 32), netip.PrefixFrom(loopback, 33)), kind: ca.Internal, fragment: "source address"},
		{id: "U51", name: "verify-required on a key that cannot", spoil: func(c *core) { c.decision.Grant.VerifyRequired = true }, kind: ca.Denied, fragment: "security key"},
		{id: "U60", name: "an RSA key of 1024 bits", key: "rsa1024 user", spoil: func(*core) {}, kind: ca.Invalid, fragment: "1024"},
		{id: "U64", name: "the CA key as the key to certify", key: "ed25519 ca", spoil: func(*core) {}, kind: ca.Denied, fragment: "CA key"},
	} {
		t.Run(row.id+"_"+strings.ReplaceAll(row.name, " ", "_"), func(t *testing.T) {
			if row.key == "" {
				row.key = "ed25519 user"
			}
			before, signed := c.records(t), c.signer.signed.Load()
			issued, err := c.ask(t, row.key, row.spoil)
			if err == nil || ca.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.fragment) {
				t.Errorf("got %v (%v), want %v: %q", err, ca.KindOf(err), row.kind, row.fragment)
			}
			if issued != nil && issued.Certificate != nil {
				t.Error("a certificate came out")
			}
			if got := c.signer.signed.Load(); got != signed {
				t.Errorf("%d signatures were made", got-signed)
			}
			news := c.records(t)[len(before):]
			if len(news) != 1 {
				t.Fatalf("%d records were written, want one", len(news))
			}
			if r := news[0]; r.Subject != "alice" || r.Refusal == nil || r.Refusal.Kind != row.kind || r.ToBeSigned != nil {
				t.Errorf("the record is of %q, refused %+v, with %d bytes to be signed", r.Subject, r.Refusal, len(r.ToBeSigned))
			}
		})
	}
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

// TestCoreIssuesOtherwise asks the core for properties that nobody can ask for: a certificate comes out, without them, and a
// real sshd takes it.
func TestCoreIssuesOtherwise(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	c := newCore(t, m.keys)
	s := sshd.Run(t, m.trusting())
	login := s.Accounts()[0]
	const forged = "Accepted publickey for root from 1.2.3.4 port 22 ssh2"
	for _, row := range []struct {
		id, name string
		spoil    func(*core)
		check    func(testing.TB, *ssh.Certificate, *sshd.Result)
	}{
		{"U01", "all is well", func(*core) {}, func(testing.TB, *ssh.Certificate, *sshd.Result) {}},
		{"U15", "257 logins are granted", func(c *core) {
			for i := range 256 {
				c.decision.Grant.Logins = append(c.decision.Grant.Logins, fmt.Sprintf("u%d", i))
			}
		}, func(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
			if !slices.Equal(cert.ValidPrincipals, []string{login}) {
				t.Errorf("its principals are %q, not the one login asked for", cert.ValidPrincipals)
			}
		}},
		{"U55", "a subject with a log line in it", func(c *core) { c.caller.Identity.Subject = "x\n" + forged + "\ny" }, func(t testing.TB, cert *ssh.Certificate, r *sshd.Result) {
			if slices.Contains(r.Log, forged) || !strings.Contains(cert.KeyId, "s=x%0AAccepted%20publickey") {
				t.Errorf("its key ID is %q, and sshd logged:\n%s", cert.KeyId, r.LogText())
			}
		}},
		{"P18", "a rule with a line break in it", func(c *core) { c.decision.Rule = "x\nsre" }, func(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
			if !strings.Contains(cert.KeyId, "r=x%0Asre") {
				t.Errorf("its key ID is %q", cert.KeyId)
			}
		}},
		{"U56", "a subject of 8k", func(c *core) { c.caller.Identity.Subject = strings.Repeat("k", 8<<10) }, shortKeyID},
		{"U57", "a subject of 60k of quotes", func(c *core) { c.caller.Identity.Subject = strings.Repeat(`"`, 60_000) }, shortKeyID},
	} {
		t.Run(row.id+"_"+strings.ReplaceAll(row.name, " ", "_"), func(t *testing.T) {
			issued, err := c.ask(t, "ed25519 user", func(c *core) {
				asking(login)(c)
				row.spoil(c)
			})
			if err != nil {
				t.Fatal(err)
			}
			cert, r := use(t, s, m.keys.get("ed25519 user"), issued.Certificate)
			if !r.Accepted || r.Stdout != "in\n" {
				t.Errorf("sshd did not take it:\n%s", r.LogText())
			}
			// U25, U26, U27 and U53: there is no way to ask for another type, nor for a serial.
			if cert.CertType != ssh.UserCert || cert.Serial != issued.Index+1 {
				t.Errorf("it is of type %d with serial %d, recorded at %d", cert.CertType, cert.Serial, issued.Index)
			}
			if window := cert.ValidBefore - cert.ValidAfter; window != uint64((time.Hour+time.Minute)/time.Second) {
				t.Errorf("it is valid for %d s, not for an hour and a minute of backdating", window)
			}
			row.check(t, cert, r)
		})
	}
}

func shortKeyID(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
	t.Helper()
	if len(cert.KeyId) > 256 || strings.ContainsFunc(cert.KeyId, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }) {
		t.Errorf("its key ID has %d bytes: %.300q", len(cert.KeyId), cert.KeyId)
	}
}

// use reads a certificate and logs in with it.
func use(t testing.TB, s *sshd.Server, key identity, wire []byte) (*ssh.Certificate, *sshd.Result) {
	t.Helper()
	public, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		t.Fatalf("got a %T, not a certificate", public)
	}
	path := filepath.Join(t.TempDir(), "cert.pub")
	line := cert.Type() + " " + base64.StdEncoding.EncodeToString(wire) + "\n"
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Login(t.Context(), sshd.Login{Key: key.path, Certificate: path, Command: "echo in"})
	if err != nil {
		t.Fatal(err)
	}
	return cert, r
}
