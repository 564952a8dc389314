package ca

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// CheckGranted holds a certificate that the log has as to be signed against the decision that it follows from, as that decision
// comes out when it is made again: the principal, the end, the options and the key ID must be exactly those, and every trap that
// a certificate is held against before it is recorded counts again.
//
// What the log alone does not tell is taken from the certificate: the keys, of which only the type is compared, the serial, and
// how far before the decision it begins. Whoever reads the record has compared the serial with its place.
func CheckGranted(toBeSigned []byte, q Question, d Decision, p PolicyRef) error {
	c, err := parseCertificate(toBeSigned)
	if err != nil {
		return err
	}
	if d.Outcome != Allow {
		return errors.New("there is a certificate, and the decision grants none")
	}
	if q.Request.PublicKey == nil || q.Request.PublicKey.Type() != plainTypes[c.certType].key {
		return errors.New("its key is of another type than the one that was asked for")
	}
	authority, err := ssh.ParsePublicKey(c.authority)
	if err != nil {
		return fmt.Errorf("read its CA key: %w", err)
	}
	key := describedAs{q.Request.PublicKey, c.key}
	q.Request.PublicKey = key
	a := &Attempt{Caller: Caller{Identity: q.Identity, Token: q.Token}, Request: q.Request, Now: q.Now, Policy: p, Decision: d}
	skew := time.Duration(q.Now.Unix()-int64(c.validAfter)) * time.Second
	if skew < 0 || skew > hardMaxSkew {
		return errors.New("it begins at another time than the decision, backdating aside")
	}
	by := &CA{Authorities: map[string]*Authority{d.Environment.Authority: {PublicKey: authority}}, Skew: skew, MaxTTL: hardMaxTTL}
	if err := lint(toBeSigned, by.expect(a, c.serial)); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// describedAs is a key of which a question knows the type, with the bytes that a certificate has of it.
type describedAs struct {
	ssh.PublicKey
	bytes []byte
}

// Marshal returns those bytes.
func (k describedAs) Marshal() []byte { return k.bytes }
