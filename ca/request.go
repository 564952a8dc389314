package ca

import (
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

// Request is what a caller asks for: a certificate for one key, for one login on one host.
type Request struct {
	// PublicKey is the key to be certified.
	PublicKey ssh.PublicKey
	// Login is the account on the server.
	Login string
	// Host is lower-cased, without a trailing dot.
	Host string
	// TTL is the lifetime asked for; zero if none was.
	TTL        time.Duration
	Reason     string
	Rule       string
	BreakGlass bool
	// ClientTime is the clock of the caller.
	ClientTime time.Time
	Nonce      [16]byte
	// ServerName is the name that the caller dialled and verified.
	ServerName string
	// TokenNonce are the 32 random bytes behind the nonce of the ID token; nil if none were sent.
	TokenNonce []byte
	// SourceIP is the address the request came from.
	SourceIP netip.Addr
	// Digest is the SHA-256 of the signed bytes.
	Digest [32]byte
}

// Call is a request as it arrived.
type Call struct {
	// Token is the compact ID token.
	Token string
	// Signed are the exact bytes that SSHSIG covers; they are parsed only after the signature is checked.
	Signed []byte
	// SSHSIG is the signature blob of PROTOCOL.sshsig.
	SSHSIG []byte
	// SourceIP is the address of the peer.
	SourceIP netip.Addr
}
