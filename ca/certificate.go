package ca

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// serialBits is the width of the index in a serial, see Log.
const serialBits = 40

const (
	maxKeyID     = 256
	maxSubjectID = 100
	maxRuleID    = 63
)

// certificate is what a grant comes to, but for its serial. All that it holds passed CA.limit.
type certificate struct {
	nonce      [32]byte
	key        ssh.PublicKey
	authority  ssh.PublicKey
	principal  string
	begin, end time.Time // whole seconds
	critical   map[string]string
	extensions map[string]string
	subject    string
	rule       string
	policy     PolicyRef
}

// newCertificate lays out what d grants to a. now is cut to the second; the TTL counts from there, the backdating is on top.
func newCertificate(a *Attempt, principal string, authority ssh.PublicKey, skew time.Duration) *certificate {
	now, g := a.Now.Truncate(time.Second), a.Decision.Grant
	c := &certificate{
		key:        a.Request.PublicKey,
		authority:  authority,
		principal:  principal,
		begin:      now.Add(-skew),
		end:        now.Add(a.Decision.TTL),
		critical:   map[string]string{},
		extensions: map[string]string{},
		subject:    a.Caller.Identity.Subject,
		rule:       a.Decision.Rule,
		policy:     a.Policy,
	}
	if g.ForceCommand != "" {
		c.critical["force-command"] = g.ForceCommand
	}
	if len(g.SourceAddresses) > 0 {
		c.critical["source-address"] = sourceAddress(g.SourceAddresses)
	}
	if g.VerifyRequired {
		c.critical["verify-required"] = ""
	}
	for _, e := range g.Extensions {
		c.extensions[string(e)] = ""
	}
	return c
}

// draw takes the nonce, so that all bytes but the serial are settled before the transaction, which may build them twice.
func (c *certificate) draw(random io.Reader) error {
	_, err := io.ReadFull(random, c.nonce[:])
	return err
}

// toBeSigned returns the certificate up to and with its signature key (PROTOCOL.certkeys): what the CA key signs.
func (c *certificate) toBeSigned(serial uint64) []byte {
	cert := &ssh.Certificate{
		Nonce:           c.nonce[:],
		Key:             c.key,
		Serial:          serial,
		CertType:        ssh.UserCert,
		KeyId:           keyID(serial, c.subject, c.rule, c.policy),
		ValidPrincipals: []string{c.principal},
		ValidAfter:      uint64(c.begin.Unix()),
		ValidBefore:     uint64(c.end.Unix()),
		Permissions:     ssh.Permissions{CriticalOptions: c.critical, Extensions: c.extensions},
		SignatureKey:    c.authority,
	}
	b := cert.Marshal()
	return b[:len(b)-4] // the length of the signature that is not there
}

// keyID returns what sshd writes into its log. The place in the log comes first: it leads to everything else.
func keyID(serial uint64, subject, rule string, policy PolicyRef) string {
	revision := policy.Revision
	if revision == "" || policy.Dirty {
		revision = hex.EncodeToString(policy.Digest[:])
	}
	return fmt.Sprintf("hallpass1 i=%d s=%s r=%s p=%s",
		(serial-1)&(1<<serialBits-1), escape(subject, maxSubjectID), escape(rule, maxRuleID), escape(revision, 12))
}

// escape writes every byte that is not plain as %XX and stops before limit, never inside an escape.
func escape(s string, limit int) string {
	if len(s) <= limit && strings.IndexFunc(s, notPlain) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		next := string(s[i])
		if !plainByte(s[i]) {
			next = fmt.Sprintf("%%%02X", s[i])
		}
		if b.Len()+len(next) > limit {
			break
		}
		b.WriteString(next)
	}
	return b.String()
}

func notPlain(r rune) bool { return r > '~' || !plainByte(byte(r)) }

// plainByte says whether a byte stands for itself in a value of a key ID: no space, quote, backslash, '=' or '%'.
func plainByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._@+:/|,-", c) >= 0
}

// sourceAddress returns the value of source-address: canonical prefixes, sorted.
func sourceAddress(prefixes []netip.Prefix) string {
	sorted := slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare)
	texts := make([]string, len(sorted))
	for i, p := range sorted {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}
