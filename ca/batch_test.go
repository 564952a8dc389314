package ca_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/big"
	"sync"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
)

// signed is a message with what is said to be its signature.
type signed struct{ message, signature []byte }

func signMessages(t testing.TB, n int) (ed25519.PublicKey, []signed) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]signed, n)
	for i := range all {
		message := bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(i)), 1+i*7)
		all[i] = signed{message, ed25519.Sign(private, message)}
	}
	return public, all
}

func allValid(key []byte, all []signed) bool {
	var messages, signatures [][]byte
	for _, s := range all {
		messages, signatures = append(messages, s.message), append(signatures, s.signature)
	}
	return ca.AllValid(key, messages, signatures)
}

// faults make something else of a signature; most of it is not valid, and one is another name for one that is.
func faults(s signed, other []byte) map[string]signed {
	found := map[string]signed{
		"no signature":        {s.message, nil},
		"too short":           {s.message, s.signature[:63]},
		"too long":            {s.message, append(bytes.Clone(s.signature), 0)},
		"of another message":  {s.message, other},
		"another message":     {append(bytes.Clone(s.message), 0), s.signature},
		"nothing but zeros":   {s.message, make([]byte, 64)},
		"the neutral point":   {s.message, append(append([]byte{1}, make([]byte, 31)...), s.signature[32:]...)},
		"the sign of R":       {s.message, flipBits(s.signature, 31, 0x80)},
		"R has no other name": {s.message, append(bytes.Repeat([]byte{0xff}, 32), s.signature[32:]...)},
		"S and the order":     {s.message, append(bytes.Clone(s.signature[:32]), addOrder(s.signature[32:])...)},
	}
	for at := range s.signature {
		found[fmt.Sprintf("byte %d", at)] = signed{s.message, flipBits(s.signature, at, 1<<(at%8))}
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

// One bad signature spoils its batch, wherever it is.
func TestBatchOfSignatures(t *testing.T) {
	for _, n := range []int{1, 2, 3, 17} {
		key, all := signMessages(t, n+1)
		other := all[n].signature
		all = all[:n]
		if !allValid(key, all) {
			t.Errorf("%d valid signatures were refused", n)
		}
		for name, bad := range faults(all[n/2], other) {
			spoiled := append([]signed{}, all...)
			spoiled[n/2] = bad
			if ed25519.Verify(key, bad.message, bad.signature) {
				t.Fatalf("%s: the library takes it", name)
			}
			if allValid(key, spoiled) {
				t.Errorf("%d signatures, one of them bad (%s), were taken", n, name)
			}
		}
	}
}

// A panic in a batch is no verdict, and leaves nobody waiting: each signature is verified by itself.
func TestPanicInABatch(t *testing.T) {
	if key, _ := signMessages(t, 1); ca.PanicInBatch(key) {
		t.Error("a batch that could not be read was taken")
	}
}

// Two faults that cancel each other out if the signatures are just added up.
func TestFaultsDoNotCancelOut(t *testing.T) {
	key, all := signMessages(t, 2)
	a, b := all[0].signature, all[1].signature
	all[0].signature = append(bytes.Clone(a[:32]), plusOne(a[32:], 1)...)
	all[1].signature = append(bytes.Clone(b[:32]), plusOne(b[32:], -1)...)
	if allValid(key, all) {
		t.Error("two signatures that are wrong by +1 and -1 were taken")
	}
}

func plusOne(scalar []byte, by int64) []byte {
	n := new(big.Int).SetBytes(reversed(scalar))
	return reversed(n.Add(n, big.NewInt(by)).FillBytes(make([]byte, 32)))
}

// Each of many callers gets the verdict on its own signature, whoever else is in the batch.
func TestVerdictsInABatch(t *testing.T) {
	const callers, each = 32, 20
	key, all := signMessages(t, callers*each)
	verifier := ca.NewBatchVerifier(key)
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				n := c*each + i
				s, bad := all[n], n%7 == 3
				if bad {
					s.signature = flipBits(s.signature, n%64, 4)
				}
				if err := verifier.Verify(s.message, s.signature); (err != nil) != bad {
					t.Errorf("signature %d, bad: %v, got: %v", n, bad, err)
				}
			}
		})
	}
	wait.Wait()
}

// BenchmarkBatchVerify measures what a signature costs in batches.
func BenchmarkBatchVerify(b *testing.B) {
	for _, n := range []int{1, 2, 4, 16, 64} {
		key, all := signMessages(b, n)
		b.Run(fmt.Sprintf("signatures=%d", n), func(b *testing.B) {
			for b.Loop() {
				if n == 1 && !ed25519.Verify(key, all[0].message, all[0].signature) || n > 1 && !allValid(key, all) {
					b.Fatal("refused")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/signature")
		})
	}
}
