package idtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// RSA keys below are weak; those above cost their verifier minutes.
const (
	minRSA = 2048 // bits
	maxRSA = 8192 // bits
)

// key is a public key that an issuer signs with.
type key struct {
	id         string // empty if the issuer gave it none
	alg        string // the only algorithm it is for; empty if the issuer names none
	public     jose.JSONWebKey
	thumbprint string // RFC 7638
}

// fits reports whether a token of the algorithm can have been signed by the key.
func (k *key) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch public := k.public.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return map[string]string{"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[alg] == public.Curve.Params().Name
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// parseKeys decodes a JWK set. Keys that cannot sign ID tokens are left out, as RFC 7517 5 asks: of unknown types, for
// encryption, symmetric, private, or RSA of an unreasonable size. A set may be empty: its issuer withdrew all keys.
func parseKeys(raw []byte) ([]*key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("decode JWK set: %w", err)
	}
	if set.Keys == nil {
		return nil, errors.New("decode JWK set: it has no keys")
	}
	keys := []*key{}
	for _, raw := range set.Keys {
		var public jose.JSONWebKey
		if json.Unmarshal(raw, &public) != nil || !signs(&public) {
			continue
		}
		thumbprint, err := public.Thumbprint(crypto.SHA256)
		if err != nil {
			continue
		}
		keys = append(keys, &key{id: public.KeyID, alg: public.Algorithm, public: public, thumbprint: string(thumbprint)})
	}
	return keys, nil
}

func signs(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" {
		return false
	}
	switch public := k.Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSA && public.N.BitLen() <= maxRSA && public.E >= 3
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// fetchKeys discovers where the issuer's keys are and gets them.
func (s *source) fetchKeys(ctx context.Context) ([]*key, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.url)
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	var metadata struct {
		KeysURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if metadata.KeysURL == "" {
		return nil, errors.New("discover: the issuer names no jwks_uri")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, metadata.KeysURL, nil)
	if err != nil {
		return nil, fmt.Errorf("get keys: %w", err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("get keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get keys: %s", resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("get keys: %w", err)
	}
	return parseKeys(body)
}
