package ca

import (
	"errors"

	"golang.org/x/crypto/ssh"
)

// DescribedKey is a public key of which no more is known than its algorithm, such as "ssh-ed25519": that of a question that is
// only described, or of a request that the log tells of. It is all that a policy asks of a key. It is never certified, because
// it signs nothing.
type DescribedKey string

// Type returns the algorithm.
func (k DescribedKey) Type() string { return string(k) }

// Marshal gives what there is: the name of the algorithm.
func (k DescribedKey) Marshal() []byte { return ssh.Marshal(struct{ Name string }{string(k)}) }

// Verify always fails.
func (k DescribedKey) Verify([]byte, *ssh.Signature) error {
	return errors.New("the key is only described: it verifies nothing")
}
