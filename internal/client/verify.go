package client

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

const (
	// maxBackdate is how far before now a certificate may begin, and how far apart our clock and the daemon's may be.
	maxBackdate = 5 * time.Minute
	// maxLifetime bounds a certificate for which no lifetime was asked.
	maxLifetime = 24 * time.Hour
	// serialsPerEpoch: a serial is epoch * 2^40 + index + 1.
	serialsPerEpoch = 1 << 40
)

// extensions are those that a certificate may carry; they have no value.
var extensions = []ca.Extension{
	ca.PermitPTY, ca.PermitPortForwarding, ca.PermitAgentForwarding, ca.PermitX11Forwarding, ca.PermitUserRC,
}

// verify holds an answer against what was asked: our key, a pinned CA key, a user certificate for exactly the principal that
// belongs to the login, not longer than asked, valid now, and nothing extra.
func verify(answer *pb.IssueResponse, who SignIn, r ca.Request, now time.Time) (*ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(answer.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("it is a plain %s key", key.Type())
	}
	if !bytes.Equal(cert.Marshal(), answer.GetCertificate()) {
		return nil, errors.New("its encoding is not canonical")
	}
	if cert.CertType != ssh.UserCert {
		return nil, errors.New("it is not a user certificate")
	}
	if !bytes.Equal(cert.Key.Marshal(), who.Key.Marshal()) {
		return nil, errors.New("it is for another key")
	}
	if (cert.Serial-1)%serialsPerEpoch != answer.GetIndex() {
		return nil, fmt.Errorf("its serial %d does not belong to record %d", cert.Serial, answer.GetIndex())
	}
	if err := verifyPrincipal(cert, r, answer.GetDecision().GetEnvironment()); err != nil {
		return nil, err
	}
	if err := verifyWindow(cert, r.TTL, now); err != nil {
		return nil, err
	}
	if err := verifyOptions(cert); err != nil {
		return nil, err
	}
	return cert, verifySignature(cert, who.CAKeys)
}

// verifyPrincipal wants exactly one principal: the login, alone or scoped to the environment or the host.
func verifyPrincipal(cert *ssh.Certificate, r ca.Request, environment string) error {
	host, err := ca.CanonicalHost(r.Host)
	if err != nil {
		return err
	}
	allowed := []string{r.Login, r.Login + "@" + host}
	if environment != "" {
		allowed = append(allowed, r.Login+"@"+environment)
	}
	if len(cert.ValidPrincipals) != 1 || !slices.Contains(allowed, cert.ValidPrincipals[0]) {
		return fmt.Errorf("its principals are %q, asked was %q", cert.ValidPrincipals, r.Login)
	}
	return nil
}

// verifyWindow wants a window that holds now and is not longer than asked, backdating aside.
func verifyWindow(cert *ssh.Certificate, ttl time.Duration, now time.Time) error {
	longest := maxLifetime
	if ttl > 0 {
		longest = ttl
	}
	after, before := cert.ValidAfter, cert.ValidBefore
	switch {
	case before <= after:
		return errors.New("its window is empty")
	case before-after > uint64((longest+maxBackdate)/time.Second):
		return fmt.Errorf("it is valid for %ds, longer than the %s asked for", before-after, longest)
	case after > uint64(now.Add(maxBackdate).Unix()):
		return fmt.Errorf("it begins at %s: the clock of this machine is slow, or the CA's is fast", unixTime(after))
	case before <= uint64(now.Unix()):
		return fmt.Errorf("it expired at %s: the clock of this machine is fast, or the CA's is slow", unixTime(before))
	}
	return nil
}

func unixTime(seconds uint64) string {
	return time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
}

// verifyOptions wants options that mean to sshd what they mean to us (PROTOCOL.certkeys).
func verifyOptions(cert *ssh.Certificate) error {
	for name, value := range cert.CriticalOptions {
		known := false
		switch name {
		case "force-command", "source-address":
			known = value != ""
		case "verify-required":
			known = value == "" && strings.HasPrefix(cert.Key.Type(), "sk-")
		}
		if !known {
			return fmt.Errorf("it carries the critical option %q", name)
		}
	}
	for name, value := range cert.Extensions {
		if !slices.Contains(extensions, ca.Extension(name)) || value != "" {
			return fmt.Errorf("it carries the extension %q", name)
		}
	}
	return nil
}

// verifySignature wants a signature by a CA key that was pinned at login, by an algorithm that sshd accepts.
func verifySignature(cert *ssh.Certificate, cas []ssh.PublicKey) error {
	signer := cert.SignatureKey.Marshal()
	if !slices.ContainsFunc(cas, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), signer) }) {
		return fmt.Errorf("it is signed by %s, which is not a CA key known since login: if the CA changed its keys, sign in again", ssh.FingerprintSHA256(cert.SignatureKey))
	}
	if cert.Signature.Format == ssh.KeyAlgoRSA {
		return errors.New("it is signed with SHA-1")
	}
	if err := cert.SignatureKey.Verify(toBeSigned(cert), cert.Signature); err != nil {
		return fmt.Errorf("its signature does not verify: %w", err)
	}
	return nil
}

// toBeSigned returns a certificate without its signature, as the record of its grant has it.
func toBeSigned(cert *ssh.Certificate) []byte {
	unsigned := *cert
	unsigned.Signature = nil
	b := unsigned.Marshal()
	return b[:len(b)-4] // the length of the empty signature
}
