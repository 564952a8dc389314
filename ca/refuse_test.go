package ca_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestBadRequestsAreRefusedAndRecorded(t *testing.T) {
	type request = pb.CertificateRequest
	for _, row := range []struct {
		name     string
		change   func(*request)
		kind     ca.Kind
		fragment string
	}{
		{"r01 no login", func(r *request) { r.Login = "" }, ca.Invalid, "not a login"},
		{"r05 two logins in one", func(r *request) { r.Login = "deploy,root" }, ca.Invalid, "not a login"},
		{"r06 a login with a blank after it", func(r *request) { r.Login = "deploy " }, ca.Invalid, "not a login"},
		{"r07 a login with a line break after it", func(r *request) { r.Login = "deploy\n" }, ca.Invalid, "not a login"},
		{"r07 a login with a NUL", func(r *request) { r.Login = "deploy\x00" }, ca.Invalid, "not a login"},
		{"r08 a login that is an option of ssh", func(r *request) { r.Login = "-oProxyCommand=x" }, ca.Invalid, "not a login"},
		{"r09 a login in capitals", func(r *request) { r.Login = "Deploy" }, ca.Invalid, "not a login"},
		{"r10 a login of 33 characters", func(r *request) { r.Login = strings.Repeat("a", 33) }, ca.Invalid, "not a login"},
		{"r12 a login that is a principal", func(r *request) { r.Login = "deploy@prod" }, ca.Invalid, "not a login"},
		{"r12 a login that is a pattern", func(r *request) { r.Login = "*" }, ca.Invalid, "not a login"},
		{"r13 a login with a zero-width space", func(r *request) { r.Login = "dep\u200bloy" }, ca.Invalid, "not a login"},
		{"r14 a login with a Cyrillic letter", func(r *request) { r.Login = "dеploy" }, ca.Invalid, "not a login"},
		{"r16 a negative lifetime", func(r *request) { r.Ttl = seconds(-1) }, ca.Invalid, "lifetime"},
		{"r16 a lifetime of half a second", func(r *request) { r.Ttl = &durationpb.Duration{Nanos: 5e8} }, ca.Invalid, "lifetime"},
		{"r17 the longest lifetime there is", func(r *request) { r.Ttl = seconds(1<<63 - 1) }, ca.Invalid, "lifetime"},
		{"r19 a lifetime above that of the rule", func(r *request) { r.Ttl = seconds(2*3600 + 1) }, ca.Denied, "2h0m0s"},
		{"r24 a reason of 501 characters", func(r *request) { r.Reason = strings.Repeat("ü", 501) }, ca.Invalid, "500"},
		{"r24 a reason of 1 MiB", func(r *request) { r.Reason = strings.Repeat("a", 1<<20) }, ca.Exhausted, "too large"},
		{"r25 a reason of two lines", func(r *request) { r.Reason = "a\nb" }, ca.Invalid, "one line"},
		{"r25 a reason with a terminal escape", func(r *request) { r.Reason = "\x1b[2J" }, ca.Invalid, "one line"},
		{"r25 a reason that is shown backwards", func(r *request) { r.Reason = "\u202egnp.exe" }, ca.Invalid, "one line"},
		{"r29 no host", func(r *request) { r.Host = "" }, ca.Invalid, "a host has"},
		{"r29 a host that is only a dot", func(r *request) { r.Host = "." }, ca.Invalid, "a host has"},
		{"r29 a host with two dots after it", func(r *request) { r.Host = "db1.." }, ca.Invalid, "not a host"},
		{"r29 a host with an empty label", func(r *request) { r.Host = "db1..example.com" }, ca.Invalid, "not a host"},
		{"r29 a host with a port", func(r *request) { r.Host = "db1:22" }, ca.Invalid, "not a host"},
		{"r29 a host that is a pattern", func(r *request) { r.Host = "*.example.com" }, ca.Invalid, "not a host"},
		{"r29 a host that is an option", func(r *request) { r.Host = "-oProxyCommand=x" }, ca.Invalid, "not a host"},
		{"r29 a host with a comma", func(r *request) { r.Host = "db1,db2" }, ca.Invalid, "not a host"},
		{"r29 a host with the Kelvin sign", func(r *request) { r.Host = "\u212a1.example.com" }, ca.Invalid, "not a host"},
		{"r29 a host of 254 characters", func(r *request) { r.Host = strings.Repeat("a.", 126) + "aa" }, ca.Invalid, "a host has"},
		{"r29 a label of 64 characters", func(r *request) { r.Host = strings.Repeat("a", 64) }, ca.Invalid, "not a host"},
		{"r29 an address in short", func(r *request) { r.Host = "127.1" }, ca.Invalid, "neither"},
		{"r29 an address in octal", func(r *request) { r.Host = "0177.0.0.1" }, ca.Invalid, "neither"},
		{"r29 an address in hexadecimal", func(r *request) { r.Host = "0x7f000001" }, ca.Invalid, "neither"},
		{"r32 a rule that is none", func(r *request) { r.Rule = "a b" }, ca.Invalid, "name of a rule"},
		{"r34 no nonce", func(r *request) { r.Nonce = nil }, ca.Invalid, "nonce"},
		{"r35 a clock that is behind", func(r *request) { r.ClientTime = before(r.ClientTime, 301*time.Second) }, ca.Invalid, "5m1s behind"},
		{"r35 a clock that is ahead", func(r *request) { r.ClientTime = before(r.ClientTime, -301*time.Second) }, ca.Invalid, "5m1s ahead"},
		{"r35 a clock that was never set", func(r *request) { r.ClientTime = &timestamppb.Timestamp{} }, ca.Invalid, "behind"},
		{"r35 a clock at the end of time", func(r *request) { r.ClientTime = &timestamppb.Timestamp{Seconds: 1 << 40} }, ca.Invalid, "ahead"},
		{"r36 made for another server", func(r *request) { r.ServerName = "evil.example.com" }, ca.Unauthenticated, "evil.example.com"},
		{"r36 made for no server", func(r *request) { r.ServerName = "" }, ca.Unauthenticated, "made for the server"},
		{"r37 half of the bytes behind the nonce", func(r *request) { r.TokenNonce = r.TokenNonce[:16] }, ca.Invalid, "16 random bytes"},
		{"r37 without the bytes behind the nonce", func(r *request) { r.TokenNonce = nil }, ca.Unauthenticated, "bound to another key"},
		{"r37 other bytes behind the nonce", func(r *request) { r.TokenNonce = bytes.Repeat([]byte{1}, 32) }, ca.Unauthenticated, "bound to another key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			s.refused(s.ask(row.change), row.kind, row.fragment, 1)
			if r := s.log.last(); r.attempt.Caller.Identity.Subject != "alice" {
				t.Errorf("recorded %+v", r.attempt)
			} else if r.proven && row.kind != ca.Denied {
				t.Error("recorded as proven")
			}
		})
	}
}

func before(t *timestamppb.Timestamp, d time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(t.AsTime().Add(-d))
}

func TestProofOfPossession(t *testing.T) {
	for _, row := range []struct {
		name     string
		change   func(s *stand, c *ca.Call)
		kind     ca.Kind
		fragment string
	}{
		{"r34 no signature", func(_ *stand, c *ca.Call) { c.SSHSIG = nil }, ca.Unauthenticated, "not signed"},
		{"r34 no request", func(_ *stand, c *ca.Call) { c.Signed = nil }, ca.Unauthenticated, "not signed"},
		{"r34 bytes that are no signature", func(_ *stand, c *ca.Call) { c.SSHSIG = []byte("SSHSIG") }, ca.Unauthenticated, "not an SSHSIG"},
		{"r34 an armored signature", func(_ *stand, c *ca.Call) { c.SSHSIG = []byte("-----BEGIN SSH SIGNATURE-----") }, ca.Unauthenticated, "not an SSHSIG"},
		{"r34 a signature cut short", func(_ *stand, c *ca.Call) { c.SSHSIG = c.SSHSIG[:len(c.SSHSIG)-1] }, ca.Unauthenticated, "cannot be read"},
		{"r34 a byte after the signature", func(_ *stand, c *ca.Call) { c.SSHSIG = append(c.SSHSIG, 0) }, ca.Unauthenticated, "cannot be read"},
		{"r34 a signature with one bit changed", func(_ *stand, c *ca.Call) { c.SSHSIG = flip(c.SSHSIG, len(c.SSHSIG)-1) }, ca.Unauthenticated, "does not verify"},
		{"r34 a request with one bit changed", func(_ *stand, c *ca.Call) { c.Signed = flip(c.Signed, 8) }, ca.Unauthenticated, "does not verify"},
		{"r34 a signature of another version", func(_ *stand, c *ca.Call) { c.SSHSIG = flip(c.SSHSIG, 9) }, ca.Unauthenticated, "not an SSHSIG"},
		{"r34 a signature of 1 MiB", func(_ *stand, c *ca.Call) { c.SSHSIG = make([]byte, 1<<20) }, ca.Exhausted, "too large"},
		{"r34 a signature made for git", func(s *stand, c *ca.Call) { c.SSHSIG = signSSHSIG(s.t, c.Signed, newSigner(s.t), "git") }, ca.Unauthenticated, "does not verify"},
		{"r34 a signature made for another method", func(s *stand, c *ca.Call) {
			c.SSHSIG = signSSHSIG(s.t, c.Signed, newSigner(s.t), ca.CallNamespace)
		}, ca.Unauthenticated, "does not verify"},
		{"r34 a signature by another key", func(s *stand, c *ca.Call) {
			c.SSHSIG = signSSHSIG(s.t, c.Signed, newSigner(s.t), ca.RequestNamespace)
		}, ca.Unauthenticated, "signed by another key"},
		{"k36 a signature by a certificate", func(s *stand, c *ca.Call) {
			_, issued := s.issued(s.ask())
			c.SSHSIG = append([]byte("SSHSIG\x00\x00\x00\x01"), wire(issued.Certificate, []byte(ca.RequestNamespace), nil, []byte("sha512"), nil)...)
		}, ca.Invalid, "is a certificate"},
		{"k11 a signature by a key that is too short", func(s *stand, c *ca.Call) {
			key := rsaWire(65537, modulus(s.t, 1024))
			c.SSHSIG = append([]byte("SSHSIG\x00\x00\x00\x01"), wire(key, []byte(ca.RequestNamespace), nil, []byte("sha512"), nil)...)
		}, ca.Invalid, "1024 bits"},
		{"r34 signed bytes that are no request", func(s *stand, c *ca.Call) {
			c.Signed = []byte{0xff}
			c.SSHSIG = signSSHSIG(s.t, c.Signed, newSigner(s.t), ca.RequestNamespace)
		}, ca.Invalid, "not a request"},
		{"k37 the CA key", func(s *stand, c *ca.Call) {
			key := s.signer.signer
			token, random := s.person("alice", key.PublicKey())
			*c = call(s.t, token, s.request(key.PublicKey(), random), key, ca.RequestNamespace)
		}, ca.Denied, "never certified"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			c := s.ask()
			row.change(s, &c)
			s.refused(c, row.kind, row.fragment, 1)
			if s.log.last().proven {
				t.Error("recorded as proven")
			}
		})
	}
}

func TestStrangersAreCountedAndNotRecorded(t *testing.T) {
	s := newStand(t)
	c := s.ask()
	c.Token = "forged"
	s.refused(c, ca.Unauthenticated, "does not verify", 0)
	if got := s.strangers.Load(); got != 1 {
		t.Errorf("%d strangers were counted", got)
	}
}

func TestAKnownIdentityThatIsRefusedIsRecorded(t *testing.T) {
	s := newStand(t)
	c := s.ask()
	c.Token = s.token(identify("mallory", ca.Person), ca.Errorf(ca.Denied, "the email address is not verified"))
	s.refused(c, ca.Denied, "email", 1)
	if s.strangers.Load() != 0 {
		t.Error("counted as a stranger")
	}
	for _, nobody := range []ca.Caller{{}, identify("", ca.Person), identify("robot", 0), identify("robot", 3)} {
		c.Token = s.token(nobody, nil)
		s.refused(c, ca.Internal, "neither", 0)
	}
}

func TestRateLimitedCallsAreNotRecorded(t *testing.T) {
	s := newStand(t, func(c *ca.CA) {
		c.Admit = func(who ca.Caller, from netip.Addr) error {
			return ca.Errorf(ca.Exhausted, "%s from %v: too often", who.Identity.Subject, from)
		}
	})
	c := s.ask()
	c.SourceIP = netip.MustParseAddr("192.0.2.1")
	s.refused(c, ca.Exhausted, "alice from 192.0.2.1: too often", 0)
}

func TestPolicyRefusals(t *testing.T) {
	for _, row := range []struct {
		name     string
		rules    *rules
		kind     ca.Kind
		fragment string
	}{
		{"denied, with the rule's message", &rules{decide: func(ca.Question) ca.Decision {
			return ca.Decision{Outcome: ca.Deny, Rule: "change-freeze", Message: "Production is frozen."}
		}}, ca.Denied, "Production is frozen."},
		{"denied, without a message", &rules{decide: func(ca.Question) ca.Decision { return ca.Decision{Outcome: ca.Deny} }}, ca.Denied, "no rule"},
		{"needs a reason", &rules{decide: func(ca.Question) ca.Decision {
			return ca.Decision{Outcome: ca.NeedsMore, Message: "a reason is needed", Needs: []ca.Need{{Kind: ca.NeedReason}}}
		}}, ca.Needs, "a reason is needed"},
		{"no outcome", &rules{decide: func(ca.Question) ca.Decision { return ca.Decision{} }}, ca.Internal, "no known outcome"},
		{"an outcome of tomorrow", &rules{decide: func(ca.Question) ca.Decision { return ca.Decision{Outcome: 99} }}, ca.Internal, "no known outcome"},
		{"a claim of the wrong type", &rules{declare: func(ca.Caller) (ca.Identity, error) {
			return ca.Identity{}, ca.Errorf(ca.Denied, "claim level is not an int")
		}}, ca.Denied, "claim level"},
		{"an error that nobody classified", &rules{declare: func(ca.Caller) (ca.Identity, error) {
			return ca.Identity{}, errors.New("broken")
		}}, ca.Internal, "broken"},
		{"a panic in the rules", &rules{decide: func(ca.Question) ca.Decision { panic("boom") }}, ca.Internal, "boom"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			s.setRules(row.rules)
			s.refused(s.ask(), row.kind, row.fragment, 1)
			if r := s.log.last(); !r.proven || r.attempt.Policy.Revision == "" {
				t.Errorf("recorded %+v", r.attempt)
			}
		})
	}
}

func TestWithoutAPolicyNothingIsIssued(t *testing.T) {
	s := newStand(t, func(c *ca.CA) { c.Rules = func() ca.Rules { return nil } })
	s.refused(s.ask(), ca.Unavailable, "no policy", 1)
}

func TestAPolicyCannotChangeWhoCalls(t *testing.T) {
	s := newStand(t)
	s.setRules(&rules{
		declare: func(c ca.Caller) (ca.Identity, error) {
			return ca.Identity{Issuer: "https://evil.example.com", Subject: "root", Kind: ca.Workload, Groups: c.Identity.Groups}, nil
		},
		decide: func(q ca.Question) ca.Decision {
			return ca.Decision{Outcome: ca.Deny, Message: q.Identity.Subject + " " + q.Identity.Kind.String()}
		},
	})
	s.refused(s.ask(), ca.Denied, "alice person", 1)
	if got := s.log.last().attempt.Caller.Identity.Issuer; got != "https://idp.example.com" {
		t.Errorf("recorded issuer %q", got)
	}
}

func TestAPanicInAuthenticationIssuesNothing(t *testing.T) {
	s := newStand(t, func(c *ca.CA) {
		c.Authenticate = func(context.Context, string, time.Time) (ca.Caller, error) { panic("boom") }
	})
	s.refused(s.ask(), ca.Internal, "boom", 0)
}
