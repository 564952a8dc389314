package ca

import (
	"bytes"
	"slices"

	"filippo.io/edwards25519"
)

// validEd25519 says whether b encodes a point of the curve, in the one encoding that RFC 8032 section 5.1.3 allows, and not one
// of the eight for which anybody can sign.
func validEd25519(b []byte) bool {
	if len(b) != 32 || !plainY(b) { // what this leaves out is encoded otherwise, or of order 1 or 2
		return false
	}
	point, err := new(edwards25519.Point).SetBytes(b)
	return err == nil && point.MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 0
}

// plainY says whether the y of an encoded point is greater than 1 and less than -1, so that the point has no other encoding.
func plainY(encoded []byte) bool {
	y := slices.Clone(encoded)
	slices.Reverse(y)
	y[0] &= 0x7f // the sign of x
	return bytes.Compare(y, yOne) > 0 && bytes.Compare(y, yMinusOne) < 0
}

var (
	yOne      = append(make([]byte, 31), 1)
	yMinusOne = append(append([]byte{0x7f}, bytes.Repeat([]byte{0xff}, 30)...), 0xec)
)
