package ca_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"math/big"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// TestSquaresAreThoseOfTheLibrary holds the symbol that is computed here against that of math/big.
func TestSquaresAreThoseOfTheLibrary(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	check := func(a *big.Int) {
		t.Helper()
		if got, want := ca.IsSquare(a), big.Jacobi(a, p) == 1; got != want {
			t.Errorf("%v is a square: got %v, want %v", a, got, want)
		}
	}
	for i := range int64(1000) {
		check(big.NewInt(i))
		check(new(big.Int).Sub(p, big.NewInt(i+1)))
	}
	for i := range uint(255) { // words that are zero
		check(new(big.Int).Lsh(big.NewInt(1), i))
		check(new(big.Int).Mod(new(big.Int).Lsh(big.NewInt(3), i), p))
	}
	for range 2000 {
		a, err := rand.Int(rand.Reader, p)
		if err != nil {
			t.Fatal(err)
		}
		check(a)
		check(a.Mul(a, a).Mod(a, p))
	}
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
