package idtoken_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// fuzzKey signs fast and in one way only.
var fuzzKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func newFuzzVerifier(t testing.TB) (*idtoken.Verifier, string) {
	t.Helper()
	issuer := keysServer(t, []any{jose.JSONWebKey{KeyID: "a", Key: fuzzKey.Public()}})
	return newVerifier(t, idtoken.Config{Issuers: []idtoken.Issuer{{
		URL: issuer, Audience: "hallpass", Kind: ca.Person, AllowInsecure: true, Algorithms: []string{"EdDSA"},
	}}}), issuer
}

// checkCaller fails unless what Authenticate returned keeps its promises.
func checkCaller(t *testing.T, issuer string, caller ca.Caller, err error) {
	t.Helper()
	var refusal *ca.Error
	if err != nil && !errors.As(err, &refusal) {
		t.Fatalf("got %T, want a *ca.Error", err)
	}
	id := caller.Identity
	known := id.Subject != ""
	switch {
	case err == nil && !known:
		t.Fatal("nobody was authenticated")
	case known && err != nil && refusal.Kind != ca.Denied:
		t.Fatalf("a known caller got %s, want Denied", refusal.Kind)
	case !known && refusal.Kind != ca.Unauthenticated:
		t.Fatalf("a stranger got %s, want Unauthenticated", refusal.Kind)
	case refusal != nil && (!utf8.ValidString(refusal.Message) || strings.ContainsAny(refusal.Message, "\n\x00\x1b")):
		t.Fatalf("the message %q is not fit to be shown", refusal.Message)
	case known && (id.Issuer != issuer || id.Kind != ca.Person || strings.ContainsAny(id.Subject, "\n\x00")):
		t.Fatalf("got identity %+v", id)
	case strings.Count(id.Email, "@") > 1 || len(id.Email) > 254 || err == nil && id.Email == "":
		t.Fatalf("got email %q", id.Email)
	case len(id.Groups) > 1000:
		t.Fatalf("got %d groups", len(id.Groups))
	}
}

// FuzzJWTPrecheck shows that no token gets in but the one that was signed, however it is written.
func FuzzJWTPrecheck(f *testing.F) {
	v, issuer := newFuzzVerifier(f)
	now := time.Now()
	good := signJOSE(f, issuer, "a", jose.EdDSA, fuzzKey)
	parts := strings.Split(good, ".")
	f.Add(parts[0], parts[1], parts[2])
	f.Add("eyJhbGciOiJub25lIn0", parts[1], "")
	f.Add(parts[0], parts[1], parts[2]+"=")
	f.Add(parts[0]+".", parts[1], parts[2])
	f.Add("eyJhbGciOiJFZERTQSIsImtpZCI6ImEiLCJjcml0IjpbImI2NCJdLCJiNjQiOmZhbHNlfQ", parts[1], parts[2])
	f.Fuzz(func(t *testing.T, header, payload, signature string) {
		raw := header + "." + payload + "." + signature
		caller, err := v.Authenticate(t.Context(), raw, now)
		if err == nil && raw != good {
			t.Fatalf("%q got in", raw)
		}
		checkCaller(t, issuer, caller, err)
	})
}

// FuzzIDTokenClaims shows that claims which the issuer signed are read in one way or not at all.
func FuzzIDTokenClaims(f *testing.F) {
	v, issuer := newFuzzVerifier(f)
	now := time.Unix(1_800_000_000, 0)
	const good = `{"iss":"ISSUER","sub":"s-1","aud":"hallpass","iat":1799999990,"exp":1800000300,"email":"a@example.com","groups":[],"email_verified":true}`
	f.Add(good)
	f.Add(strings.Replace(good, `"hallpass"`, `["hallpass","x"],"azp":"hallpass"`, 1))
	f.Add(strings.Replace(good, `true`, `"true"`, 1))
	f.Add(strings.Replace(good, `[]`, `["a","b\u0000"]`, 1))
	f.Add(strings.Replace(good, `true`, `true,"_claim_names":{"groups":"s"},"_claim_sources":{"s":{}}`, 1))
	f.Add(strings.Replace(good, `"s-1"`, `"s-1","SUB":"s-2"`, 1))
	f.Fuzz(func(t *testing.T, claims string) {
		claims = strings.ReplaceAll(claims, "ISSUER", issuer)
		input := encode(`{"alg":"EdDSA","kid":"a"}`) + "." + encode(claims)
		raw := input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(fuzzKey, []byte(input)))
		caller, err := v.Authenticate(t.Context(), raw, now)
		checkCaller(t, issuer, caller, err)
		if caller.Identity.Subject == "" {
			return
		}
		var other struct {
			Subject string   `json:"sub"`
			Email   string   `json:"email"`
			Groups  []string `json:"groups"`
		}
		if err := json.Unmarshal([]byte(claims), &other); err == nil && other.Subject != caller.Identity.Subject {
			t.Fatalf("sub is %q to one reader and %q to another", caller.Identity.Subject, other.Subject)
		}
	})
}

// FuzzJWKS shows that whatever an issuer publishes, only public keys that are fit for ID tokens are taken from it.
func FuzzJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik","kid":"a"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := idtoken.SigningKeys(raw)
		if err != nil && keys != nil {
			t.Fatal("both keys and an error")
		}
		for _, key := range keys {
			switch key := key.(type) {
			case *rsa.PublicKey:
				if n := key.N.BitLen(); n < 2048 || n > 8192 {
					t.Fatalf("an RSA key of %d bits was taken", n)
				}
			case *ecdsa.PublicKey:
				if !key.Curve.IsOnCurve(key.X, key.Y) { //nolint:staticcheck // it is what says whether a point is on its curve
					t.Fatal("a point off its curve was taken")
				}
			case ed25519.PublicKey:
				if len(key) != ed25519.PublicKeySize {
					t.Fatalf("an Ed25519 key of %d bytes was taken", len(key))
				}
			default:
				t.Fatalf("a key of type %T was taken", key)
			}
		}
	})
}
