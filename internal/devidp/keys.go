package devidp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

const rsaBits = 2048

// signingKey is an RSA key that signs RS256, in the words of op.SigningKey.
type signingKey struct {
	id      string // RFC 7638 thumbprint
	private *rsa.PrivateKey
}

func (k signingKey) ID() string                                  { return k.id }
func (k signingKey) Key() any                                    { return k.private }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

// publicKey is the published half of a signingKey, in the words of op.Key.
type publicKey struct{ signingKey }

func (k publicKey) Key() any                           { return &k.private.PublicKey }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }

func newSigningKey() (signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("make signing key: %w", err)
	}
	return asSigningKey(private)
}

func asSigningKey(private *rsa.PrivateKey) (signingKey, error) {
	thumbprint, err := (&jose.JSONWebKey{Key: &private.PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil {
		return signingKey{}, fmt.Errorf("name signing key: %w", err)
	}
	return signingKey{id: base64.RawURLEncoding.EncodeToString(thumbprint), private: private}, nil
}

// keyring holds the keys of one issuer: those it publishes, the newest of which signs.
type keyring struct {
	mu   sync.Mutex
	keys []signingKey // guarded by mu; never empty; newest first
}

func (r *keyring) signing() signingKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[0]
}

func (r *keyring) published() []publicKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	var public []publicKey
	for _, k := range r.keys {
		public = append(public, publicKey{k})
	}
	return public
}

func (r *keyring) jwks() jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for _, k := range r.published() {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Key(), KeyID: k.id, Algorithm: string(jose.RS256), Use: k.Use()})
	}
	return set
}

// rotate lets a new key sign; the older ones stay published.
func (r *keyring) rotate() error {
	k, err := newSigningKey()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = slices.Insert(r.keys, 0, k)
	return nil
}

// forget withdraws every key but the one that signs.
func (r *keyring) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = r.keys[:1:1]
}

// loadKeys returns the keys of the two issuers from the PEM file, which it makes if there is none. Without a path the
// keys are new ones.
func loadKeys(path string) (people, workloads *keyring, err error) {
	if path == "" {
		return newKeys()
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKeys(path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("load signing keys: %w", err)
	}
	var rings []*keyring
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("load signing keys %s: %w", path, err)
		}
		private, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, nil, fmt.Errorf("load signing keys %s: a %T, want RSA", path, parsed)
		}
		k, err := asSigningKey(private)
		if err != nil {
			return nil, nil, err
		}
		rings = append(rings, &keyring{keys: []signingKey{k}})
	}
	if len(rings) != 2 {
		return nil, nil, fmt.Errorf("load signing keys %s: %d keys, want 2 (people, workloads); remove the file to have it made anew", path, len(rings))
	}
	return rings[0], rings[1], nil
}

func newKeys() (people, workloads *keyring, err error) {
	var rings [2]*keyring
	for i := range rings {
		k, err := newSigningKey()
		if err != nil {
			return nil, nil, err
		}
		rings[i] = &keyring{keys: []signingKey{k}}
	}
	return rings[0], rings[1], nil
}

func createKeys(path string) (people, workloads *keyring, err error) {
	if people, workloads, err = newKeys(); err != nil {
		return nil, nil, err
	}
	var text bytes.Buffer
	for _, r := range []*keyring{people, workloads} {
		der, err := x509.MarshalPKCS8PrivateKey(r.signing().private)
		if err != nil {
			return nil, nil, fmt.Errorf("write signing keys: %w", err)
		}
		if err := pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
			return nil, nil, fmt.Errorf("write signing keys: %w", err)
		}
	}
	if err := writeFile(path, text.Bytes()); err != nil {
		return nil, nil, fmt.Errorf("write signing keys: %w", err)
	}
	return people, workloads, nil
}

// writeFile puts a file that only its owner can read in place at once: readers see all of it or none.
func writeFile(path string, data []byte) error {
	temp := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}
