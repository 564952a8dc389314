package ca

import (
	"encoding/binary"
	"math/big"
	"math/bits"
	"sync"
)

// The field and the curve of RFC 8032 section 5.1: -x^2 + y^2 = 1 + d*x^2*y^2.
var (
	ed25519P = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	ed25519D = fromHex("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3")
	// smallOrderY are the y coordinates of the eight points whose order divides 8; the sign of x does not matter.
	smallOrderY = []*big.Int{
		big.NewInt(0), // order 4
		big.NewInt(1), // the neutral point
		new(big.Int).Sub(ed25519P, big.NewInt(1)),                                   // order 2
		fromHex("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826"), // order 8
		fromHex("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7"), // order 8
	}
)

func fromHex(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 16)
	return n
}

// maxValidPoints bounds validPoints, in points of 32 bytes.
const maxValidPoints = 4096

// validPoints remembers points that passed, because every request asks about the same one three times, and people come back with
// their keys. Whether a point is valid never changes.
var validPoints = struct {
	sync.Mutex // guards known
	known      map[[32]byte]struct{}
}{known: map[[32]byte]struct{}{}}

// validEd25519 says whether b encodes a point of the curve, in the one encoding that RFC 8032 section 5.1.3 allows, and not one
// of the eight for which anybody can sign.
func validEd25519(b []byte) bool {
	if len(b) != 32 {
		return false
	}
	validPoints.Lock()
	_, known := validPoints.known[[32]byte(b)]
	validPoints.Unlock()
	if known {
		return true
	}
	if !isValidPoint(b) {
		return false
	}
	validPoints.Lock()
	defer validPoints.Unlock()
	if len(validPoints.known) >= maxValidPoints {
		clear(validPoints.known)
	}
	validPoints.known[[32]byte(b)] = struct{}{}
	return true
}

// isValidPoint computes what validEd25519 remembers, of 32 bytes.
func isValidPoint(b []byte) bool {
	bigEndian := make([]byte, 32)
	for i := range b {
		bigEndian[31-i] = b[i]
	}
	bigEndian[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(bigEndian)
	if y.Cmp(ed25519P) >= 0 {
		return false
	}
	for _, small := range smallOrderY {
		if y.Cmp(small) == 0 {
			return false
		}
	}
	// x^2 = u/v has a root exactly if u*v is a square.
	one, y2 := big.NewInt(1), new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(y2, one)
	v := new(big.Int).Add(y2.Mul(y2, ed25519D), one)
	return isSquare(u.Mul(u, v).Mod(u, ed25519P))
}

// isSquare says whether a, at least 0 and less than the prime of the field, is the square of a number other than 0: whether the
// Jacobi symbol (a/p) is 1. The binary algorithm subtracts and halves where big.Jacobi divides and allocates, and every request
// asks several times. It takes about a third of the time.
func isSquare(a *big.Int) bool {
	x, n, square := wordsOf(a), wordsOf(ed25519P), true
	for x != (words{}) {
		// (2/n) is -1 exactly if n is 3 or 5 modulo 8.
		if twos := x.removeTwos(); twos%2 == 1 && (n[0]%8 == 3 || n[0]%8 == 5) {
			square = !square
		}
		if x.less(n) {
			x, n = n, x
			if x[0]%4 == 3 && n[0]%4 == 3 { // quadratic reciprocity
				square = !square
			}
		}
		x.subtract(n)
	}
	return square && n == words{1}
}

// words are a number of 256 bits, the lowest first.
type words [4]uint64

func wordsOf(a *big.Int) words {
	var b [32]byte
	a.FillBytes(b[:])
	var w words
	for i := range w {
		w[3-i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return w
}

// removeTwos divides w, which is not 0, by 2 until it is odd, and returns how often.
func (w *words) removeTwos() int {
	n := 0
	for w[0] == 0 {
		w[0], w[1], w[2], w[3] = w[1], w[2], w[3], 0
		n += 64
	}
	shift := bits.TrailingZeros64(w[0])
	for i := range 3 {
		w[i] = w[i]>>shift | w[i+1]<<(64-shift)
	}
	w[3] >>= shift
	return n + shift
}

func (w *words) less(other words) bool {
	_, borrow := w.minus(other)
	return borrow == 1
}

// subtract subtracts a number that is not larger.
func (w *words) subtract(other words) { *w, _ = w.minus(other) }

func (w *words) minus(other words) (difference words, borrow uint64) {
	for i := range w {
		difference[i], borrow = bits.Sub64(w[i], other[i], borrow)
	}
	return difference, borrow
}
