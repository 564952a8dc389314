package idtoken

import "crypto"

// SigningKeys returns the public keys that a verifier would take from a JWK set.
func SigningKeys(raw []byte) ([]crypto.PublicKey, error) {
	keys, err := parseKeys(raw)
	var public []crypto.PublicKey
	for _, k := range keys {
		public = append(public, k.public.Key)
	}
	return public, err
}
