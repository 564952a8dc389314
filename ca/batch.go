package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"runtime"
	"slices"
	"sync"

	"filippo.io/edwards25519"
)

// edwardsKey is an Ed25519 key whose signatures are verified in batches.
type edwardsKey struct {
	bytes ed25519.PublicKey
	minus *edwards25519.Point // the negated point of the key
}

// newEdwardsKey returns nil for what is not a point.
func newEdwardsKey(key ed25519.PublicKey) *edwardsKey {
	point, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return nil
	}
	return &edwardsKey{key, point.Negate(point)}
}

// batchVerifier verifies Ed25519 signatures (RFC 8032 section 5.1.7), those of many callers at once: together they cost a third to a
// half. Each certificate takes two: the proof of possession, and the check of the CA's own signature before anybody sees it, since
// from a faulty one its key can be computed.
type batchVerifier struct {
	mu      sync.Mutex // guards waiting
	waiting []*verification
}

// verification is a signature whose caller waits.
type verification struct {
	key                *edwardsKey
	message, signature []byte
	valid              chan bool // has room for the one answer
}

// maxBatch is how many signatures are verified together at most: more would make the first of them wait, and not be cheaper.
const maxBatch = 32

// ed25519Batch is where all signatures meet that are verified at the same time.
var ed25519Batch batchVerifier

var errBadSignature = errors.New("it does not verify")

// verify returns an error if the signature over the message is not one by the key. Whoever comes first lets those come that are about
// to, and verifies for all of them, unless so many come that one of them does: nobody waits for a batch to fill.
func (b *batchVerifier) verify(key *edwardsKey, message, signature []byte) error {
	v := &verification{key, message, signature, make(chan bool, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, v)
	first, last := len(b.waiting) == 1, len(b.waiting) == maxBatch
	b.mu.Unlock()
	if first {
		runtime.Gosched()
	}
	if first || last {
		b.mu.Lock()
		batch := b.waiting
		b.waiting = nil
		b.mu.Unlock()
		together := len(batch) > 1 && allValid(batch)
		for _, w := range batch {
			w.valid <- together || ed25519.Verify(w.key.bytes, w.message, w.signature)
		}
	}
	if !<-v.valid {
		return errBadSignature
	}
	return nil
}

// allValid says whether all signatures of a batch verify. If one does not, or anything else is amiss, it says no; then each is
// verified by itself, so that who sends bad ones makes those of others cost what they would alone.
//
// A signature (R, S) of the key A over M is valid if S*B - k*A - R is the neutral point, with k = SHA-512(R, A, M). The sum of these,
// each times a random odd number below 2^128, is neutral if they all are, and otherwise once in 2^127 times. That leaves points of small
// order: who knows the private key can add one to A or R, and some of those signatures pass in a batch and not by themselves. They
// are valid in the wider sense that RFC 8032 allows, [8][S]B = [8]R + [8][k]A, and show the possession of the key just as well.
func allValid(batch []*verification) (valid bool) {
	defer func() {
		if recover() != nil { // or those who wait would wait for ever
			valid = false
		}
	}()
	s := edwards25519.NewScalar()
	points, scalars := []*edwards25519.Point{edwards25519.NewGeneratorPoint()}, []*edwards25519.Scalar{s}
	var keys []*edwardsKey // that of keys[i] is points[i+1]
	for _, v := range batch {
		if !slices.Contains(keys, v.key) {
			keys = append(keys, v.key)
			points, scalars = append(points, v.key.minus), append(scalars, edwards25519.NewScalar())
		}
	}
	for _, v := range batch {
		if len(v.signature) != ed25519.SignatureSize || !plainY(v.signature[:32]) {
			return false
		}
		random := make([]byte, 32)
		_, _ = rand.Read(random[:16]) // never fails since Go 1.24
		random[0] |= 1                // or one in eight would lose a point of small order
		z, errZ := new(edwards25519.Scalar).SetCanonicalBytes(random)
		point, errR := new(edwards25519.Point).SetBytes(v.signature[:32])
		half, errS := new(edwards25519.Scalar).SetCanonicalBytes(v.signature[32:])
		if errZ != nil || errR != nil || errS != nil {
			return false
		}
		hash := sha512.New()
		hash.Write(v.signature[:32])
		hash.Write(v.key.bytes)
		hash.Write(v.message)
		challenge, err := new(edwards25519.Scalar).SetUniformBytes(hash.Sum(nil))
		if err != nil {
			return false
		}
		k := scalars[1+slices.Index(keys, v.key)]
		s.MultiplyAdd(z, half, s)
		k.MultiplyAdd(z, challenge, k)
		points, scalars = append(points, point.Negate(point)), append(scalars, z)
	}
	sum := new(edwards25519.Point).VarTimeMultiScalarMult(scalars, points)
	return sum.Equal(edwards25519.NewIdentityPoint()) == 1
}
