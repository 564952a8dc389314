package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"runtime"
	"sync"

	"filippo.io/edwards25519"
)

// batchVerifier verifies Ed25519 signatures of one key (RFC 8032 section 5.1.7), those of many callers at once: together they cost
// less than a third. A CA checks every signature of its own before anybody sees it, since from a faulty one its key can be computed,
// and would spend as much on that as on the proof of possession.
type batchVerifier struct {
	key   ed25519.PublicKey
	minus *edwards25519.Point // the negated point of the key

	mu      sync.Mutex // guards waiting
	waiting []*verification
}

// verification is a signature whose caller waits.
type verification struct {
	message, signature []byte
	valid              chan bool // has room for the one answer
}

// newBatchVerifier returns nil for what is not a point.
func newBatchVerifier(key ed25519.PublicKey) *batchVerifier {
	point, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return nil
	}
	return &batchVerifier{key: key, minus: point.Negate(point)}
}

var errBadSignature = errors.New("it does not verify")

// verify returns an error if the signature over the message is not valid. Whoever comes first lets those come that are about to, and
// verifies for all of them: nobody waits for a batch to fill.
func (b *batchVerifier) verify(message, signature []byte) error {
	v := &verification{message, signature, make(chan bool, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, v)
	first := len(b.waiting) == 1
	b.mu.Unlock()
	if first {
		runtime.Gosched()
		b.mu.Lock()
		batch := b.waiting
		b.waiting = nil
		b.mu.Unlock()
		together := len(batch) > 1 && b.allValid(batch)
		for _, w := range batch {
			w.valid <- together || ed25519.Verify(b.key, w.message, w.signature)
		}
	}
	if !<-v.valid {
		return errBadSignature
	}
	return nil
}

// allValid says whether all signatures of a batch verify. If one does not, or anything else is amiss, it says no; then each is
// verified by itself.
//
// A signature (R, S) of the key A over M is valid if S*B - k*A - R is the neutral point, with k = SHA-512(R, A, M). The sum of these,
// each times a random number of 128 bits, is neutral if they all are, and otherwise once in 2^128 times.
func (b *batchVerifier) allValid(batch []*verification) (valid bool) {
	defer func() {
		if recover() != nil { // or those who wait would wait for ever
			valid = false
		}
	}()
	points := []*edwards25519.Point{edwards25519.NewGeneratorPoint(), b.minus}
	s, k := edwards25519.NewScalar(), edwards25519.NewScalar()
	scalars := []*edwards25519.Scalar{s, k}
	for _, v := range batch {
		if len(v.signature) != ed25519.SignatureSize || !plainY(v.signature[:32]) {
			return false
		}
		random := make([]byte, 32)
		_, _ = rand.Read(random[:16]) // never fails since Go 1.24
		z, errZ := new(edwards25519.Scalar).SetCanonicalBytes(random)
		point, errR := new(edwards25519.Point).SetBytes(v.signature[:32])
		half, errS := new(edwards25519.Scalar).SetCanonicalBytes(v.signature[32:])
		if errZ != nil || errR != nil || errS != nil {
			return false
		}
		hash := sha512.New()
		hash.Write(v.signature[:32])
		hash.Write(b.key)
		hash.Write(v.message)
		challenge, err := new(edwards25519.Scalar).SetUniformBytes(hash.Sum(nil))
		if err != nil {
			return false
		}
		s.MultiplyAdd(z, half, s)
		k.MultiplyAdd(z, challenge, k)
		points, scalars = append(points, point.Negate(point)), append(scalars, z)
	}
	sum := new(edwards25519.Point).VarTimeMultiScalarMult(scalars, points)
	return sum.Equal(edwards25519.NewIdentityPoint()) == 1
}
