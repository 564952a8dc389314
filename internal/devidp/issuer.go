package devidp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// Issuer is one of the server's two issuers. To tests of those who rely on it it gives what no honest provider would:
// tokens with any claims and header, and keys that change at will. None of that can be reached over HTTP.
type Issuer struct {
	url  func() string
	keys *keyring
}

// People returns the issuer at URL.
func (s *Server) People() *Issuer { return s.people }

// Workloads returns the issuer at URL/ci.
func (s *Server) Workloads() *Issuer { return s.workloads }

// URL returns the `iss` of the issuer's tokens.
func (i *Issuer) URL() string { return i.url() }

// RotateKey lets a new key sign; tokens signed by the old ones still verify.
func (i *Issuer) RotateKey() error { return i.keys.rotate() }

// ReplaceKey lets a new key sign and withdraws all others.
func (i *Issuer) ReplaceKey() error {
	if err := i.keys.rotate(); err != nil {
		return err
	}
	i.keys.forget()
	return nil
}

// PersonClaims returns the claims of an ID token that the named user would get now on a sign-in with all scopes and no
// nonce; false if there is no such user.
func (s *Server) PersonClaims(name, clientID string) (map[string]any, bool) {
	user, ok := s.config.userByName(name)
	if !ok {
		return nil, false
	}
	now := s.moment().now
	claims := map[string]any{
		"iss":       s.people.URL(),
		"sub":       user.Subject,
		"aud":       []string{clientID},
		"azp":       clientID,
		"iat":       now.Unix(),
		"auth_time": now.Unix(),
		"exp":       now.Add(s.config.IDTokenLifetime).Unix(),
	}
	maps.Copy(claims, user.claims([]string{oidc.ScopeProfile, oidc.ScopeEmail, scopeGroups}))
	return claims, true
}

// TokenOptions change how a token is signed.
type TokenOptions struct {
	// Header is set over alg RS256, typ JWT and the kid of the issuer's key; a nil value removes. The alg decides the
	// signature: RS256; none; HS256 with the issuer's public key in PEM form as the secret; ES256 with a key that nobody
	// knows.
	Header map[string]any

	// Key signs RS256 in place of the issuer's, under the issuer's kid.
	Key *rsa.PrivateKey
}

// Sign returns a compact JWS with exactly these claims, which may be anything that marshals to JSON.
func (i *Issuer) Sign(claims any, options TokenOptions) (string, error) {
	k := i.keys.signing()
	header := map[string]any{"alg": "RS256", "typ": "JWT", "kid": k.id}
	for name, value := range options.Header {
		if value == nil {
			delete(header, name)
			continue
		}
		header[name] = value
	}
	if options.Key != nil {
		k.private = options.Key
	}
	head, err := json.Marshal(header)
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode token claims: %w", err)
	}
	input := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	signature, err := sign(header["alg"], k.private, input)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// sign signs as TokenOptions.Header says. A header without an alg gets an RS256 signature.
func sign(alg any, key *rsa.PrivateKey, input string) ([]byte, error) {
	digest := sha256.Sum256([]byte(input))
	switch alg {
	case "RS256", nil:
		return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	case "none":
		return nil, nil
	case "HS256":
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		mac.Write([]byte(input))
		return mac.Sum(nil), nil
	case "ES256":
		stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		r, s, err := ecdsa.Sign(rand.Reader, stranger, digest[:])
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 64) // r and s, 32 bytes each (RFC 7518 3.4)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature, nil
	}
	return nil, fmt.Errorf("alg %v is not among RS256, none, HS256 and ES256", alg)
}
