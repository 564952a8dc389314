package ca_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestTokenNonceIsAsSpecified(t *testing.T) {
	random, key := bytes.Repeat([]byte{7}, 32), []byte("key")
	sum := sha256.Sum256(append(append([]byte("hallpass nonce v1\x00"), random...), key...))
	if got, want := ca.TokenNonce(random, key), base64.RawURLEncoding.EncodeToString(sum[:]); got != want {
		t.Errorf("TokenNonce = %q, want %q", got, want)
	}
}

func TestAStolenTokenIsWorthNothing(t *testing.T) {
	refreshed := func(s *stand, kind ca.CallerKind) string { return s.token(identify("alice", kind), nil) }
	for _, row := range []struct {
		name     string
		fragment string
		// steal returns the token that a thief uses with a key of its own, after the owner used what it used.
		steal func(s *stand, owner ssh.Signer) string
	}{
		{"of the code flow, before its first use", "bound to another key", func(s *stand, owner ssh.Signer) string {
			token, _ := s.person("alice", owner.PublicKey())
			return token
		}},
		{"refreshed, before its first use", "this sign-in is bound to another key", func(s *stand, owner ssh.Signer) string {
			token, random := s.person("alice", owner.PublicKey())
			s.issued(call(s.t, token, s.request(owner.PublicKey(), random), owner, ca.RequestNamespace))
			return refreshed(s, ca.Person)
		}},
		{"of a device login, after its first use", "first used with another key", func(s *stand, owner ssh.Signer) string {
			token := refreshed(s, ca.Person)
			s.issued(call(s.t, token, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace))
			return token
		}},
		{"of a workload, after its use", "serves once", func(s *stand, owner ssh.Signer) string {
			token := refreshed(s, ca.Workload)
			s.issued(call(s.t, token, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace))
			return token
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			token, thief := row.steal(s, newSigner(t)), newSigner(t)
			s.refused(call(t, token, s.request(thief.PublicKey(), nil), thief, ca.RequestNamespace), ca.Unauthenticated, row.fragment, 1)
			if last := s.log.last(); last.proven || last.attempt.Caller.Token.Bound {
				t.Errorf("recorded as proven: %+v", last.attempt)
			}
		})
	}
}

func TestARefreshedTokenOfABoundSignInIsBound(t *testing.T) {
	s, owner := newStand(t), newSigner(t)
	token, random := s.person("alice", owner.PublicKey())
	s.issued(call(t, token, s.request(owner.PublicKey(), random), owner, ca.RequestNamespace))
	for range 2 {
		token = s.token(identify("alice", ca.Person), nil)
		s.issued(call(t, token, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace))
		if !s.log.last().attempt.Caller.Token.Bound {
			t.Error("not recorded as bound")
		}
	}
}

func TestTheFirstCallOfASignInBindsItsRefreshedTokens(t *testing.T) {
	const method = "/hallpass.v1.CertificateService/ListEnvironments"
	s, owner, thief := newStand(t), newSigner(t), newSigner(t)
	token, random := s.person("alice", owner.PublicKey())
	p := &pb.Possession{PublicKey: owner.PublicKey().Marshal(), Method: method, ClientTime: timestamppb.New(s.now), ServerName: serverName, TokenNonce: random}
	for range 2 {
		if _, err := s.Possession(t.Context(), call(t, token, p, owner, ca.CallNamespace), method); err != nil {
			t.Fatal(err)
		}
	}
	refreshed := s.token(identify("alice", ca.Person), nil)
	s.refused(call(t, refreshed, s.request(thief.PublicKey(), nil), thief, ca.RequestNamespace), ca.Unauthenticated, "this sign-in is bound to another key", 1)
	s.issued(call(t, refreshed, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace))
	if !s.log.last().attempt.Caller.Token.Bound {
		t.Error("the refreshed token of the owner is not recorded as bound")
	}
}

func TestABoundTokenServesItsKeyAgain(t *testing.T) {
	s, owner := newStand(t), newSigner(t)
	token, random := s.person("alice", owner.PublicKey())
	serials := map[uint64]bool{}
	for range 3 {
		_, issued := s.issued(call(t, token, s.request(owner.PublicKey(), random), owner, ca.RequestNamespace))
		serials[issued.Serial] = true
	}
	if len(serials) != 3 {
		t.Errorf("serials %v for three requests", serials)
	}
}

func TestAWorkloadTokenServesOnce(t *testing.T) {
	s, owner := newStand(t), newSigner(t)
	token := s.token(identify("ci", ca.Workload), nil)
	s.issued(call(t, token, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace))
	if s.log.last().attempt.Caller.Token.Bound {
		t.Error("recorded as bound")
	}
	s.refused(call(t, token, s.request(owner.PublicKey(), nil), owner, ca.RequestNamespace), ca.Unauthenticated, "serves once", 1)
}

// However many keys race for a token that is not bound, one of them gets it.
func TestOneKeyGetsATokenThatIsNotBound(t *testing.T) {
	for _, kind := range []ca.CallerKind{ca.Person, ca.Workload} {
		s := newStand(t)
		token := s.token(identify("alice", kind), nil)
		var wg sync.WaitGroup
		var won atomic.Int64
		for range 16 {
			signer := newSigner(t)
			c := call(t, token, s.request(signer.PublicKey(), nil), signer, ca.RequestNamespace)
			wg.Go(func() {
				issued, err := s.Issue(t.Context(), c)
				if issued != nil {
					won.Add(1)
				} else if ca.KindOf(err) != ca.Unauthenticated {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || s.signer.signed.Load() != 1 || s.log.size() != 16 {
			t.Errorf("%v: %d keys got a certificate, %d signatures, %d records", kind, won.Load(), s.signer.signed.Load(), s.log.size())
		}
	}
}

// softSK signs as a security key does (PROTOCOL.u2f).
type softSK struct {
	private ed25519.PrivateKey
	flags   byte
}

func (k *softSK) PublicKey() ssh.PublicKey {
	public, ok := k.private.Public().(ed25519.PublicKey)
	if !ok {
		panic("not an Ed25519 key")
	}
	key, err := ssh.ParsePublicKey(wire([]byte(ssh.KeyAlgoSKED25519), public, []byte("ssh:")))
	if err != nil {
		panic(err)
	}
	return key
}

func (k *softSK) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	application, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := []byte{k.flags, 0, 0, 0, 9}
	signed := append(append(application[:], rest...), message[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.private, signed), Rest: rest}, nil
}

func TestSecurityKeysMustBeTouched(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t)
	s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeHost, TTL: time.Hour, VerifyRequired: true})})
	const touched, verified = 1, 4

	untouched := &softSK{private, 0}
	token, random := s.person("alice", untouched.PublicKey())
	s.refused(call(t, token, s.request(untouched.PublicKey(), random), untouched, ca.RequestNamespace), ca.Unauthenticated, "does not verify", 1)

	key := &softSK{private, touched | verified}
	cert, _ := s.issued(call(t, token, s.request(key.PublicKey(), random), key, ca.RequestNamespace))
	if _, ok := cert.CriticalOptions["verify-required"]; !ok || cert.ValidPrincipals[0] != "deploy@db1.prod.example.com" {
		t.Errorf("options %v principals %v", cert.CriticalOptions, cert.ValidPrincipals)
	}
}

func TestPossession(t *testing.T) {
	const method = "/hallpass.v1.AuditService/ListRecords"
	for _, row := range []struct {
		name     string
		change   func(s *stand, c *ca.Call, p *pb.Possession)
		kind     ca.Kind
		fragment string
	}{
		{"of the bound key", nil, 0, ""},
		{"for another method", func(_ *stand, _ *ca.Call, p *pb.Possession) { p.Method = "/hallpass.v1.AuditService/GetRecord" }, ca.Unauthenticated, "was made for"},
		{"for another server", func(_ *stand, _ *ca.Call, p *pb.Possession) { p.ServerName = "evil" }, ca.Unauthenticated, "made for the server"},
		{"of yesterday", func(_ *stand, _ *ca.Call, p *pb.Possession) { p.ClientTime = before(p.ClientTime, 24*time.Hour) }, ca.Invalid, "24h0m0s behind"},
		{"without the bytes behind the nonce", func(_ *stand, _ *ca.Call, p *pb.Possession) { p.TokenNonce = nil }, ca.Unauthenticated, "bound to another key"},
		{"of a key that is not named", func(s *stand, _ *ca.Call, p *pb.Possession) { p.PublicKey = newSigner(s.t).PublicKey().Marshal() }, ca.Unauthenticated, "another key"},
		{"with a refreshed token and a key that it is not bound to", func(s *stand, c *ca.Call, p *pb.Possession) {
			s.issued(s.ask())
			c.Token, p.TokenNonce = s.token(identify("alice", ca.Person), nil), nil
		}, ca.Unauthenticated, "this sign-in is bound to another key"},
		{"with a token that nobody is bound to", func(s *stand, c *ca.Call, p *pb.Possession) {
			c.Token, p.TokenNonce = s.token(identify("bob", ca.Person), nil), nil
		}, 0, ""},
		{"with the token of a device login that another key used", func(s *stand, c *ca.Call, p *pb.Possession) {
			first := newSigner(s.t)
			c.Token, p.TokenNonce = s.token(identify("bob", ca.Person), nil), nil
			s.issued(call(s.t, c.Token, s.request(first.PublicKey(), nil), first, ca.RequestNamespace))
		}, ca.Unauthenticated, "first used with another key"},
		{"with the token of a workload that another key used", func(s *stand, c *ca.Call, p *pb.Possession) {
			first := newSigner(s.t)
			c.Token, p.TokenNonce = s.token(identify("ci", ca.Workload), nil), nil
			s.issued(call(s.t, c.Token, s.request(first.PublicKey(), nil), first, ca.RequestNamespace))
		}, ca.Unauthenticated, "serves once"},
		{"with a forged token", func(_ *stand, c *ca.Call, _ *pb.Possession) { c.Token = "forged" }, ca.Unauthenticated, "does not verify"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, signer := newStand(t), newSigner(t)
			token, random := s.person("alice", signer.PublicKey())
			c := ca.Call{Token: token}
			p := &pb.Possession{PublicKey: signer.PublicKey().Marshal(), Method: method, ClientTime: timestamppb.New(s.now), ServerName: serverName, TokenNonce: random}
			if row.change != nil {
				row.change(s, &c, p)
			}
			size := s.log.size()
			who, err := s.Possession(t.Context(), call(t, c.Token, p, signer, ca.CallNamespace), method)
			if s.log.size() != size {
				t.Error("a proof of possession was recorded")
			}
			if row.fragment != "" {
				wantError(t, err, row.kind, row.fragment)
				if known := c.Token != "forged"; (who.Identity.Subject != "") != known {
					t.Errorf("the refused caller is %q", who.Identity.Subject)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if bound := who.Token.Nonce != ""; who.Token.Bound != bound {
				t.Errorf("bound %v, want %v", who.Token.Bound, bound)
			}
		})
	}
	t.Run("signed as a request for a certificate", func(t *testing.T) {
		s := newStand(t)
		_, err := s.Possession(t.Context(), s.ask(), method)
		wantError(t, err, ca.Unauthenticated, "does not verify")
	})
}

func TestBindingFailsClosedWithoutTheLog(t *testing.T) {
	s, signer := newStand(t), newSigner(t)
	s.log.readError = errors.New("disk on fire")
	token := s.token(identify("alice", ca.Person), nil)
	s.refused(call(t, token, s.request(signer.PublicKey(), nil), signer, ca.RequestNamespace), ca.Unavailable, "nothing was issued", 0)
}
