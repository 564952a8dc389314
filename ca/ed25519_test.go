package ca_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// TestPointsAreThoseOfTheCurve holds what is taken for a point against RFC 8032 section 5.1.3, computed with math/big.
func TestPointsAreThoseOfTheCurve(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(-121666), p)
	d.Mod(d.Mul(d, big.NewInt(121665)), p)
	valid := func(encoded []byte) bool {
		y := new(big.Int).SetBytes(reversed(encoded))
		y.SetBit(y, 255, 0)
		y2 := new(big.Int).Mul(y, y)
		u := new(big.Int).Sub(y2, big.NewInt(1))
		v := new(big.Int).Add(new(big.Int).Mul(y2, d), big.NewInt(1))
		// x^2 = u/v has a root other than 0 exactly if u*v is a square.
		return y.Cmp(p) < 0 && big.Jacobi(u.Mul(u, v).Mod(u, p), p) == 1
	}
	check := func(y *big.Int, sign uint) {
		t.Helper()
		encoded := reversed(new(big.Int).SetBit(y, 255, sign).FillBytes(make([]byte, 32)))
		want := valid(encoded) && !smallOrder[string(encoded[:31])+string(encoded[31]&0x7f)]
		if got := ca.IsValidPoint(encoded); got != want {
			t.Errorf("%x is a point: got %v, want %v", encoded, got, want)
		}
	}
	for i := range int64(300) {
		for sign := range uint(2) {
			check(big.NewInt(i), sign)
			check(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(i+1)), sign) // some of these are p or more
		}
	}
	for range 1000 {
		y, err := rand.Int(rand.Reader, p)
		if err != nil {
			t.Fatal(err)
		}
		check(y, 0)
		check(y, 1)
	}
	found := 0
	for encoded := range smallOrder {
		if valid([]byte(encoded)) {
			found++
		}
		if ca.IsValidPoint([]byte(encoded)) {
			t.Errorf("%x is of small order, and was taken", encoded)
		}
	}
	if found != 3 {
		t.Errorf("%d of the points of small order have an x that is not 0, want 3", found)
	}
}

// smallOrder are the points whose order divides 8, without the sign of x (RFC 7748 section 7 lists those of the curve that this one
// is another form of).
var smallOrder = map[string]bool{
	hexed("0000000000000000000000000000000000000000000000000000000000000000"): true,
	hexed("0100000000000000000000000000000000000000000000000000000000000000"): true,
	hexed("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"): true,
	hexed("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"): true,
	hexed("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"): true,
}

func hexed(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// BenchmarkParseSubjectKey measures what is asked about each key several times.
func BenchmarkParseSubjectKey(b *testing.B) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		b.Fatal(err)
	}
	wire := key.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ca.ParseSubjectKey(wire); err != nil {
			b.Fatal(err)
		}
	}
}
