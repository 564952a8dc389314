package ca

import "filippo.io/edwards25519"

// validEd25519 says whether b encodes a point of the curve, in the one encoding that RFC 8032 section 5.1.3 allows, and not one
// of the eight for which anybody can sign.
func validEd25519(b []byte) bool {
	if len(b) != 32 || !plainY(b) { // what this leaves out is encoded otherwise, or of order 1 or 2
		return false
	}
	point, err := new(edwards25519.Point).SetBytes(b)
	return err == nil && point.MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 0
}
