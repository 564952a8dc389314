package ca

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// expected is what the to-be-signed bytes must say. It is taken from the attempt, past the code that lays certificates out.
type expected struct {
	serial     uint64
	key        []byte
	authority  []byte   // of the Authority that signs
	authCrypto any      // its crypto.PublicKey
	caKeys     [][]byte // of all Authorities
	principal  string
	begin, end time.Time
	maxTTL     time.Duration
	keyID      string
	critical   map[string]string
	extensions []string
}

// expect says what a certificate for a must be.
func (c *CA) expect(a *Attempt, serial uint64) *expected {
	d := a.Decision
	by := c.Authorities[d.Environment.Authority]
	principal, _ := principalOf(a.Request, d) // what it refuses is empty, and no principal of any certificate
	e := &expected{
		serial:    serial,
		key:       a.Request.PublicKey.Marshal(),
		authority: by.PublicKey.Marshal(),
		principal: principal,
		begin:     time.Unix(a.Now.Unix()-int64(c.Skew/time.Second), 0),
		end:       time.Unix(a.Now.Unix()+int64(d.TTL/time.Second), 0),
		maxTTL:    c.MaxTTL,
		keyID:     keyID(serial, a.Caller.Identity.Subject, d.Rule, a.Policy),
		critical:  map[string]string{},
	}
	if k, ok := by.PublicKey.(ssh.CryptoPublicKey); ok {
		e.authCrypto = k.CryptoPublicKey()
	}
	for _, authority := range c.Authorities {
		e.caKeys = append(e.caKeys, authority.PublicKey.Marshal())
	}
	if d.Grant.ForceCommand != "" {
		e.critical["force-command"] = d.Grant.ForceCommand
	}
	if d.Grant.SourceAddresses != nil {
		e.critical["source-address"] = sourceAddress(d.Grant.SourceAddresses)
	}
	if d.Grant.VerifyRequired {
		e.critical["verify-required"] = ""
	}
	for _, x := range d.Grant.Extensions {
		e.extensions = append(e.extensions, string(x))
	}
	slices.Sort(e.extensions)
	return e
}

// A lintRule is one trap that a user certificate can fall into. It returns what is wrong, or "".
type lintRule struct {
	name  string
	check func(c *parsed, e *expected) string
}

// lint reads to-be-signed bytes back with the second reader and holds them against every trap we know, and against what was
// granted. It runs inside the transaction: what fails it is never recorded as a grant, and never signed.
func lint(toBeSigned []byte, e *expected) error {
	c, err := parseCertificate(toBeSigned)
	if err != nil {
		return fmt.Errorf("lint readable: %w", err)
	}
	var errs []error
	for _, l := range lints {
		if wrong := l.check(c, e); wrong != "" {
			errs = append(errs, fmt.Errorf("lint %s: %s", l.name, wrong))
		}
	}
	return errors.Join(errs...)
}

// lints are in the order of the fields of PROTOCOL.certkeys. The rows of docs/issuance.md name them.
var lints = []lintRule{
	{"nonce", func(c *parsed, _ *expected) string {
		return unless(len(c.nonce) == 32 && !bytes.Equal(c.nonce, make([]byte, 32)), "the nonce is not 32 random bytes")
	}},
	{"subject-key", func(c *parsed, e *expected) string {
		return unless(bytes.Equal(c.key, e.key), "the subject key is not the key of the request")
	}},
	{"subject-key-strong", func(c *parsed, _ *expected) string {
		_, err := ParseSubjectKey(c.key)
		return unless(err == nil, "the subject key may not be certified")
	}},
	{"subject-key-not-ca", func(c *parsed, e *expected) string {
		return unless(!slices.ContainsFunc(e.caKeys, func(k []byte) bool { return bytes.Equal(k, c.key) }), "the subject key is a CA key")
	}},
	// sshd cannot revoke serial 0 by serial.
	{"serial-not-zero", func(c *parsed, _ *expected) string { return unless(c.serial != 0, "the serial is 0") }},
	{"serial-of-record", func(c *parsed, e *expected) string {
		return unless(c.serial == e.serial, "the serial is not that of the record")
	}},
	{"type-user", func(c *parsed, _ *expected) string {
		return unless(c.kind == ssh.UserCert, "it is not a user certificate")
	}},
	// sshd logs the key ID and hands it to AuthorizedPrincipalsCommand: a line break would forge a line of its log.
	{"key-id-plain", func(c *parsed, _ *expected) string {
		return unless(c.keyID != "" && len(c.keyID) <= maxKeyID && !strings.ContainsFunc(c.keyID, notInKeyID), "the key ID is not plain")
	}},
	{"key-id-of-record", func(c *parsed, e *expected) string {
		return unless(c.keyID == e.keyID, "the key ID is not that of the record")
	}},
	// No principals are any user on hosts with authorized_keys cert-authority, before OpenSSH 10.3 (CVE-2024-7594).
	{"one-principal", func(c *parsed, _ *expected) string {
		return unless(len(c.principals) == 1, "it has %d principals", len(c.principals))
	}},
	// Commas, blanks, wildcards and controls mean something else to each reader (CVE-2026-35414).
	{"principal-plain", func(c *parsed, _ *expected) string {
		return unless(!slices.ContainsFunc(c.principals, notPrincipal), "a principal is not login, login@environment or login@host")
	}},
	{"principal-asked", func(c *parsed, e *expected) string {
		return unless(!slices.ContainsFunc(c.principals, func(p string) bool { return p != e.principal }), "a principal was not asked for")
	}},
	{"window-order", func(c *parsed, _ *expected) string {
		return unless(0 < c.validAfter && c.validAfter < c.validBefore, "its window is empty, inverted or without a beginning")
	}},
	{"window-finite", func(c *parsed, _ *expected) string {
		return unless(c.validBefore < 1<<62, "it never ends")
	}},
	{"window-begin", func(c *parsed, e *expected) string {
		return unless(c.validAfter == uint64(e.begin.Unix()), "it does not begin when it should")
	}},
	{"window-end", func(c *parsed, e *expected) string {
		return unless(c.validBefore == uint64(e.end.Unix()), "it does not end when it should")
	}},
	// One second too many is too many. The backdating lies in the past and is bounded on its own.
	{"window-length", func(c *parsed, e *expected) string {
		longest := uint64((e.maxTTL + hardMaxSkew) / time.Second)
		return unless(c.validBefore-c.validAfter <= longest && e.maxTTL <= hardMaxTTL, "it is valid for too long")
	}},
	// A restriction that sshd takes for an extension restricts nothing; one that it does not know locks everybody out.
	{"critical-known", func(c *parsed, _ *expected) string {
		return unless(!slices.ContainsFunc(c.critical, notCritical), "a critical option is unknown or has no value of its kind")
	}},
	{"critical-order", func(c *parsed, _ *expected) string {
		return unless(ascending(c.critical), "critical options are not sorted, or one is there twice")
	}},
	{"critical-granted", func(c *parsed, e *expected) string {
		return unless(maps.Equal(values(c.critical), e.critical), "the critical options are not those of the grant")
	}},
	{"force-command", func(c *parsed, _ *expected) string {
		v, ok := values(c.critical)["force-command"]
		return unless(!ok || v != "" && checkForceCommand(v) == nil, "the forced command is empty or not one line")
	}},
	{"source-address", func(c *parsed, _ *expected) string {
		v, ok := values(c.critical)["source-address"]
		return unless(!ok || validSourceAddress(v), "the source addresses are not a list of masked prefixes")
	}},
	// On other keys sshd accepts verify-required and does nothing.
	{"verify-required-sk", func(c *parsed, _ *expected) string {
		_, ok := values(c.critical)["verify-required"]
		return unless(!ok || strings.HasPrefix(c.certType, "sk-"), "verify-required is on a key that cannot verify")
	}},
	{"extension-known", func(c *parsed, _ *expected) string {
		return unless(!slices.ContainsFunc(c.extensions, notExtension), "an extension is unknown or has data")
	}},
	{"extension-order", func(c *parsed, _ *expected) string {
		return unless(ascending(c.extensions), "extensions are not sorted, or one is there twice")
	}},
	{"extension-granted", func(c *parsed, e *expected) string {
		return unless(slices.Equal(slices.Sorted(maps.Keys(values(c.extensions))), e.extensions), "the extensions are not those of the grant")
	}},
	{"reserved-empty", func(c *parsed, _ *expected) string {
		return unless(len(c.reserved) == 0, "the reserved field is not empty")
	}},
	// A certificate in the place of the CA key was taken for its inner key by others (CVE-2025-49825).
	{"ca-key", func(c *parsed, e *expected) string {
		return unless(bytes.Equal(c.authority, e.authority), "the CA key is not the key that signs")
	}},
	{"ca-key-plain", func(c *parsed, _ *expected) string {
		r := reader{rest: c.authority}
		return unless(KeyType(string(r.string())) != "", "the CA key is not a plain key")
	}},
	{"ca-key-strong", func(c *parsed, e *expected) string {
		k, ok := e.authCrypto.(*rsa.PublicKey)
		return unless(!ok || k.N.BitLen() >= minCARSABits, "the RSA key of the CA is too short")
	}},
}

func unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func notInKeyID(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\'' || r == '\\' }

// notPrincipal refuses everything but login, login@environment and login@host.
func notPrincipal(p string) bool {
	login, place, at := strings.Cut(p, "@")
	if !ValidLogin(login) {
		return true
	}
	if !at {
		return false
	}
	host, err := CanonicalHost(place)
	return !envForm.MatchString(place) && (err != nil || host != place)
}

func notCritical(o option) bool {
	switch o.name {
	case "force-command", "source-address":
		return !o.hasData || o.data == ""
	case "verify-required":
		return o.hasData
	}
	return true
}

func notExtension(o option) bool {
	return o.hasData || !slices.Contains(knownExtensions, Extension(o.name))
}

// ascending says whether options are sorted as PROTOCOL.certkeys asks, which also means that none is there twice.
func ascending(options []option) bool {
	for i := 1; i < len(options); i++ {
		if options[i-1].name >= options[i].name {
			return false
		}
	}
	return true
}

func values(options []option) map[string]string {
	m := make(map[string]string, len(options))
	for _, o := range options {
		m[o.name] = o.data
	}
	return m
}

// validSourceAddress reads the value as sshd does, and more strictly.
func validSourceAddress(v string) bool {
	var prefixes []netip.Prefix
	for text := range strings.SplitSeq(v, ",") {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.String() != text {
			return false
		}
		prefixes = append(prefixes, p)
	}
	return checkSourceAddresses(prefixes) == nil
}
