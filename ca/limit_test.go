package ca_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

// A policy with a bug: whatever it says, nothing beyond the limits is signed.
func TestTheCoreHoldsGrantsAgainstTheLimitsAgain(t *testing.T) {
	for _, row := range []struct {
		name     string
		bug      func(*ca.Decision)
		kind     ca.Kind
		fragment string
	}{
		{"no rule", func(d *ca.Decision) { d.Rule = "" }, ca.Internal, "without a rule"},
		{"no environment", func(d *ca.Decision) { d.Environment.Name = "" }, ca.Internal, "without a rule or an environment"},
		{"an Authority that is not there", func(d *ca.Decision) { d.Environment.Authority = "prod" }, ca.Internal, "no CA key"},
		{"no Authority", func(d *ca.Decision) { d.Environment.Authority = "" }, ca.Internal, "no CA key"},
		{"other logins", func(d *ca.Decision) { d.Grant.Logins = []string{"readonly"} }, ca.Internal, "other logins"},
		{"no logins", func(d *ca.Decision) { d.Grant.Logins = nil }, ca.Internal, "other logins"},
		{"logins in one string", func(d *ca.Decision) { d.Grant.Logins = []string{"readonly,deploy"} }, ca.Internal, "other logins"},
		{"a login that is never certified", func(d *ca.Decision) { d.Limits.NeverLogins = []string{"deploy"} }, ca.Denied, "never certified"},
		{"no keys", func(d *ca.Decision) { d.Limits.Keys = nil }, ca.Denied, "keys of type ed25519"},
		{"other keys", func(d *ca.Decision) { d.Limits.Keys = []ca.KeyRule{{Type: "sk-ed25519"}, {Type: ""}} }, ca.Denied, "keys of type ed25519"},
		{"no lifetime", func(d *ca.Decision) { d.TTL = 0 }, ca.Internal, "lifetime"},
		{"a negative lifetime", func(d *ca.Decision) { d.TTL = -time.Hour }, ca.Internal, "lifetime"},
		{"half a second", func(d *ca.Decision) { d.TTL = time.Hour + time.Second/2 }, ca.Internal, "lifetime"},
		{"a rule without a ceiling", func(d *ca.Decision) { d.Grant.TTL = 0 }, ca.Internal, "ceiling"},
		{"a policy without a ceiling", func(d *ca.Decision) { d.Limits.MaxTTL = 0 }, ca.Internal, "ceiling"},
		{"longer than the rule by a second", func(d *ca.Decision) { d.TTL += time.Second }, ca.Denied, "the longest, 2h0m0s"},
		{"longer than the environment", func(d *ca.Decision) { d.Environment.MaxTTL = time.Hour }, ca.Denied, "the longest, 1h0m0s"},
		{"longer than the policy", func(d *ca.Decision) { d.Limits.MaxTTL = time.Hour }, ca.Denied, "the longest, 1h0m0s"},
		{"longer than the cap of the CA", func(d *ca.Decision) { d.TTL, d.Grant.TTL, d.Limits.MaxTTL = 25*time.Hour, 25*time.Hour, 25*time.Hour }, ca.Denied, "the longest, 24h0m0s"},
		{"no scope", func(d *ca.Decision) { d.Grant.Scope = 0 }, ca.Internal, "unknown scope"},
		{"a scope of tomorrow", func(d *ca.Decision) { d.Grant.Scope = 9 }, ca.Internal, "unknown scope"},
		{"an environment that is no word", func(d *ca.Decision) {
			d.Grant.Scope, d.Environment.Name = ca.ScopeEnvironment, "prod,root"
		}, ca.Internal, "would not be what was granted"},
		{"a command of two lines", func(d *ca.Decision) { d.Grant.ForceCommand = "id\nid" }, ca.Internal, "forced command"},
		{"a command of a blank", func(d *ca.Decision) { d.Grant.ForceCommand = " " }, ca.Internal, "forced command"},
		{"a command that is too long", func(d *ca.Decision) { d.Grant.ForceCommand = strings.Repeat("a", 1025) }, ca.Internal, "forced command"},
		{"no source address", func(d *ca.Decision) { d.Grant.SourceAddresses = []netip.Prefix{} }, ca.Internal, "source addresses"},
		{"a source address with host bits", func(d *ca.Decision) { d.Grant.SourceAddresses = prefixes("192.0.2.1/24") }, ca.Internal, "source address"},
		{"a source address that is none", func(d *ca.Decision) { d.Grant.SourceAddresses = make([]netip.Prefix, 1) }, ca.Internal, "source address"},
		{"a mapped source address", func(d *ca.Decision) { d.Grant.SourceAddresses = prefixes("::ffff:192.0.2.0/120") }, ca.Internal, "source address"},
		{"one source address twice", func(d *ca.Decision) { d.Grant.SourceAddresses = prefixes("192.0.2.0/24", "192.0.2.0/24") }, ca.Internal, "source address"},
		{"r23 10,000 source addresses", func(d *ca.Decision) { d.Grant.SourceAddresses = make([]netip.Prefix, 10_000) }, ca.Internal, "source addresses"},
		{"verify-required on a key that cannot", func(d *ca.Decision) { d.Grant.VerifyRequired = true }, ca.Denied, "security key"},
		{"r20 an unknown extension", func(d *ca.Decision) { d.Grant.Extensions = []ca.Extension{"permit-all"} }, ca.Internal, "extension"},
		{"a restriction as an extension", func(d *ca.Decision) { d.Grant.Extensions = []ca.Extension{"force-command"} }, ca.Internal, "extension"},
		{"one extension twice", func(d *ca.Decision) { d.Grant.Extensions = []ca.Extension{ca.PermitPTY, ca.PermitPTY} }, ca.Internal, "extension"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: 2 * time.Hour}, row.bug)})
			s.refused(s.ask(), row.kind, row.fragment, 1)
		})
	}
	t.Run("longer than asked", func(t *testing.T) {
		s := newStand(t)
		s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: 2 * time.Hour}, func(d *ca.Decision) { d.TTL = 2 * time.Hour })})
		s.refused(s.ask(func(r *pb.CertificateRequest) { r.Ttl = seconds(60) }), ca.Internal, "longer lifetime", 1)
	})
	t.Run("k12 an RSA key that is shorter than the policy asks", func(t *testing.T) {
		s := newStand(t)
		short := rsaSigner(t, 2048)
		token, random := s.person("alice", short.PublicKey())
		s.refused(call(t, token, s.request(short.PublicKey(), random), short, ca.RequestNamespace), ca.Denied, "RSA keys of 2048 bits", 1)
	})
	t.Run("a clock before 1970", func(t *testing.T) {
		s := newStand(t)
		s.now = time.Unix(30, 0)
		s.refused(s.ask(), ca.Internal, "1970", 1)
	})
}

func prefixes(texts ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, text := range texts {
		p = append(p, netip.MustParsePrefix(text))
	}
	return p
}

func TestTheLongestLifetimeIsGrantedToTheSecond(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, time.Hour, 24 * time.Hour} {
		s := newStand(t, func(c *ca.CA) { c.Skew = 5 * time.Minute })
		s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: ttl}, func(d *ca.Decision) { d.Limits.MaxTTL = 24 * time.Hour })})
		cert, _ := s.issued(s.ask())
		now := uint64(s.now.Unix())
		if cert.ValidAfter != now-300 || cert.ValidBefore != now+uint64(ttl/time.Second) {
			t.Errorf("%v: from now%+d to now%+d", ttl, int64(cert.ValidAfter-now), int64(cert.ValidBefore-now))
		}
	}
}

// I4: whatever a policy says, a certificate that is issued is within what was asked, granted and allowed.
func TestACertificateNeverExceedsItsGrant(t *testing.T) {
	authority, _ := fileAuthority(t, "default")
	s := newStand(t, func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"default": authority} })
	issued := 0
	rapid.Check(t, func(r *rapid.T) {
		d := drawDecision(r)
		ask := func(m *pb.CertificateRequest) {
			m.Login = mostly(r, "asked login", one("deploy"), "root", "readonly", "deploy@prod", "")
			m.Host = mostly(r, "host", one("db1", "DB1.Example.com."), "*", "a,b")
			if ttl := mostly(r, "asked ttl", one[int64](0, 0, 1, 3600), -1, 90_000); ttl != 0 {
				m.Ttl = seconds(ttl)
			}
		}
		s.setRules(&rules{decide: func(ca.Question) ca.Decision { return d }})
		var asked *pb.CertificateRequest
		got, err := s.Issue(t.Context(), s.ask(func(m *pb.CertificateRequest) { ask(m); asked = m }))
		if err != nil {
			if got != nil || s.log.last().toBeSigned != nil {
				r.Fatalf("a refusal with a certificate: %v", err)
			}
			return
		}
		issued++
		cert := readCertificate(t, got.Certificate)
		if err := withinGrant(cert, asked, d, uint64(s.now.Unix())); err != nil {
			r.Fatalf("%v\nasked %v\ndecided %+v", err, asked, d)
		}
	})
	if issued == 0 {
		t.Error("no draw was ever granted: the property was not tested")
	}
}

// mostly draws what is right nine times of ten, so that many draws are granted although any field may be wrong.
func mostly[T any](r *rapid.T, label string, right *rapid.Generator[T], wrong ...T) T {
	if rapid.IntRange(0, 9).Draw(r, label+" is wrong") == 9 {
		return rapid.SampledFrom(wrong).Draw(r, label)
	}
	return right.Draw(r, label)
}

func one[T any](values ...T) *rapid.Generator[T] { return rapid.SampledFrom(values) }

func drawDecision(r *rapid.T) ca.Decision {
	ttls := one(time.Second, time.Hour, 2*time.Hour, 24*time.Hour)
	g := ca.Grant{
		Logins:       mostly(r, "logins", one([]string{"deploy"}, []string{"readonly", "deploy"}, []string{"root", "deploy"}), nil, []string{"deploy,root"}, []string{"*"}),
		Scope:        mostly(r, "scope", one(ca.ScopeAny, ca.ScopeEnvironment, ca.ScopeHost), 0, 4, -1),
		TTL:          mostly(r, "rule ttl", ttls, 0, -time.Hour, 25*time.Hour),
		ForceCommand: mostly(r, "command", one("", "/usr/bin/id", strings.Repeat("a", 1024)), "a\nb", " ", "\x00"),
		Extensions: mostly(r, "extensions", one(nil, []ca.Extension{ca.PermitPTY}, []ca.Extension{ca.PermitX11Forwarding, ca.PermitAgentForwarding}),
			[]ca.Extension{"x"}, []ca.Extension{ca.PermitPTY, ca.PermitPTY}),
		SourceAddresses: mostly(r, "sources", one(nil, prefixes("192.0.2.0/24"), prefixes("2001:db8::/32", "0.0.0.0/0")), []netip.Prefix{}, prefixes("192.0.2.1/24")),
		VerifyRequired:  mostly(r, "verify", one(false), true),
	}
	return ca.Decision{
		Outcome: mostly(r, "outcome", one(ca.Allow), 0, ca.Deny, ca.NeedsMore, 4), Rule: "r", Grant: g,
		TTL: mostly(r, "ttl", one(g.TTL, time.Second, time.Hour), 0, 1, 25*time.Hour),
		Environment: ca.Environment{
			Name:      mostly(r, "environment", one("prod", "staging-1"), "", "Prod", "a b", "a,b"),
			MaxTTL:    mostly(r, "environment ttl", one(0, time.Hour, 24*time.Hour), -1, time.Second),
			Authority: mostly(r, "authority", one("default"), "prod", ""),
		},
		Limits: ca.Limits{
			MaxTTL:      mostly(r, "limit ttl", ttls, 0, -1, 1<<62),
			NeverLogins: []string{"root"},
			Keys:        mostly(r, "keys", one([]ca.KeyRule{{Type: "ed25519"}}), []ca.KeyRule{{Type: "rsa", MinBits: 3072}}, nil),
		},
	}
}

// withinGrant is a model of I4 that shares nothing with the code it checks.
func withinGrant(cert *ssh.Certificate, asked *pb.CertificateRequest, d ca.Decision, now uint64) error {
	longest := min(d.Grant.TTL, d.Limits.MaxTTL, 24*time.Hour)
	if d.Environment.MaxTTL > 0 {
		longest = min(longest, d.Environment.MaxTTL)
	}
	if asked.GetTtl() != nil {
		longest = min(longest, asked.GetTtl().AsDuration())
	}
	principal := map[ca.Scope]string{
		ca.ScopeAny: asked.GetLogin(), ca.ScopeEnvironment: asked.GetLogin() + "@" + d.Environment.Name,
		ca.ScopeHost: asked.GetLogin() + "@" + strings.TrimSuffix(strings.ToLower(asked.GetHost()), "."),
	}[d.Grant.Scope]
	var extensions []string
	for _, e := range d.Grant.Extensions {
		extensions = append(extensions, string(e))
	}
	_, forced := cert.CriticalOptions["force-command"]
	_, limited := cert.CriticalOptions["source-address"]
	switch {
	case d.Outcome != ca.Allow:
		return errors.New("not allowed")
	case cert.CertType != ssh.UserCert || cert.Serial == 0:
		return errors.New("type or serial")
	case string(cert.Key.Marshal()) != string(asked.GetPublicKey()):
		return errors.New("another key")
	case !slices.Equal(cert.ValidPrincipals, []string{principal}) || asked.GetLogin() == "root" || !slices.Contains(d.Grant.Logins, asked.GetLogin()):
		return errors.New("another principal")
	case cert.ValidAfter != now-60 || cert.ValidBefore <= now || cert.ValidBefore > now+uint64(longest/time.Second):
		return errors.New("another window")
	case forced != (d.Grant.ForceCommand != "") || cert.CriticalOptions["force-command"] != d.Grant.ForceCommand:
		return errors.New("another command")
	case limited != (d.Grant.SourceAddresses != nil) || d.Grant.VerifyRequired:
		return errors.New("other restrictions")
	case d.Environment.Authority != "default" || d.Limits.Keys[0].Type != "ed25519":
		return errors.New("another CA or key type")
	}
	for e := range cert.Extensions {
		if !slices.Contains(extensions, e) {
			return errors.New("extension " + e)
		}
	}
	return nil
}
