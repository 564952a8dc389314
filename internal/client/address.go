package client

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Address says where the daemon is and how its certificate is known.
type Address struct {
	// Host is a DNS name or an IP address, as dialled. It is what requests name as their server.
	Host string
	// Port is a decimal TCP port.
	Port string
	// Pin is the SHA-256 of the SubjectPublicKeyInfo of the daemon's certificate; nil if a public CA vouches for it.
	Pin []byte
}

// ParseAddress reads "host:port" or "host:port#sha256:<pin>", the pin in hexadecimal or unpadded base64url.
func ParseAddress(s string) (Address, error) {
	hostPort, pin, pinned := strings.Cut(s, "#")
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return Address{}, fmt.Errorf("server address %q: want host:port or host:port#sha256:<pin>", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || n == 0 {
		return Address{}, fmt.Errorf("server address %q: want a host and a port from 1 to 65535", s)
	}
	a := Address{Host: strings.ToLower(strings.TrimSuffix(host, ".")), Port: port}
	if pinned {
		if a.Pin, err = parsePin(pin); err != nil {
			return Address{}, fmt.Errorf("server address %q: %w", s, err)
		}
	}
	return a, nil
}

func parsePin(s string) ([]byte, error) {
	digest, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return nil, fmt.Errorf("pin %q: want sha256:<digest of the public key>", s)
	}
	decode := base64.RawURLEncoding.Strict().DecodeString
	if len(digest) == hex.EncodedLen(sha256.Size) {
		decode = hex.DecodeString
	}
	pin, err := decode(strings.TrimRight(digest, "="))
	if err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("pin %q: want 64 hexadecimal digits or 43 characters of base64url", s)
	}
	return pin, nil
}

// String is the form that ParseAddress reads.
func (a Address) String() string {
	s := net.JoinHostPort(a.Host, a.Port)
	if a.Pin != nil {
		s += "#sha256:" + base64.RawURLEncoding.EncodeToString(a.Pin)
	}
	return s
}

// tlsConfig accepts TLS 1.3 and the daemon's certificate alone. A pin replaces the chain and the dates, which a self-made
// certificate cannot vouch for; the names of the certificate still count.
func (a Address) tlsConfig() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: a.Host}
	if a.Pin == nil {
		return config
	}
	config.InsecureSkipVerify = true // the pin is checked instead, below
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return a.checkPin(state.PeerCertificates[0])
	}
	return config
}

func (a Address) checkPin(leaf *x509.Certificate) error {
	got := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if !bytes.Equal(got[:], a.Pin) {
		return fmt.Errorf("the server's key has the pin sha256:%s, not the one expected: it is another server, or it was set up anew",
			base64.RawURLEncoding.EncodeToString(got[:]))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		return nil
	}
	return leaf.VerifyHostname(a.Host)
}
