package idtoken_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// keyFile lets all providers of this package share their signing keys, which take long to make.
var keyFile string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "idtoken")
	if err != nil {
		panic(err)
	}
	keyFile = filepath.Join(dir, "keys.pem")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// startProvider returns a real provider that listens until the test ends.
func startProvider(t testing.TB, config devidp.Config) *devidp.Server {
	t.Helper()
	server, err := devidp.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close provider: %v", err)
		}
	})
	return server
}

// newVerifier returns a verifier that runs until the test ends.
func newVerifier(t testing.TB, config idtoken.Config) *idtoken.Verifier {
	t.Helper()
	v, err := idtoken.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	v.Start(t.Context())
	return v
}

// issuers returns the provider's two issuers as a verifier is told of them.
func issuers(server *devidp.Server) []idtoken.Issuer {
	return []idtoken.Issuer{
		{Name: "people", URL: server.People().URL(), Audience: "hallpass", Kind: ca.Person, AllowInsecure: true},
		{Name: "ci", URL: server.Workloads().URL(), Audience: "hallpass-ci", Kind: ca.Workload, AllowInsecure: true},
	}
}

// person returns the claims of alice's next token, changed.
func person(t testing.TB, server *devidp.Server, changes map[string]any) map[string]any {
	t.Helper()
	claims, ok := server.PersonClaims("alice", "hallpass")
	if !ok {
		t.Fatal("the provider does not know alice")
	}
	return change(claims, changes)
}

func workload(t testing.TB, server *devidp.Server, changes map[string]any) map[string]any {
	t.Helper()
	claims, ok := server.WorkloadClaims("ci", "hallpass-ci")
	if !ok {
		t.Fatal("the provider does not know ci")
	}
	return change(claims, changes)
}

// change sets claims, and removes those whose new value is absent.
func change(claims, changes map[string]any) map[string]any {
	for name, value := range changes {
		if value == absent {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	return claims
}

type nothing struct{}

var absent any = nothing{}

func sign(t testing.TB, issuer *devidp.Issuer, claims any, options devidp.TokenOptions) string {
	t.Helper()
	raw, err := issuer.Sign(claims, options)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// wantRefused fails unless err is a refusal of the kind that says the fragment.
func wantRefused(t testing.TB, err error, kind ca.Kind, fragment string) {
	t.Helper()
	var refusal *ca.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("got error %v, want a *ca.Error of kind %s with %q", err, kind, fragment)
	}
	if refusal.Kind != kind || !strings.Contains(refusal.Message, fragment) {
		t.Fatalf("got %s: %q, want %s with %q", refusal.Kind, refusal.Message, kind, fragment)
	}
}

func TestPersonIsAuthenticated(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	now := time.Now()
	claims := person(t, server, map[string]any{"nonce": "n-0S6_WzA2Mj"})
	issuedAt, ok := claims["iat"].(int64)
	if !ok {
		t.Fatalf("iat is %T", claims["iat"])
	}
	raw := sign(t, server.People(), claims, devidp.TokenOptions{})
	for _, round := range []string{"anew", "from the cache"} {
		got, err := v.Authenticate(t.Context(), raw, now)
		if err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		want := ca.Identity{
			Issuer: server.URL(), Subject: "u-7f3a9c21", Kind: ca.Person, Email: "alice@example.com", Groups: []string{"developers"},
		}
		if diff := cmp.Diff(want, got.Identity); diff != "" {
			t.Errorf("%s: identity (-want +got):\n%s", round, diff)
		}
		if got.Token.Nonce != "n-0S6_WzA2Mj" || got.Token.Bound {
			t.Errorf("%s: token %+v, want the nonce as it came, not yet bound", round, got.Token)
		}
		issued := time.Unix(issuedAt, 0)
		if !got.Token.IssuedAt.Equal(issued) || !got.Token.AuthTime.Equal(issued) || !got.Token.Expires.Equal(issued.Add(time.Hour)) {
			t.Errorf("%s: times of the token: %+v, want issued and signed in at %s, an hour long", round, got.Token, issued)
		}
		if level, ok := got.Claims["level"].(interface{ Int64() (int64, error) }); !ok {
			t.Errorf("%s: claim level is %T, want a json.Number", round, got.Claims["level"])
		} else if n, err := level.Int64(); err != nil || n != 2 {
			t.Errorf("%s: claim level is %v, want 2", round, level)
		}
	}
}

func TestWorkloadIsAuthenticated(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	raw := sign(t, server.Workloads(), workload(t, server, map[string]any{"nonce": "ignored", "email": "ci@example.com"}), devidp.TokenOptions{})
	got, err := v.Authenticate(t.Context(), raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	want := ca.Identity{Issuer: server.URL() + "/ci", Subject: "repo:example/app:ref:refs/heads/main", Kind: ca.Workload}
	if diff := cmp.Diff(want, got.Identity); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	if got.Token.Nonce != "" {
		t.Errorf("nonce %q of a workload was passed on", got.Token.Nonce)
	}
	if got.Claims["repository"] != "example/app" {
		t.Errorf("claims %v lack the repository", got.Claims)
	}
}

// TestOneIssuerForPeopleAndWorkloads shows that the audience alone says which of the two a token is of.
func TestOneIssuerForPeopleAndWorkloads(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	both := issuers(server)
	both[1].URL = both[0].URL
	v := newVerifier(t, idtoken.Config{Issuers: both})
	for audience, kind := range map[string]ca.CallerKind{"hallpass": ca.Person, "hallpass-ci": ca.Workload} {
		claims := person(t, server, map[string]any{"aud": audience, "azp": absent})
		got, err := v.Authenticate(t.Context(), sign(t, server.People(), claims, devidp.TokenOptions{}), time.Now())
		if err != nil || got.Identity.Kind != kind {
			t.Errorf("audience %s: got %s, %v, want a %s", audience, got.Identity.Kind, err, kind)
		}
	}
	claims := person(t, server, map[string]any{"aud": []string{"hallpass", "hallpass-ci"}})
	_, err := v.Authenticate(t.Context(), sign(t, server.People(), claims, devidp.TokenOptions{}), time.Now())
	wantRefused(t, err, ca.Unauthenticated, `for both "hallpass" and "hallpass-ci"`)
}
