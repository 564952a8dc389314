package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"math/big"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Bounds of subject keys that no policy can lift.
const (
	maxKeyBlob = 8 << 10
	minRSABits = 2048
	maxRSABits = 8192
)

// keyRuleTypes maps the types of keys that may be certified to the words of policies. DSA, P-224, certificates, webauthn and
// everything that comes after this line was written are not in it.
var keyRuleTypes = map[string]string{
	ssh.KeyAlgoED25519:    "ed25519",
	ssh.KeyAlgoSKED25519:  "sk-ed25519",
	ssh.KeyAlgoECDSA256:   "ecdsa",
	ssh.KeyAlgoECDSA384:   "ecdsa",
	ssh.KeyAlgoECDSA521:   "ecdsa",
	ssh.KeyAlgoSKECDSA256: "sk-ecdsa",
	ssh.KeyAlgoRSA:        "rsa",
}

// KeyType returns the word that policies use for a type of key, such as "ed25519" for "ssh-ed25519", or "".
func KeyType(wireType string) string { return keyRuleTypes[wireType] }

func isSK(wireType string) bool {
	return wireType == ssh.KeyAlgoSKED25519 || wireType == ssh.KeyAlgoSKECDSA256
}

// ParseSubjectKey reads a key in SSH wire format that somebody wants certified. It accepts one encoding of each key and refuses
// keys that are weak or dangerous whatever a policy says: short or malformed RSA moduli, those of the ROCA generator
// (CVE-2017-15361), points off their curve or of small order, sk keys of no application, certificates. It does not know the
// list of Debian's predictable keys (CVE-2008-0166), which is larger than this program.
func ParseSubjectKey(wire []byte) (ssh.PublicKey, error) {
	if key := goodKeys.find(wire); key != nil {
		return key, nil
	}
	key, err := parseSubjectKey(wire)
	if err != nil {
		return nil, err
	}
	return goodKeys.add(key, wire), nil
}

func parseSubjectKey(wire []byte) (ssh.PublicKey, error) {
	if len(wire) > maxKeyBlob {
		return nil, Errorf(Invalid, "the public key has %d bytes, more than any that is certified (%d)", len(wire), maxKeyBlob)
	}
	r := reader{rest: wire}
	name := string(r.string())
	if r.bad || name == "" {
		return nil, Errorf(Invalid, "the public key is not in SSH wire format")
	}
	if _, ok := keyRuleTypes[name]; !ok {
		if _, cert := plainTypes[name]; cert {
			return nil, Errorf(Invalid, "the public key is a certificate: give the plain key")
		}
		return nil, Errorf(Invalid, "keys of type %q are not certified: use Ed25519, ECDSA or RSA, or one on a security key", printable(name))
	}
	if err := checkFields(name, &r); err != nil {
		return nil, err
	}
	if !r.end() {
		return nil, Errorf(Invalid, "the public key is cut short, or something follows it")
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, &Error{Kind: Invalid, Message: "the public key cannot be read", Err: err}
	}
	if key.Type() != name || !bytes.Equal(key.Marshal(), wire) {
		return nil, Errorf(Invalid, "the public key is not encoded as its type asks")
	}
	return key, nil
}

// Keys that passed are remembered, because each request asks about the same one three times, and people come back with theirs.
const (
	maxGoodKeys = 4096
	maxGoodKey  = 256 // bytes of one in wire format, which leaves RSA keys out
)

var goodKeys = rememberedKeys{known: map[string]ssh.PublicKey{}}

type rememberedKeys struct {
	mu    sync.Mutex // guards known
	known map[string]ssh.PublicKey
}

func (k *rememberedKeys) find(wire []byte) ssh.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[string(wire)]
}

// add remembers a key, and returns it as one that knows its wire format.
func (k *rememberedKeys) add(key ssh.PublicKey, wire []byte) ssh.PublicKey {
	known := wired(key)
	if len(wire) > maxGoodKey {
		return known
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= maxGoodKeys {
		clear(k.known)
	}
	k.known[string(wire)] = known
	return known
}

// wiredKey is a key that knows its wire format, which is asked for again and again. Nobody may change that.
type wiredKey struct {
	ssh.PublicKey
	crypto  crypto.PublicKey
	edwards func() *edwardsKey // nil if it is not an Ed25519 key; most keys verify nothing
	wire    []byte
}

// wired returns a key that knows its wire format, and verifies fast.
func wired(key ssh.PublicKey) ssh.PublicKey {
	plain, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return key
	}
	w := wiredKey{PublicKey: key, crypto: plain.CryptoPublicKey(), wire: slices.Clip(key.Marshal())}
	if point, ok := w.crypto.(ed25519.PublicKey); ok && key.Type() == ssh.KeyAlgoED25519 {
		w.edwards = sync.OnceValue(func() *edwardsKey { return newEdwardsKey(point) })
	}
	return w
}

func (k wiredKey) Marshal() []byte                   { return k.wire }
func (k wiredKey) CryptoPublicKey() crypto.PublicKey { return k.crypto }

// Verify returns an error if a signature over data is not one by the key.
func (k wiredKey) Verify(data []byte, sig *ssh.Signature) error {
	if k.edwards != nil && sig.Format == ssh.KeyAlgoED25519 {
		if key := k.edwards(); key != nil {
			return ed25519Batch.verify(key, data, sig.Blob)
		}
	}
	return k.PublicKey.Verify(data, sig)
}

// checkFields checks what follows the name of the type, before any library computes with it.
func checkFields(name string, r *reader) error {
	switch name {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519:
		if !validEd25519(r.string()) {
			return Errorf(Invalid, "the Ed25519 key is not a point of full order in its one encoding")
		}
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKECDSA256:
		return checkECDSA(r, name, "nistp256", ecdh.P256())
	case ssh.KeyAlgoECDSA384:
		return checkECDSA(r, name, "nistp384", ecdh.P384())
	case ssh.KeyAlgoECDSA521:
		return checkECDSA(r, name, "nistp521", ecdh.P521())
	case ssh.KeyAlgoRSA:
		return checkRSA(r)
	}
	return checkApplication(r, name)
}

func checkECDSA(r *reader, name, curve string, points ecdh.Curve) error {
	if string(r.string()) != curve {
		return Errorf(Invalid, "the ECDSA key names another curve than its type")
	}
	// NewPublicKey takes uncompressed points only, and neither infinity nor one off the curve (SEC 1 section 3.2.2.1).
	if _, err := points.NewPublicKey(r.string()); err != nil {
		return &Error{Kind: Invalid, Message: "the ECDSA key is not a point of its curve", Err: err}
	}
	return checkApplication(r, name)
}

// checkApplication checks the last field of sk keys (PROTOCOL.u2f).
func checkApplication(r *reader, name string) error {
	if !isSK(name) {
		return nil
	}
	application := string(r.string())
	if application == "" || application != printable(application) {
		return Errorf(Invalid, "the security key is for no application, or for one whose name is not plain text")
	}
	return nil
}

func checkRSA(r *reader) error {
	e, eOK := positive(r.string())
	n, nOK := positive(r.string())
	switch {
	case r.bad || !eOK || !nOK:
		return Errorf(Invalid, "the numbers of the RSA key are not positive, or not in their one encoding")
	case n.BitLen() < minRSABits || n.BitLen() > maxRSABits:
		return Errorf(Invalid, "the RSA key has %d bits: it must have %d to %d", n.BitLen(), minRSABits, maxRSABits)
	// x/crypto reads at most 24 bits; every generator in use takes 65537.
	case e.BitLen() > 24 || e.Cmp(big.NewInt(65537)) < 0 || e.Bit(0) == 0:
		return Errorf(Invalid, "the exponent of the RSA key must be odd and at least 65537, with at most 24 bits")
	}
	return checkModulus(n)
}

// positive reads an mpint (RFC 4251 section 5) that must be greater than zero and as short as it can be.
func positive(b []byte) (*big.Int, bool) {
	if len(b) == 0 || b[0]&0x80 != 0 || b[0] == 0 && (len(b) == 1 || b[1]&0x80 == 0) {
		return nil, false
	}
	return new(big.Int).SetBytes(b), true
}

// checkModulus refuses moduli with a small factor, and those that the library of CVE-2017-15361 made: its primes are
// k*M + (65537^a mod M), with M a product of small primes, so that the modulus is a power of 65537 modulo each of them.
// A good modulus passes for one of those once in about 10^8 times (Nemec et al., "The Return of Coppersmith's Attack").
func checkModulus(n *big.Int) error {
	roca := true
	for _, p := range smallPrimes {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		if rest == 0 {
			return Errorf(Invalid, "the modulus of the RSA key is divisible by %d", p)
		}
		roca = roca && powerOf65537(rest, p)
	}
	if roca {
		return Errorf(Invalid, "the RSA key is of a generator whose keys can be factored (CVE-2017-15361): make a new one")
	}
	return nil
}

var smallPrimes = []int64{
	2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127,
	131, 137, 139, 149, 151, 157, 163, 167,
}

// powerOf65537 says whether rest is in the subgroup that 65537 generates modulo p.
func powerOf65537(rest, p int64) bool {
	for x, first := int64(1), true; first || x != 1; x, first = x*(65537%p)%p, false {
		if x == rest {
			return true
		}
	}
	return false
}
