package ca

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

const (
	maxSourceAddresses = 64
	maxForceCommand    = 1024 // bytes
)

// knownExtensions are those of PROTOCOL.certkeys that a certificate of ours may carry.
var knownExtensions = []Extension{PermitPTY, PermitPortForwarding, PermitAgentForwarding, PermitX11Forwarding, PermitUserRC}

// limit holds the grant of an allowing decision against the request and against every ceiling again, so that no mistake of a
// policy gets past it, and makes the certificate. A grant that no policy may come to is Internal; a ceiling is Denied.
func (c *CA) limit(a *Attempt) (*certificate, error) {
	d := a.Decision
	authority := c.Authorities[d.Environment.Authority]
	switch {
	case d.Rule == "" || d.Environment.Name == "":
		return nil, overreach("a grant without a rule or an environment")
	case authority == nil:
		return nil, &Error{Kind: Internal, Message: fmt.Sprintf("environment %q has no CA key here", d.Environment.Name),
			Err: fmt.Errorf("no Authority %q", d.Environment.Authority)}
	case !slices.Contains(d.Grant.Logins, a.Request.Login):
		return nil, overreach("a grant of other logins than the one asked for")
	case slices.Contains(d.Limits.NeverLogins, a.Request.Login):
		return nil, Errorf(Denied, "the login %q is never certified", a.Request.Login)
	}
	if err := keyAllowed(a.Request.PublicKey, d.Limits.Keys); err != nil {
		return nil, err
	}
	if err := c.lifetime(a); err != nil {
		return nil, err
	}
	if err := checkGrant(d.Grant, a.Request.PublicKey.Type()); err != nil {
		return nil, err
	}
	principal, err := principalOf(a.Request, d)
	if err != nil {
		return nil, err
	}
	return newCertificate(a, principal, authority.PublicKey, c.Skew), nil
}

// lifetime checks the TTL of a decision. Only the environment may have no ceiling of its own.
func (c *CA) lifetime(a *Attempt) error {
	d := a.Decision
	if d.TTL <= 0 || d.TTL%time.Second != 0 || d.Grant.TTL <= 0 || d.Limits.MaxTTL <= 0 || d.Environment.MaxTTL < 0 {
		return overreach("a lifetime or a ceiling that is not positive whole seconds")
	}
	longest := min(c.MaxTTL, d.Grant.TTL, d.Limits.MaxTTL)
	if d.Environment.MaxTTL > 0 {
		longest = min(longest, d.Environment.MaxTTL)
	}
	if d.TTL > longest || a.Request.TTL > longest {
		return Errorf(Denied, "a lifetime of %v is more than the longest, %v", max(d.TTL, a.Request.TTL), longest)
	}
	if a.Request.TTL > 0 && d.TTL > a.Request.TTL {
		return overreach("a longer lifetime than was asked for")
	}
	if a.Now.Add(-c.Skew).Unix() <= 0 {
		return overreach("a time before 1970")
	}
	return nil
}

// keyAllowed holds a key against the types that the policy allows. No types allow no key.
func keyAllowed(key ssh.PublicKey, rules []KeyRule) error {
	word, bits := KeyType(key.Type()), 0
	if k, ok := key.(ssh.CryptoPublicKey); ok && word == "rsa" {
		bits = modulusBits(k)
	}
	for _, r := range rules {
		if r.Type == word && word != "" && bits >= r.MinBits {
			return nil
		}
	}
	if word == "rsa" {
		return Errorf(Denied, "the policy does not allow RSA keys of %d bits", bits)
	}
	return Errorf(Denied, "the policy does not allow keys of type %s", word)
}

// checkGrant refuses options that sshd would ignore, or would refuse to understand, and so cut off or let in the wrong people.
func checkGrant(g Grant, keyType string) error {
	if err := checkForceCommand(g.ForceCommand); err != nil {
		return err
	}
	if err := checkSourceAddresses(g.SourceAddresses); err != nil {
		return err
	}
	// sshd ignores verify-required on any other key: what asks for more would ask for nothing.
	if g.VerifyRequired && !isSK(keyType) {
		return Errorf(Denied, "the rule asks for a key on a security key that verifies its user, and this is none")
	}
	for i, e := range g.Extensions {
		if !slices.Contains(knownExtensions, e) || slices.Contains(g.Extensions[:i], e) {
			return overreach(fmt.Sprintf("the extension %q, which is unknown or named twice", e))
		}
	}
	return nil
}

func checkForceCommand(command string) error {
	if len(command) > maxForceCommand || !utf8.ValidString(command) || strings.ContainsFunc(command, unicode.IsControl) {
		return overreach("a forced command that is too long, not UTF-8, or not one line")
	}
	if command != "" && strings.TrimSpace(command) == "" {
		return overreach("a forced command of blanks")
	}
	return nil
}

// checkSourceAddresses demands what sshd reads: one address with host bits set, or one that is mapped, spoils the list.
func checkSourceAddresses(prefixes []netip.Prefix) error {
	if prefixes != nil && len(prefixes) == 0 || len(prefixes) > maxSourceAddresses {
		return overreach("a list of source addresses that is empty or too long")
	}
	for i, p := range prefixes {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" || slices.Contains(prefixes[:i], p) {
			return overreach(fmt.Sprintf("the source address %v, which is not a masked prefix, or twice", p))
		}
	}
	return nil
}

// principalOf makes the one principal from the one login asked for.
func principalOf(r Request, d Decision) (string, error) {
	switch d.Grant.Scope {
	case ScopeAny:
		return r.Login, nil
	case ScopeEnvironment:
		return r.Login + "@" + d.Environment.Name, nil
	case ScopeHost:
		return r.Login + "@" + r.Host, nil
	}
	return "", overreach(fmt.Sprintf("an unknown scope (%d)", d.Grant.Scope))
}

// overreach is the error for a grant that no policy may come to. It is a fault, and nothing that the caller can mend.
func overreach(what string) *Error {
	return &Error{Kind: Internal, Message: "the policy granted " + what + ": ask its owner"}
}
