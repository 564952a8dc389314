package audit

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// noSignature stands where the signature will be, so that a library which reads certificates reads what is not signed yet.
var noSignature = ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519})})

// parseToBeSigned reads a certificate without its signature.
func parseToBeSigned(toBeSigned []byte) (*ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(append(toBeSigned[:len(toBeSigned):len(toBeSigned)], noSignature...))
	if err != nil {
		return nil, fmt.Errorf("read the certificate to be signed: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("what is to be signed is no certificate")
	}
	return cert, nil
}

// Certificate reads the certificate that a record grants, which has no signature there.
func Certificate(toBeSigned []byte) (*ssh.Certificate, error) { return parseToBeSigned(toBeSigned) }
