package ca

import (
	"bytes"

	"filippo.io/edwards25519"
)

// validEd25519 says whether b encodes a point of the curve, in the one encoding that RFC 8032 section 5.1.3 allows, and not one
// of the eight for which anybody can sign.
func validEd25519(b []byte) bool {
	point, err := new(edwards25519.Point).SetBytes(b)
	if err != nil || !bytes.Equal(point.Bytes(), b) {
		return false
	}
	return point.MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 0
}
