package idtoken_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// TestStrangers shows for each way in which a token can be wrong that its bearer stays a stranger, and that the refusal says why.
func TestStrangers(t *testing.T) {
	now := time.Now()
	server := startProvider(t, devidp.Config{KeyFile: keyFile, Clock: func() time.Time { return now }})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	type header = map[string]any
	type claims = map[string]any
	for _, tt := range []struct {
		name   string
		header header
		claims claims
		want   string
	}{
		{"alg none is refused", header{"alg": "none"}, nil, "no signature"},
		{"alg None in other letters is refused", header{"alg": "none", "typ": nil}, nil, "no signature"},
		{"HS256 keyed with the public key is refused", header{"alg": "HS256"}, nil, `"HS256", which is not allowed`},
		{"ES256 under the name of an RSA key is refused", header{"alg": "ES256"}, nil, "ES256, is not that of the key"},
		{"an absent alg is refused", header{"alg": nil}, nil, "names no alg"},
		{"an absent kid is taken for the only key, but the key must verify", header{"kid": nil, "alg": "ES256"}, nil, "is not that of the key"},
		{"an unknown kid is refused", header{"kid": "nobody's"}, nil, "does not publish"},
		{"a kid of 10 kB is refused", header{"kid": strings.Repeat("k", 10_000)}, nil, "header is longer"},
		{"a kid of 300 bytes is refused", header{"kid": strings.Repeat("k", 300)}, nil, "kid"},
		{"an empty kid is refused", header{"kid": ""}, nil, "kid"},
		{"a kid that is a number is refused", header{"kid": 1}, nil, "kid"},
		{"a header with jwk is refused", header{"jwk": claims{"kty": "RSA"}}, nil, `"jwk"`},
		{"a header with jku is refused", header{"jku": "https://evil.example/keys"}, nil, `"jku"`},
		{"a header with JKU is refused", header{"JKU": "https://evil.example/keys"}, nil, `"JKU"`},
		{"a header with x5u is refused", header{"x5u": "https://evil.example/cert"}, nil, `"x5u"`},
		{"a header with x5c is refused", header{"x5c": []string{"MII"}}, nil, `"x5c"`},
		{"a header with crit is refused", header{"crit": []string{"exp"}}, nil, `"crit"`},
		{"a header with b64 is refused", header{"b64": false}, nil, `"b64"`},
		{"a header with zip is refused", header{"zip": "DEF"}, nil, `"zip"`},
		{"an access token is refused", header{"typ": "at+jwt"}, nil, `"at+jwt", not an ID token`},
		{"a logout token is refused", header{"typ": "logout+jwt"}, nil, `"logout+jwt", not an ID token`},
		{"a logout token without typ is refused", nil, claims{"events": claims{}}, "logout token"},
		{"an access token of Keycloak is refused", nil, claims{"typ": "Bearer"}, "typ claim"},
		{"an access token of Cognito is refused", nil, claims{"token_use": "access"}, "token_use"},

		{"a missing iss is refused", nil, claims{"iss": absent}, "no iss"},
		{"an iss that is a list is refused", nil, claims{"iss": []string{server.URL()}}, "iss is not a string"},
		{"an iss in other letters is refused", nil, claims{"iss": strings.ToUpper(server.URL())}, "not one of this service"},
		{"an iss with another scheme is refused", nil, claims{"iss": strings.Replace(server.URL(), "http:", "https:", 1)}, "not one of this service"},
		{"an iss with a slash after it is refused", nil, claims{"iss": server.URL() + "/"}, "not one of this service"},
		{"the iss of the other issuer, whose key did not sign, is refused", nil, claims{"iss": server.URL() + "/ci", "aud": "hallpass-ci"}, "does not publish"},
		{"a missing aud is refused", nil, claims{"aud": absent}, "no aud"},
		{"an empty aud is refused", nil, claims{"aud": []string{}}, "no aud"},
		{"an aud that is null is refused", nil, claims{"aud": nil}, "no aud"},
		{"an aud with a number in it is refused", nil, claims{"aud": []any{"hallpass", 1}}, "aud is not a string"},
		{"an aud of twenty is refused", nil, claims{"aud": strings.Split(strings.Repeat("hallpass ", 20), " ")}, "more than 16"},
		{"another audience is refused", nil, claims{"aud": "grafana", "azp": "grafana"}, "not for this service"},
		{"an audience in other letters is refused", nil, claims{"aud": "Hallpass"}, "not for this service"},
		{"the workloads' audience at the people's issuer is refused", nil, claims{"aud": "hallpass-ci"}, "not for this service"},
		{"several audiences without azp are refused", nil, claims{"aud": []string{"hallpass", "grafana"}, "azp": absent}, "no azp"},
		{"several audiences with another azp are refused", nil, claims{"aud": []string{"hallpass", "grafana"}, "azp": "grafana"}, "another client"},
		{"one audience with another azp is refused", nil, claims{"azp": "grafana"}, "another client"},
		{"an azp that is a list is refused", nil, claims{"azp": []string{"hallpass"}}, "azp is not a string"},

		{"a missing exp is refused", nil, claims{"exp": absent}, "no exp"},
		{"an exp that is text is refused", nil, claims{"exp": "4102444800"}, "exp is not a number"},
		{"an exp beyond all years is refused", nil, claims{"exp": 1e300}, "exp is not a time"},
		{"a negative exp is refused", nil, claims{"exp": -1}, "exp is not a time"},
		{"an expired token is refused", nil, claims{"iat": at(-time.Hour), "exp": at(-61 * time.Second)}, "expired at " + now.Add(-61*time.Second).UTC().Format(time.RFC3339)},
		{"a token that expired just beyond the skew is refused", nil, claims{"iat": at(-time.Hour), "exp": at(-time.Minute)}, "expired at"},
		{"an exp before iat is refused", nil, claims{"iat": at(0), "exp": at(-time.Second)}, "expires before it was issued"},
		{"an nbf in the future is refused", nil, claims{"nbf": at(2 * time.Minute)}, "not valid before"},
		{"an nbf that is text is refused", nil, claims{"nbf": "now"}, "nbf is not a number"},
		{"a missing iat is refused", nil, claims{"iat": absent}, "no iat"},
		{"an iat that is null is refused", nil, claims{"iat": nil}, "iat is not a number"},
		{"an iat in the future is refused", nil, claims{"iat": at(2 * time.Minute)}, "issued in the future"},
		{"an iat older than the maximum age is refused", nil, claims{"iat": at(-25 * time.Hour)}, "too old"},
		{"an auth_time in the future is refused", nil, claims{"auth_time": at(2 * time.Minute)}, "signed in in the future"},
		{"an auth_time that is text is refused", nil, claims{"auth_time": "now"}, "auth_time is not a number"},

		{"a missing sub is refused", nil, claims{"sub": absent}, "no sub"},
		{"an empty sub is refused", nil, claims{"sub": ""}, "sub is empty"},
		{"a sub that is a number is refused", nil, claims{"sub": 1000}, "sub is not a string"},
		{"a sub of 256 bytes is refused", nil, claims{"sub": strings.Repeat("s", 256)}, "longer than 255"},
		{"a sub with NUL is refused", nil, claims{"sub": "alice\x00"}, "cannot be printed"},
		{"a sub with a line break is refused", nil, claims{"sub": "alice\nbob"}, "cannot be printed"},
		{"a sub with a zero-width character is refused", nil, claims{"sub": "ali\u200bce"}, "cannot be printed"},
		{"a sub that is not UTF-8 is refused", nil, claims{"sub": "ali\ufffdce"}, "not UTF-8"},
		{"a nonce that is a number is refused", nil, claims{"nonce": 1}, "malformed"},
		{"a nonce of 10 kB is refused", nil, claims{"nonce": strings.Repeat("n", 1000)}, "nonce"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := sign(t, server.People(), person(t, server, tt.claims), devidp.TokenOptions{Header: tt.header})
			caller, err := v.Authenticate(t.Context(), raw, now)
			wantRefused(t, err, ca.Unauthenticated, tt.want)
			if caller.Identity.Subject != "" {
				t.Errorf("a stranger is known as %q", caller.Identity.Subject)
			}
		})
	}
}

func TestMalformedTokens(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	good := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
	parts := strings.Split(good, ".")
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{Key: stranger})
	last := len(good) - 1
	for _, tt := range []struct{ name, raw, want string }{
		{"an empty token is refused", "", "empty"},
		{"a token with one dot is refused", parts[0] + "." + parts[1], "three parts"},
		{"a token with three dots is refused", good + ".", "three parts"},
		{"a token of a million dots is refused", strings.Repeat(".", 1_000_000), "longer than"},
		{"a token of dots is refused", strings.Repeat(".", 10_000), "three parts"},
		{"a token of 17 KiB is refused", good + strings.Repeat("A", 17<<10), "longer than"},
		{"an encrypted token is refused", "e30.e30.e30.e30.e30", "encrypted"},
		{"a token in JSON serialization is refused", fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, parts[1], parts[0], parts[2]), "three parts"},
		{"a token with a space before it is refused", " " + good, "part 1 is not base64url"},
		{"a token with a line break in it is refused", parts[0] + "." + parts[1] + "\n." + parts[2], "part 2 is not base64url"},
		{"a token with padding is refused", good + "=", "part 3 is not base64url"},
		{"a token in standard base64 is refused", parts[0] + "." + parts[1] + ".+/+/", "part 3 is not base64url"},
		{"a token with bits beyond its end is refused", good[:last] + string(sibling(good[last])), "part 3 is not base64url"},
		{"a stripped signature is refused", parts[0] + "." + parts[1] + ".", "no signature"},
		{"a shortened signature is refused", good[:len(good)-10], "does not verify"},
		{"a changed signature is refused", parts[0] + "." + parts[1] + ".AAAA" + parts[2][4:], "does not verify"},
		{"the signature of another key under the known kid is refused", forged, "does not verify"},
		{"changed claims are refused", parts[0] + "." + encode(strings.Replace(decode(t, parts[1]), "u-7f3a9c21", "u-2be804d6", 1)) + "." + parts[2], "does not verify"},
		{"a header that is a list is refused", encode(`["RS256"]`) + "." + parts[1] + "." + parts[2], "not a JSON object"},
		{"a header with alg twice is refused", encode(`{"alg":"none","alg":"RS256"}`) + "." + parts[1] + "." + parts[2], `"alg" comes twice`},
		{"claims with sub twice are refused", parts[0] + "." + encode(strings.Replace(decode(t, parts[1]), `"sub"`, `"sub":"u-2be804d6","sub"`, 1)) + "." + parts[2], `"sub" comes twice`},
		{"claims with a name twice deep inside are refused", parts[0] + "." + encode(strings.Replace(decode(t, parts[1]), `"sub"`, `"x":{"y":1,"z":[{"y":":\\:\"","y":2}]},"sub"`, 1)) + "." + parts[2], `"y" comes twice`},
		{"claims with something after them are refused", parts[0] + "." + encode(decode(t, parts[1])+"{}") + "." + parts[2], "not JSON"},
		{"claims that are not UTF-8 are refused", parts[0] + "." + encode(`{"sub":"`+"\xff"+`"}`) + "." + parts[2], "not UTF-8"},
		{"claims with half a surrogate pair are refused", parts[0] + "." + encode(`{"sub":"\ud800"}`) + "." + parts[2], "not UTF-8"},
		{"claims nested too deeply are refused", parts[0] + "." + encode(`{"a":`+strings.Repeat("[", 500)+strings.Repeat("]", 500)+"}") + "." + parts[2], "nested too deeply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := v.Authenticate(t.Context(), tt.raw, time.Now())
			wantRefused(t, err, ca.Unauthenticated, tt.want)
			if tt.raw != "" && len(tt.raw) < 10_000 && strings.Contains(err.Error(), tt.raw) {
				t.Error("the error quotes the token")
			}
		})
	}
}

// sibling returns the base64url character after c: the last of a 256-byte signature has four bits that mean nothing.
func sibling(c byte) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, c)|1]
}

func decode(t testing.TB, part string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestTimesAtTheirBounds shows that each bound lies where it is said to.
func TestTimesAtTheirBounds(t *testing.T) {
	now := time.Unix(time.Now().Unix(), 0)
	server := startProvider(t, devidp.Config{KeyFile: keyFile, Clock: func() time.Time { return now }})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, claims := range map[string]map[string]any{
		"a token that expired within the skew is taken":    {"iat": at(-time.Hour), "exp": at(-59 * time.Second)},
		"a token issued ahead within the skew is taken":    {"iat": at(time.Minute)},
		"a token valid from within the skew is taken":      {"nbf": at(time.Minute)},
		"a token of just the maximum age is taken":         {"iat": at(-24 * time.Hour)},
		"a sign-in ahead within the skew is taken":         {"auth_time": at(time.Minute)},
		"a time with a fraction is taken":                  {"iat": float64(at(-time.Minute)) + 0.5},
		"several audiences with our azp are taken":         {"aud": []string{"grafana", "hallpass"}},
		"a token without azp for one audience is taken":    {"azp": absent},
		"a subject of 255 bytes is taken":                  {"sub": strings.Repeat("s", 255)},
		"a subject with spaces and umlauts is taken":       {"sub": "Jürgen Müller"},
		"an empty nonce, as some issuers send, is taken":   {"nonce": ""},
		"an ID token of Keycloak is taken":                 {"typ": "ID"},
		"an ID token of Cognito is taken":                  {"token_use": "id"},
		"a token without auth_time is taken":               {"auth_time": absent},
		"an email with a plus is taken, and not rewritten": {"email": "alice+x@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := sign(t, server.People(), person(t, server, claims), devidp.TokenOptions{})
			if _, err := v.Authenticate(t.Context(), raw, now); err != nil {
				t.Errorf("got %v, want no error", err)
			}
		})
	}
}

// TestCacheKeepsTheClock shows that a token which verified once is refused as soon as it has expired.
func TestCacheKeepsTheClock(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	raw := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
	now := time.Now()
	if _, err := v.Authenticate(t.Context(), raw, now); err != nil {
		t.Fatal(err)
	}
	_, err := v.Authenticate(t.Context(), raw, now.Add(62*time.Minute))
	wantRefused(t, err, ca.Unauthenticated, "expired at")
	if _, err := v.Authenticate(t.Context(), raw, now.Add(58*time.Minute)); err != nil {
		t.Errorf("a clock that was set back: %v", err)
	}
}
