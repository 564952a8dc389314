package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// The namespaces of SSHSIG (PROTOCOL.sshsig): a signature made for one is worth nothing for the other, nor for anything else
// that the key signs.
const (
	RequestNamespace = "hallpass@v1"
	CallNamespace    = "hallpass-call@v1"
)

const (
	maxSigned = 16 << 10
	maxSSHSIG = 16 << 10
	// tokenNonceSize is the number of random bytes behind the nonce of an ID token.
	tokenNonceSize = 32
)

// Possession is what a caller signs to show that it holds the key of its sign-in, for methods other than Issue and DryRun.
type Possession struct {
	PublicKey ssh.PublicKey
	// Method is the full name of the method that is called.
	Method string
	// ClientTime is the clock of the caller.
	ClientTime time.Time
	// ServerName is the name that the caller dialled and verified.
	ServerName string
	// TokenNonce are the 32 random bytes behind the nonce of the ID token; nil if none were sent.
	TokenNonce []byte
}

// TokenNonce returns the nonce that binds an ID token to a key: the base64url of SHA-256 over "hallpass nonce v1", a zero byte,
// the 32 random bytes and the key in SSH wire format. Who signs in asks the issuer for a token with this nonce.
func TokenNonce(random []byte, keyBlob []byte) string {
	h := sha256.New()
	h.Write([]byte("hallpass nonce v1\x00"))
	h.Write(random)
	h.Write(keyBlob)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Possession authenticates a call of another method: the token as for Issue, and a signature by the key that the token is
// bound to, for this method on this server, now. It consumes nothing, and records at most that the sign-in is bound. A Caller that has a Subject and comes with
// an error is a known identity, whose refusal the server records.
func (c *CA) Possession(ctx context.Context, call Call, method string) (Caller, error) {
	a, caller, err := c.authenticate(ctx, call)
	if a == nil || err != nil {
		return caller, err
	}
	key, err := verifySSHSIG(call.Signed, call.SSHSIG, CallNamespace)
	if err != nil {
		return caller, err
	}
	p, err := c.ParsePossession(call.Signed)
	if err != nil {
		return caller, malformed(err)
	}
	if p.Method != method {
		return caller, Errorf(Unauthenticated, "the proof of possession was made for %q", printable(p.Method))
	}
	if err := c.addressed(key, p.PublicKey, p.ServerName, p.ClientTime, a.Now); err != nil {
		return caller, err
	}
	if caller.Token.Bound, err = c.bind(ctx, caller, key, p.TokenNonce); err == nil && caller.Token.Bound {
		a.Caller.Token.Bound = true
		c.remember(ctx, a.Caller, sha256.Sum256(key))
	}
	return caller, err
}

// remember records that a sign-in belongs to a key, once: a person whose first token expires before their first request would
// else hold refreshed tokens that belong to nobody. It grants nothing, so a log that cannot be written does not fail the call.
func (c *CA) remember(ctx context.Context, caller Caller, key [32]byte) {
	if caller.Token.Nonce == "" || caller.Token.AuthTime.IsZero() {
		return
	}
	keys, err := c.Log.BoundKeys(ctx, caller)
	if err == nil && !slices.Contains(keys, key) {
		err = c.Log.SignInBound(ctx, caller, key)
	}
	if err != nil {
		c.Logger.WarnContext(ctx, "record that a sign-in is bound", "error", err)
	}
}

// possession checks the signature over the request, and only then reads the request. What it returns with an error holds
// nothing that the caller did not show to be its own.
func (c *CA) possession(ctx context.Context, call Call, now time.Time) (Request, error) {
	defer c.Observer.Step(ctx, StepPossession, time.Now())
	unread := Request{SourceIP: call.SourceIP, Digest: sha256.Sum256(call.Signed)}
	key, err := verifySSHSIG(call.Signed, call.SSHSIG, RequestNamespace)
	if err != nil {
		return unread, err
	}
	r, err := c.Parse(call.Signed)
	if err != nil {
		return unread, malformed(err)
	}
	r.SourceIP, r.Digest = unread.SourceIP, unread.Digest
	if err := c.addressed(key, r.PublicKey, r.ServerName, r.ClientTime, now); err != nil {
		return unread, err
	}
	if err := r.check(); err != nil {
		return unread, err
	}
	return r, c.notOurs(key)
}

// verifySSHSIG checks blob as an SSHSIG over signed and returns the key that made it, in SSH wire format. Limits come before
// the libraries: nothing that the caller sent costs more than its size.
func verifySSHSIG(signed, blob []byte, namespace string) ([]byte, error) {
	if len(signed) > maxSigned || len(blob) > maxSSHSIG {
		return nil, Errorf(Exhausted, "the request is too large: at most %d bytes, with a signature of at most %d", maxSigned, maxSSHSIG)
	}
	if len(signed) == 0 || len(blob) == 0 {
		return nil, Errorf(Unauthenticated, "the request is not signed by the key that it wants certified")
	}
	r := reader{rest: blob}
	magic, version, wire := r.take(6), r.uint32(), r.string()
	if r.bad || string(magic) != "SSHSIG" || version != 1 {
		return nil, Errorf(Unauthenticated, "the signature of the request is not an SSHSIG blob")
	}
	key, err := ParseSubjectKey(wire)
	if err != nil {
		return nil, err
	}
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		return nil, &Error{Kind: Unauthenticated, Message: "the signature of the request cannot be read", Err: err}
	}
	if len(sig.Signature.Rest) > 0 && !isSK(key.Type()) {
		return nil, Errorf(Unauthenticated, "the signature of the request has something after its end")
	}
	// For sk keys this demands the touch: x/crypto refuses a signature without the user-presence flag.
	if err := sshsig.Verify(bytes.NewReader(signed), sig, key, sig.HashAlgorithm, namespace); err != nil {
		return nil, &Error{Kind: Unauthenticated, Message: "the signature of the request does not verify: it must be by the key in it, for namespace " + namespace, Err: err}
	}
	return wire, nil
}

// addressed checks that what was signed speaks of the key that signed it, and was meant for this server, now.
func (c *CA) addressed(signer []byte, key ssh.PublicKey, server string, clientTime, now time.Time) error {
	switch {
	case key == nil || !bytes.Equal(key.Marshal(), signer):
		return Errorf(Unauthenticated, "the request is signed by another key than the one that it wants certified")
	case !slices.Contains(c.ServerNames, server):
		return Errorf(Unauthenticated, "the request was made for the server %q, which this is not", printable(server))
	}
	// Off by the whole range of a Duration is as good as any other answer to a clock that is years off.
	switch off := now.Sub(clientTime); {
	case off > clockTolerance:
		return Errorf(Invalid, "your clock is %v behind that of the CA, more than %v: set it and try again", off.Round(time.Second), clockTolerance)
	case off < -clockTolerance:
		return Errorf(Invalid, "your clock is %v ahead of that of the CA, more than %v: set it and try again", -off.Round(time.Second), clockTolerance)
	}
	return nil
}

// notOurs refuses to certify a key that signs certificates.
func (c *CA) notOurs(key []byte) error {
	for name, a := range c.Authorities {
		if bytes.Equal(a.PublicKey.Marshal(), key) {
			return Errorf(Denied, "this is the CA key %q, which is never certified", name)
		}
	}
	return nil
}

// bind tells whether the token was shown to belong to the key. A token that belongs to another key is refused; one that belongs
// to nobody yet is not bound, and the log sees to it that the first key to use it is the only one.
func (c *CA) bind(ctx context.Context, caller Caller, key []byte, random []byte) (bool, error) {
	defer c.Observer.Step(ctx, StepBind, time.Now())
	if len(random) != 0 && len(random) != tokenNonceSize {
		return false, Errorf(Invalid, "the request has %d random bytes for the nonce of the ID token, not %d", len(random), tokenNonceSize)
	}
	switch {
	case caller.Identity.Kind == Workload:
		return false, c.firstUse(ctx, caller, key)
	case caller.Token.Nonce != "":
		if len(random) == 0 || subtle.ConstantTimeCompare([]byte(TokenNonce(random, key)), []byte(caller.Token.Nonce)) != 1 {
			return false, Errorf(Unauthenticated, "this ID token is bound to another key: sign in again with the key that you use")
		}
		return true, nil
	}
	keys, err := c.Log.BoundKeys(ctx, caller)
	if err != nil {
		return false, unavailable(err)
	}
	if slices.Contains(keys, sha256.Sum256(key)) {
		return true, nil
	}
	if len(keys) > 0 {
		return false, Errorf(Unauthenticated, "this sign-in is bound to another key: sign in again with the key that you use")
	}
	return false, c.firstUse(ctx, caller, key)
}

// firstUse refuses a token that is not bound if another key used it first. Whether it may be used at all, or once more, the log
// settles in the transaction of the record; this also covers what leaves no record.
func (c *CA) firstUse(ctx context.Context, caller Caller, key []byte) error {
	first, err := c.Log.TokenKey(ctx, caller)
	if err != nil {
		return unavailable(err)
	}
	if first != nil && *first != sha256.Sum256(key) {
		return tokenUsed(caller)
	}
	return nil
}

// malformed classifies the error of a parser of ours that did not say what it is.
func malformed(err error) error {
	if KindOf(err) != Internal {
		return err
	}
	return &Error{Kind: Invalid, Message: "the signed bytes are not a request", Err: err}
}
