package idtoken_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// keysServer speaks as much of the protocol as a verifier needs, and publishes any keys.
func keysServer(t testing.TB, keys any) (issuer string) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	answer := func(v any) http.HandlerFunc {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(body)
		}
	}
	mux.Handle("/.well-known/openid-configuration", answer(map[string]any{"issuer": server.URL, "jwks_uri": server.URL + "/keys"}))
	mux.Handle("/keys", answer(map[string]any{"keys": keys}))
	return server.URL
}

// signJOSE signs a good token of the issuer with any key and algorithm. An empty kid is left out.
func signJOSE(t testing.TB, issuer, kid string, alg jose.SignatureAlgorithm, private any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: private, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": "s-1", "aud": "hallpass", "iat": now, "exp": now + 300, "email": "a@example.com", "email_verified": true,
		"groups": []string{},
	})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestKeysOfAllKinds(t *testing.T) {
	must := func(key crypto.Signer, err error) crypto.Signer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	newRSA := func(bits int) crypto.Signer { return must(rsa.GenerateKey(rand.Reader, bits)) }
	newEC := func(curve elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(curve, rand.Reader)) }
	t.Setenv("GODEBUG", "rsa1024min=0") // to make the weak key that must be refused
	rsa2048, other, weak := newRSA(2048), newRSA(2048), newRSA(1024)
	p256, p384 := newEC(elliptic.P256()), newEC(elliptic.P384())
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := func(kid string, key crypto.Signer) jose.JSONWebKey {
		return jose.JSONWebKey{KeyID: kid, Key: key.Public()}
	}
	secret := jose.JSONWebKey{KeyID: "a", Key: []byte("0123456789abcdef0123456789abcdef")}
	encryption, forPS256 := public("a", rsa2048), public("a", rsa2048)
	encryption.Use, forPS256.Algorithm = "enc", "PS256"
	type list = []any
	for _, tt := range []struct {
		name string
		keys list
		kid  string
		alg  jose.SignatureAlgorithm
		key  any
		want string // empty: taken
	}{
		{"RS256 is taken", list{public("a", rsa2048)}, "a", jose.RS256, rsa2048, ""},
		{"ES256 is taken", list{public("a", p256)}, "a", jose.ES256, p256, ""},
		{"ES384 is taken where it is allowed", list{public("a", p384)}, "a", jose.ES384, p384, ""},
		{"EdDSA is taken where it is allowed", list{public("a", edKey)}, "a", jose.EdDSA, edKey, ""},
		{"RS512 is refused where it is not allowed", list{public("a", rsa2048)}, "a", jose.RS512, rsa2048, "not allowed"},
		{"a key of P-384 is refused for ES256", list{public("a", p384)}, "a", jose.ES256, p256, "not that of the key"},
		{"a key that is only for PS256 is refused for RS256", list{forPS256}, "a", jose.RS256, rsa2048, "not that of the key"},
		{"an absent kid is taken where there is one key", list{public("a", rsa2048)}, "", jose.RS256, rsa2048, ""},
		{"an absent kid is taken where the one key has none", list{public("", rsa2048)}, "", jose.RS256, rsa2048, ""},
		{"an absent kid is refused where there are two keys", list{public("a", rsa2048), public("b", p256)}, "", jose.RS256, rsa2048, "no kid"},
		{"a kid that two keys have is refused", list{public("a", other), public("a", rsa2048)}, "a", jose.RS256, rsa2048, "two of that name"},
		{"a kid is not that of a key without one", list{public("", rsa2048)}, "a", jose.RS256, rsa2048, "does not publish"},
		{"a kid in other letters is refused", list{public("A", rsa2048)}, "a", jose.RS256, rsa2048, "does not publish"},
		{"a symmetric key is left out", list{secret}, "a", jose.RS256, rsa2048, "does not publish"},
		{"a private key is left out", list{jose.JSONWebKey{KeyID: "a", Key: rsa2048}}, "a", jose.RS256, rsa2048, "does not publish"},
		{"a key for encryption is left out", list{encryption}, "a", jose.RS256, rsa2048, "does not publish"},
		{"an RSA key of 1024 bits is left out", list{public("a", weak)}, "a", jose.RS256, weak, "does not publish"},
		{"unknown and broken keys beside a good one do no harm", list{
			map[string]any{"kty": "XYZ", "kid": "a"}, map[string]any{"kty": "RSA", "kid": "a"}, "text", secret, public("a", rsa2048),
		}, "a", jose.RS256, rsa2048, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			issuer := keysServer(t, tt.keys)
			v := newVerifier(t, idtoken.Config{Issuers: []idtoken.Issuer{{
				URL: issuer, Audience: "hallpass", Kind: ca.Person, AllowInsecure: true, Algorithms: []string{"RS256", "ES256", "ES384", "EdDSA"},
			}}})
			_, err := v.Authenticate(t.Context(), signJOSE(t, issuer, tt.kid, tt.alg, tt.key), time.Now())
			if tt.want != "" {
				wantRefused(t, err, ca.Unauthenticated, tt.want)
			} else if err != nil {
				t.Errorf("got %v, want no error", err)
			}
		})
	}
}

// TestASignatureMadeOverIsTheSameToken takes the signature (r, s) of a token to (r, n-s), which verifies too and needs no key.
func TestASignatureMadeOverIsTheSameToken(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := keysServer(t, []any{jose.JSONWebKey{KeyID: "a", Key: key.Public()}})
	v := newVerifier(t, idtoken.Config{Issuers: []idtoken.Issuer{{URL: issuer, Audience: "hallpass", Kind: ca.Workload, AllowInsecure: true}}})
	raw := signJOSE(t, issuer, "a", jose.ES256, key)
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	var digests [][32]byte
	for _, token := range []string{raw, raw[:dot+1] + base64.RawURLEncoding.EncodeToString(signature)} {
		caller, err := v.Authenticate(t.Context(), token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, caller.Token.Digest)
	}
	if digests[0] != digests[1] {
		t.Error("one token has two digests, so it could serve twice")
	}
	if _, err := v.Authenticate(t.Context(), raw[:dot+1]+encode(strings.Repeat("x", 64)), time.Now()); err == nil {
		t.Error("a signature that does not verify is taken for one that was remembered")
	}
}

// TestKeysOverHTTP shows that an issuer cannot send the verifier to a place that is not safe.
func TestKeysOverHTTP(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"issuer":"` + server.URL + `","jwks_uri":"http://127.0.0.1:1/keys"}`))
	})
	v := newVerifier(t, idtoken.Config{Issuers: []idtoken.Issuer{{
		URL: server.URL, Audience: "hallpass", Kind: ca.Person, CAFile: writeCA(t, server),
	}}})
	raw := signJOSE(t, server.URL, "a", jose.EdDSA, ed25519.NewKeyFromSeed(make([]byte, 32)))
	_, err := v.Authenticate(t.Context(), raw, time.Now())
	wantRefused(t, err, ca.Unauthenticated, "not allowed for issuer")
	_, err = v.Authenticate(t.Context(), signRS256(t, server.URL), time.Now())
	wantRefused(t, err, ca.Unavailable, "keys of issuer")
	if got := v.Health()[0].Error; !strings.Contains(got, "http is allowed for a trial") {
		t.Errorf("health says %q, want that http is refused", got)
	}
}

// TestUnknownAuthority shows that the issuer's certificate must be of a root that is trusted.
func TestUnknownAuthority(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	v := newVerifier(t, idtoken.Config{Issuers: []idtoken.Issuer{{URL: server.URL, Audience: "hallpass", Kind: ca.Person}}})
	_, err := v.Authenticate(t.Context(), signRS256(t, server.URL), time.Now())
	wantRefused(t, err, ca.Unavailable, "keys of issuer")
	if got := v.Health()[0].Error; !strings.Contains(got, "certificate") {
		t.Errorf("health says %q, want what is wrong with the certificate", got)
	}
}

func signRS256(t testing.TB, issuer string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signJOSE(t, issuer, "a", jose.RS256, key)
}

// writeCA writes the certificate of a test server where a CAFile can name it.
func writeCA(t testing.TB, server *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
