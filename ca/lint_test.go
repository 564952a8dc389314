package ca_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// rawCert is a certificate field by field, so that a test can write what no library would.
type rawCert struct {
	certType      string
	nonce         []byte
	key           [][]byte // the fields of the subject key
	serial        uint64
	kind          uint32
	keyID         string
	principals    []string
	after, before uint64
	critical      []rawOption
	extensions    []rawOption
	reserved      []byte
	authority     []byte
	rest          []byte
}

type rawOption struct {
	name string
	data []byte // as on the wire, with the length of a string value inside
}

func (c *rawCert) bytes() []byte {
	b := wire([]byte(c.certType), c.nonce)
	b = append(b, wire(c.key...)...)
	b = binary.BigEndian.AppendUint64(b, c.serial)
	b = binary.BigEndian.AppendUint32(b, c.kind)
	b = append(b, wire([]byte(c.keyID))...)
	var principals []byte
	for _, p := range c.principals {
		principals = append(principals, wire([]byte(p))...)
	}
	b = append(b, wire(principals)...)
	b = binary.BigEndian.AppendUint64(b, c.after)
	b = binary.BigEndian.AppendUint64(b, c.before)
	b = append(b, wire(rawOptions(c.critical), rawOptions(c.extensions), c.reserved, c.authority)...)
	return append(b, c.rest...)
}

func rawOptions(options []rawOption) []byte {
	var b []byte
	for _, o := range options {
		b = append(b, wire([]byte(o.name), o.data)...)
	}
	return b
}

func value(s string) []byte { return wire([]byte(s)) }

// lintStand returns a CA, a grant with every option, and its certificate written by hand.
func lintStand(t testing.TB) (*stand, *ca.Attempt, *rawCert) {
	t.Helper()
	s := newStand(t)
	key, err := ca.ParseSubjectKey(wire([]byte("sk-ssh-ed25519@openssh.com"), basePoint, []byte("ssh:")))
	if err != nil {
		t.Fatal(err)
	}
	d := grant(ca.Grant{
		Logins: []string{"deploy"}, Scope: ca.ScopeEnvironment, TTL: time.Hour, ForceCommand: "/usr/bin/id", VerifyRequired: true,
		SourceAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		Extensions:      []ca.Extension{ca.PermitPTY, ca.PermitX11Forwarding},
	})(ca.Question{})
	a := &ca.Attempt{
		Caller: identify("alice", ca.Person), Request: ca.Request{PublicKey: key, Login: "deploy", Host: "db1"}, Now: s.now,
		Policy: s.rules.Load().Ref(), Decision: d, Authority: "default",
	}
	now := uint64(s.now.Unix())
	return s, a, &rawCert{
		certType: "sk-ssh-ed25519-cert-v01@openssh.com", nonce: bytes.Repeat([]byte{5}, 32), key: [][]byte{basePoint, []byte("ssh:")},
		serial: 42, kind: 1, keyID: "hallpass1 i=41 s=alice r=developers-on-prod p=3f2a9c1d0b7e", principals: []string{"deploy@prod"},
		after: now - 60, before: now + 3600,
		critical: []rawOption{
			{"force-command", value("/usr/bin/id")}, {"source-address", value("192.0.2.0/24,2001:db8::/32")}, {"verify-required", nil},
		},
		extensions: []rawOption{{"permit-X11-forwarding", nil}, {"permit-pty", nil}},
		authority:  s.signer.signer.PublicKey().Marshal(),
	}
}

func TestLintsPassWhatTheCAMakes(t *testing.T) {
	s, a, c := lintStand(t)
	if err := s.Lint(a, 42, c.bytes()); err != nil {
		t.Error(err)
	}
}

func TestEachLintCatchesItsTrap(t *testing.T) {
	rows := []struct {
		lint, name string
		spoil      func(s *stand, a *ca.Attempt, c *rawCert)
	}{
		{"readable", "U25 type of a key, not of a certificate", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.certType = "ssh-ed25519" }},
		{"readable", "T17 a flag with two values", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.extensions[1].data = append(value("a"), value("b")...) }},
		{"readable", "bytes after the CA key", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.rest = []byte{0} }},
		{"nonce", "no nonce", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.nonce = nil }},
		{"nonce", "a nonce of zeros", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.nonce = make([]byte, 32) }},
		{"subject-key", "T27 the key of somebody else", func(s *stand, _ *ca.Attempt, c *rawCert) {
			c.key[0] = publicBytes(newSigner(s.t).PublicKey())
		}},
		{"subject-key-strong", "T26 a key of small order", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.key[0] = make([]byte, 32) }},
		{"subject-key-not-ca", "T28 the CA key", func(s *stand, _ *ca.Attempt, c *rawCert) {
			c.certType, c.key = "ssh-ed25519-cert-v01@openssh.com", [][]byte{publicBytes(s.signer.signer.PublicKey())}
		}},
		{"serial-not-zero", "T5 U53 serial 0", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.serial = 0 }},
		{"serial-of-record", "T29 another serial", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.serial = 43 }},
		{"type-user", "U26 a host certificate", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.kind = 2 }},
		{"type-user", "U25 type 0", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.kind = 0 }},
		{"type-user", "U27 type 3", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.kind = 3 }},
		{"key-id-plain", "T21 U55 a line break", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.keyID += "\nAccepted publickey for root" }},
		{"key-id-plain", "T21 U57 60 kB", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.keyID = strings.Repeat("a", 60_000) }},
		{"key-id-plain", "a quote", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.keyID += `"` }},
		{"key-id-plain", "no key ID", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.keyID = "" }},
		{"key-id-of-record", "that of another record", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.keyID = strings.Replace(c.keyID, "41", "40", 1) }},
		{"one-principal", "T1 U03 no principal", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals = nil }},
		{"one-principal", "two principals", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals = append(c.principals, "deploy@prod") }},
		{"principal-plain", "T2 U06 an empty principal", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "" }},
		{"principal-plain", "T3 U05 a comma", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy,root" }},
		{"principal-plain", "T3 U08 a NUL", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy\x00" }},
		{"principal-plain", "T3 U09 a blank at the end", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy " }},
		{"principal-plain", "T3 U10 a line break", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy\n" }},
		{"principal-plain", "T4 a Cyrillic letter", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "dеploy" }},
		{"principal-plain", "T5 U13 a star", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "*" }},
		{"principal-plain", "two places", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy@prod@prod" }},
		{"principal-plain", "a place that is a pattern", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy@*" }},
		{"principal-asked", "another login", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "root@prod" }},
		{"principal-asked", "a wider scope", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.principals[0] = "deploy" }},
		{"window-order", "T6 U17 an end at 0", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.before = 0 }},
		{"window-order", "T6 no beginning", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.after = 0 }},
		{"window-order", "T7 inverted", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.after, c.before = c.before, c.after }},
		{"window-finite", "T6 U18 for ever", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.before = ssh.CertTimeInfinity }},
		{"window-finite", "U19 for ever but one", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.before = ssh.CertTimeInfinity - 1 }},
		{"window-begin", "T8 backdated by one second more", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.after-- }},
		{"window-begin", "U21 in the future", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.after += 61 }},
		{"window-end", "one second too long", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.before++ }},
		{"window-end", "one second too short", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.before-- }},
		{"window-length", "longer than the cap, whatever was granted", func(_ *stand, a *ca.Attempt, c *rawCert) {
			a.Decision.TTL = 25 * time.Hour
			c.before = c.after + 60 + 25*3600
		}},
		{"critical-known", "T15 U28 an unknown option", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[0].name = "force-commands" }},
		{"critical-known", "an extension as an option", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[2].name = "permit-pty" }},
		{"critical-known", "T17 an empty value", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[0].data = value("") }},
		{"critical-known", "no value", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[0].data = nil }},
		{"critical-known", "T17 a flag with a value", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[2].data = value("yes") }},
		{"critical-order", "not sorted", func(_ *stand, _ *ca.Attempt, c *rawCert) { slices.Reverse(c.critical) }},
		{"critical-order", "T18 twice", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical = append(c.critical, c.critical[2]) }},
		{"critical-granted", "a restriction is missing", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical = c.critical[:2] }},
		{"critical-granted", "another command", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[0].data = value("/bin/sh") }},
		{"force-command", "of two lines", func(_ *stand, a *ca.Attempt, c *rawCert) {
			a.Decision.Grant.ForceCommand = "a\nb"
			c.critical[0].data = value("a\nb")
		}},
		{"verify-required-sk", "T22 U51 on another key", func(s *stand, a *ca.Attempt, c *rawCert) {
			a.Request.PublicKey = newSigner(s.t).PublicKey()
			c.certType, c.key = "ssh-ed25519-cert-v01@openssh.com", [][]byte{publicBytes(a.Request.PublicKey)}
		}},
		{"extension-known", "T14 U30 a restriction as an extension", func(_ *stand, _ *ca.Attempt, c *rawCert) {
			c.extensions = []rawOption{{"force-command", value("/usr/bin/id")}}
		}},
		{"extension-known", "T16 U32 an unknown one", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.extensions[0].name = "permit-everything" }},
		{"extension-known", "T22 no-touch-required", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.extensions[0].name = "no-touch-required" }},
		{"extension-known", "T17 U33 with data", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.extensions[1].data = value("yes") }},
		{"extension-order", "not sorted", func(_ *stand, _ *ca.Attempt, c *rawCert) { slices.Reverse(c.extensions) }},
		{"extension-order", "T18 twice", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.extensions[0] = c.extensions[1] }},
		{"extension-granted", "T12 one more", func(_ *stand, a *ca.Attempt, _ *rawCert) { a.Decision.Grant.Extensions = []ca.Extension{ca.PermitPTY} }},
		{"reserved-empty", "something reserved", func(_ *stand, _ *ca.Attempt, c *rawCert) { c.reserved = []byte{0} }},
		{"ca-key", "another CA", func(s *stand, _ *ca.Attempt, c *rawCert) { c.authority = newSigner(s.t).PublicKey().Marshal() }},
		{"ca-key-plain", "T10 a certificate as CA key", func(s *stand, _ *ca.Attempt, c *rawCert) {
			_, issued := s.issued(s.ask())
			c.authority = issued.Certificate
		}},
		{"ca-key-strong", "T23 an RSA CA of 2048 bits", func(s *stand, _ *ca.Attempt, c *rawCert) {
			c.authority = rsaWire(65537, modulus(s.t, 2048))
			key, err := ssh.ParsePublicKey(c.authority)
			if err != nil {
				s.t.Fatal(err)
			}
			s.Authorities["default"] = &ca.Authority{Name: "default", PublicKey: key}
		}},
	}
	for _, bad := range []string{ // T19 U41-U50
		"", "192.0.2.0/33", "192.0.2.1/24", "!192.0.2.0/24", "192.0.2.*", "db1.example.com", "192.0.2.0/24,", "192.0.2.0/24, 198.51.100.0/24",
		"192.0.2.1", "::ffff:192.0.2.0/120", "fe80::%eth0/64", "2001:DB8::/32", "192.0.2.0/24,192.0.2.0/24", "192.0.2.0/24,bad",
	} {
		rows = append(rows, struct {
			lint, name string
			spoil      func(s *stand, a *ca.Attempt, c *rawCert)
		}{"source-address", "T19 " + bad, func(_ *stand, _ *ca.Attempt, c *rawCert) { c.critical[1].data = value(bad) }})
	}

	caught := map[string]bool{}
	for _, row := range rows {
		t.Run(row.lint+": "+row.name, func(t *testing.T) {
			s, a, c := lintStand(t)
			row.spoil(s, a, c)
			err := s.Lint(a, 42, c.bytes())
			if err == nil || !strings.Contains(err.Error(), "lint "+row.lint+":") {
				t.Errorf("the lint %s did not catch it: %v", row.lint, err)
			}
			caught[row.lint] = true
		})
	}
	for _, name := range ca.LintNames() {
		if !caught[name] {
			t.Errorf("no row spoils what %s looks at", name)
		}
	}
}

// publicBytes returns the point of an Ed25519 key.
func publicBytes(key ssh.PublicKey) []byte {
	k, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		panic("no key")
	}
	point, ok := k.CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		panic("not an Ed25519 key")
	}
	return point
}

// Every prefix of a certificate, and every certificate with one bit changed, is refused, and none panics.
func TestLintsRefuseAnyOtherBit(t *testing.T) {
	s, a, c := lintStand(t)
	good := c.bytes()
	for i := range good {
		if s.Lint(a, 42, good[:i]) == nil {
			t.Fatalf("cut to %d bytes it passes", i)
		}
	}
	nonce := bytes.Index(good, c.nonce)
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if inNonce := nonce <= i && i < nonce+32; s.Lint(a, 42, b) == nil && !inNonce {
				t.Fatalf("bit %d of byte %d changes nothing", bit, i)
			}
		}
	}
}
