package ca_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"

	"filippo.io/edwards25519"
	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// signed is a message with what is said to be its signature.
type signed struct {
	key                ed25519.PublicKey
	message, signature []byte
}

// signMessages returns n messages that are signed with so many keys in turn.
func signMessages(t testing.TB, n, keys int) []signed {
	t.Helper()
	public, private := make([]ed25519.PublicKey, keys), make([]ed25519.PrivateKey, keys)
	for i := range private {
		var err error
		if public[i], private[i], err = ed25519.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	all := make([]signed, n)
	for i := range all {
		message := bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(i)), 1+i*7)
		all[i] = signed{public[i%keys], message, ed25519.Sign(private[i%keys], message)}
	}
	return all
}

func allValid(all []signed) bool {
	var keys, messages, signatures [][]byte
	for _, s := range all {
		keys, messages, signatures = append(keys, s.key), append(messages, s.message), append(signatures, s.signature)
	}
	return ca.AllValid(keys, messages, signatures)
}

// faults make something else of a signature; most of it is not valid, and one is another name for one that is.
func faults(s signed, other []byte) map[string]signed {
	found := map[string]signed{
		"no signature":        {s.key, s.message, nil},
		"too short":           {s.key, s.message, s.signature[:63]},
		"too long":            {s.key, s.message, append(bytes.Clone(s.signature), 0)},
		"of another message":  {s.key, s.message, other},
		"another message":     {s.key, append(bytes.Clone(s.message), 0), s.signature},
		"nothing but zeros":   {s.key, s.message, make([]byte, 64)},
		"the neutral point":   {s.key, s.message, append(append([]byte{1}, make([]byte, 31)...), s.signature[32:]...)},
		"the sign of R":       {s.key, s.message, flipBits(s.signature, 31, 0x80)},
		"R has no other name": {s.key, s.message, append(bytes.Repeat([]byte{0xff}, 32), s.signature[32:]...)},
		"S and the order":     {s.key, s.message, append(bytes.Clone(s.signature[:32]), addOrder(s.signature[32:])...)},
	}
	for at := range s.signature {
		found[fmt.Sprintf("byte %d", at)] = signed{s.key, s.message, flipBits(s.signature, at, 1<<(at%8))}
	}
	return found
}

func flipBits(b []byte, at int, bits byte) []byte {
	b = bytes.Clone(b)
	b[at] ^= bits
	return b
}

// addOrder makes the same number modulo the order of the curve of a scalar, which RFC 8032 section 5.1.7 does not allow.
func addOrder(scalar []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	n := new(big.Int).SetBytes(reversed(scalar))
	return reversed(n.Add(n, order).FillBytes(make([]byte, 32)))
}

// One bad signature spoils its batch, wherever it is and whosever it is.
func TestBatchOfSignatures(t *testing.T) {
	for _, n := range []int{1, 2, 3, 17} {
		for _, keys := range []int{1, 2, n + 1} {
			all := signMessages(t, n+1, keys)
			other := all[n]
			all = all[:n]
			if !allValid(all) {
				t.Errorf("%d valid signatures of %d keys were refused", n, keys)
			}
			bads := faults(all[n/2], other.signature)
			if !bytes.Equal(all[n/2].key, other.key) {
				bads["of another key"] = signed{other.key, all[n/2].message, all[n/2].signature}
			}
			for name, bad := range bads {
				spoiled := slices.Clone(all)
				spoiled[n/2] = bad
				if ed25519.Verify(bad.key, bad.message, bad.signature) {
					t.Fatalf("%s: the library takes it", name)
				}
				if allValid(spoiled) {
					t.Errorf("%d signatures of %d keys, one of them bad (%s), were taken", n, keys, name)
				}
			}
		}
	}
}

// A panic in a batch is no verdict, and leaves nobody waiting: each signature is verified by itself.
func TestPanicInABatch(t *testing.T) {
	if ca.PanicInBatch() {
		t.Error("a batch that could not be read was taken")
	}
}

// Two faults that cancel each other out if the signatures are just added up.
func TestFaultsDoNotCancelOut(t *testing.T) {
	for keys := 1; keys <= 2; keys++ {
		all := signMessages(t, 2, keys)
		a, b := all[0].signature, all[1].signature
		all[0].signature = append(bytes.Clone(a[:32]), plusOne(a[32:], 1)...)
		all[1].signature = append(bytes.Clone(b[:32]), plusOne(b[32:], -1)...)
		if allValid(all) {
			t.Errorf("two signatures that are wrong by +1 and -1 were taken, of %d keys", keys)
		}
	}
}

// A point of small order beside R, which only who knows the private key can add, is not lost by chance.
func TestSmallOrderIsNotLost(t *testing.T) {
	// The y of a point of order 8.
	torsion, err := hex.DecodeString("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
	if err != nil {
		t.Fatal(err)
	}
	small, err := new(edwards25519.Point).SetBytes(torsion)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		all := signMessages(t, 3, 3)
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		all[1] = signed{public, all[1].message, signWithR(t, private, public, all[1].message, small)}
		if ed25519.Verify(all[1].key, all[1].message, all[1].signature) {
			t.Fatal("the library takes it")
		}
		if allValid(all) {
			t.Fatal("a signature whose R has a part of small order was taken")
		}
	}
}

// signWithR signs like RFC 8032 section 5.1.6, but adds a point to R before it is hashed.
func signWithR(t *testing.T, private ed25519.PrivateKey, public ed25519.PublicKey, message []byte, more *edwards25519.Point) []byte {
	t.Helper()
	wide := func(parts ...[]byte) *edwards25519.Scalar {
		digest := sha512.Sum512(bytes.Join(parts, nil))
		s, err := new(edwards25519.Scalar).SetUniformBytes(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	expanded := sha512.Sum512(private.Seed())
	secret, err := new(edwards25519.Scalar).SetBytesWithClamping(expanded[:32])
	if err != nil {
		t.Fatal(err)
	}
	r := wide(expanded[32:], message)
	point := new(edwards25519.Point).ScalarBaseMult(r)
	encoded := point.Add(point, more).Bytes()
	s := edwards25519.NewScalar().MultiplyAdd(wide(encoded, public, message), secret, r)
	return append(encoded, s.Bytes()...)
}

func plusOne(scalar []byte, by int64) []byte {
	n := new(big.Int).SetBytes(reversed(scalar))
	return reversed(n.Add(n, big.NewInt(by)).FillBytes(make([]byte, 32)))
}

// Each of many callers, more than a batch has room for, gets the verdict on its own signature, whoever else is in the batch.
func TestVerdictsInABatch(t *testing.T) {
	const callers, each = 100, 10
	all := signMessages(t, callers*each, callers/2)
	keys := map[string]ssh.PublicKey{}
	for _, s := range all[:callers/2] {
		keys[string(s.key)] = subjectKey(t, s.key)
	}
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				n := c*each + i
				s, bad := all[n], n%7 == 3
				if bad {
					s.signature = flipBits(s.signature, n%64, 4)
				}
				sig := &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: s.signature}
				if err := keys[string(s.key)].Verify(s.message, sig); (err != nil) != bad {
					t.Errorf("signature %d, bad: %v, got: %v", n, bad, err)
				}
			}
		})
	}
	wait.Wait()
}

// subjectKey is the key as requests have it.
func subjectKey(t testing.TB, key ed25519.PublicKey) ssh.PublicKey {
	t.Helper()
	plain, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := ca.ParseSubjectKey(plain.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return subject
}

// A signature of another algorithm is not one by an Ed25519 key, whatever is in it.
func TestFormatOfSignatures(t *testing.T) {
	s := signMessages(t, 1, 1)[0]
	key := subjectKey(t, s.key)
	for _, format := range []string{"", ssh.KeyAlgoSKED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512, ssh.CertAlgoED25519v01} {
		if err := key.Verify(s.message, &ssh.Signature{Format: format, Blob: s.signature}); err == nil {
			t.Errorf("a signature of the algorithm %q was taken", format)
		}
	}
	if err := key.Verify(s.message, &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: s.signature}); err != nil {
		t.Error(err)
	}
}

// BenchmarkBatchVerify measures what a signature costs in batches, of one key and of as many keys as there are signatures.
func BenchmarkBatchVerify(b *testing.B) {
	for _, n := range []int{1, 2, 4, 16, 64} {
		for _, keys := range slices.Compact([]int{1, n}) {
			all := signMessages(b, n, keys)
			b.Run(fmt.Sprintf("signatures=%d/keys=%d", n, keys), func(b *testing.B) {
				for b.Loop() {
					if n == 1 && !ed25519.Verify(all[0].key, all[0].message, all[0].signature) || n > 1 && !allValid(all) {
						b.Fatal("refused")
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/signature")
			})
		}
	}
}
