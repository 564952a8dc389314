package devidp_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

// verify holds a token against the issuer's keys as they are now.
func verify(t testing.TB, issuer *devidp.Issuer, audience, token string) (*oidc.IDToken, error) {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), issuer.URL())
	if err != nil {
		t.Fatal(err)
	}
	return provider.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{"RS256"}}).Verify(t.Context(), token)
}

func TestWorkloadTokenHasAnIssuerOfItsOwn(t *testing.T) {
	server := start(t, devidp.Config{})
	token, err := devidp.WorkloadToken(t.Context(), server.URL(), "ci", "hallpass-ci")
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify(t, server.Workloads(), "hallpass-ci", token)
	if err != nil {
		t.Fatal(err)
	}
	if id.Issuer != server.URL()+"/ci" || id.Subject != "repo:example/app:ref:refs/heads/main" || id.Expiry.Sub(id.IssuedAt) != 5*time.Minute {
		t.Errorf("token of %s for %s, from %v to %v", id.Issuer, id.Subject, id.IssuedAt, id.Expiry)
	}
	var got map[string]any
	if err := id.Claims(&got); err != nil {
		t.Fatal(err)
	}
	if got["jti"] == "" {
		t.Error("no jti")
	}
	for _, changing := range []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti"} {
		delete(got, changing)
	}
	if diff := cmp.Diff(devidp.DefaultWorkloads()[0].Claims, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if _, err := verify(t, server.People(), "hallpass-ci", token); err == nil {
		t.Error("the people's issuer vouches for a workload")
	}
	for name, row := range map[string][2]string{
		"an unknown workload": {"nobody", "x"},
		"a person":            {"alice", "x"},
		"no audience":         {"ci", ""},
	} {
		if _, err := devidp.WorkloadToken(t.Context(), server.URL(), row[0], row[1]); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPersonClaimsAreThoseOfASignIn(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	server := start(t, devidp.Config{Clock: func() time.Time { return now }})
	rp := newRelyingParty(t, server, nil)
	rp.Scopes = []string{"openid", "profile", "email", "groups"}
	var signedIn, made map[string]any
	if err := rp.login(t, devidp.NewBrowser(nil), "alice").id.Claims(&signedIn); err != nil {
		t.Fatal(err)
	}
	claims, ok := server.PersonClaims("alice", "hallpass")
	if !ok {
		t.Fatal("no alice")
	}
	token, err := server.People().Sign(claims, devidp.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify(t, server.People(), "hallpass", token)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Claims(&made); err != nil {
		t.Fatal(err)
	}
	for _, ofTheFlow := range []string{"nonce", "at_hash", "c_hash", "client_id", "iat", "exp"} {
		delete(signedIn, ofTheFlow)
		delete(made, ofTheFlow)
	}
	if diff := cmp.Diff(signedIn, made); diff != "" {
		t.Errorf("claims (-signed in +made):\n%s", diff)
	}
}

func TestHostileTokensDoNotVerify(t *testing.T) {
	server := start(t, devidp.Config{})
	claims, _ := server.PersonClaims("alice", "hallpass")
	for name, header := range map[string]map[string]any{
		"alg none":                  {"alg": "none"},
		"HS256 with the public key": {"alg": "HS256"},
		"ES256 by an unknown key":   {"alg": "ES256"},
		"an unknown kid":            {"kid": "other"},
		"a critical unknown header": {"crit": []string{"x"}, "x": 1},
		"no alg":                    {"alg": nil},
	} {
		token, err := server.People().Sign(claims, devidp.TokenOptions{Header: header})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify(t, server.People(), "hallpass", token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	strangerKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.People().Sign(claims, devidp.TokenOptions{Key: strangerKey})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, server.People(), "hallpass", token); err == nil {
		t.Error("a stranger's key under the issuer's kid: accepted")
	}
	if _, err := server.People().Sign(claims, devidp.TokenOptions{Header: map[string]any{"alg": "XY"}}); err == nil {
		t.Error("signs with an alg that does not exist")
	}
}

func TestKeysRotate(t *testing.T) {
	server := start(t, devidp.Config{})
	sign := func() string {
		t.Helper()
		claims, _ := server.PersonClaims("alice", "hallpass")
		token, err := server.People().Sign(claims, devidp.TokenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := sign()
	if err := server.People().RotateKey(); err != nil {
		t.Fatal(err)
	}
	second := sign()
	for name, token := range map[string]string{"old": first, "new": second} {
		if _, err := verify(t, server.People(), "hallpass", token); err != nil {
			t.Errorf("after a rotation the %s token does not verify: %v", name, err)
		}
	}
	if err := server.People().ReplaceKey(); err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"first": first, "second": second} {
		if _, err := verify(t, server.People(), "hallpass", token); err == nil {
			t.Errorf("the %s token outlives its key", name)
		}
	}
	if _, err := verify(t, server.People(), "hallpass", sign()); err != nil {
		t.Errorf("the newest token does not verify: %v", err)
	}
	newRelyingParty(t, server, nil).login(t, devidp.NewBrowser(nil), "alice")
}

func TestKeyFileKeepsTheKeysOfBothIssuers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.pem")
	config := devidp.Config{Issuer: "http://127.0.0.1:1", KeyFile: file}
	var tokens [2]string
	for i := range tokens {
		server, err := devidp.New(config)
		if err != nil {
			t.Fatal(err)
		}
		// RS256 is deterministic: the same key signs the same claims alike.
		for _, issuer := range []*devidp.Issuer{server.People(), server.Workloads()} {
			token, err := issuer.Sign(map[string]any{"sub": "x"}, devidp.TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			tokens[i] += token + " "
		}
	}
	if tokens[0] != tokens[1] {
		t.Error("a restart changed the keys")
	}
	if people, workloads, _ := strings.Cut(strings.TrimSpace(tokens[0]), " "); people == workloads {
		t.Error("both issuers have one key")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("no keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devidp.New(config); err == nil || !strings.Contains(err.Error(), "0 keys, want 2") {
		t.Errorf("a broken key file: %v", err)
	}
}

func TestFaults(t *testing.T) {
	server := start(t, devidp.Config{})
	other := start(t, devidp.Config{})
	get := func(ctx context.Context, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL()+path, nil)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return 0, ""
		}
		answer.Body.Close()
		return answer.StatusCode, answer.Header.Get("Location")
	}

	server.Break(devidp.Down)
	if status, _ := get(t.Context(), devidp.KeysPath); status != 0 {
		t.Errorf("down: status %d", status)
	}
	server.Break(devidp.At(devidp.Answering(http.StatusInternalServerError, "{}"), devidp.KeysPath))
	if status, _ := get(t.Context(), devidp.KeysPath); status != http.StatusInternalServerError {
		t.Errorf("keys answering 500: status %d", status)
	}
	if status, _ := get(t.Context(), devidp.DiscoveryPath); status != http.StatusOK {
		t.Errorf("discovery while only the keys fail: status %d", status)
	}
	server.Break(devidp.Redirecting(other.URL()))
	if status, to := get(t.Context(), devidp.KeysPath); status != http.StatusFound || to != other.URL()+devidp.KeysPath {
		t.Errorf("redirecting: status %d to %s", status, to)
	}
	released := make(chan struct{})
	server.Break(devidp.Stalled(released))
	before := server.Fetches(devidp.KeysPath)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan int)
	go func() {
		status, _ := get(ctx, devidp.KeysPath)
		gaveUp <- status
	}()
	for server.Fetches(devidp.KeysPath) == before {
		runtime.Gosched()
	}
	cancel()
	if status := <-gaveUp; status != 0 {
		t.Errorf("stalled: status %d", status)
	}
	close(released)
	if status, _ := get(t.Context(), devidp.KeysPath); status != http.StatusOK {
		t.Errorf("released: status %d", status)
	}
	server.Break(nil)
	if status, _ := get(t.Context(), devidp.KeysPath); status != http.StatusOK {
		t.Errorf("mended: status %d", status)
	}
	if keys, discovery := server.Fetches(devidp.KeysPath), server.Fetches(devidp.DiscoveryPath); keys < 6 || discovery != 1 {
		t.Errorf("counted %d fetches of keys, %d of discovery", keys, discovery)
	}
}

func TestServesHTTPS(t *testing.T) {
	example := httptest.NewTLSServer(http.NotFoundHandler()) // has a certificate for 127.0.0.1 and a client that trusts it
	defer example.Close()
	server := start(t, devidp.Config{TLS: &tls.Config{Certificates: example.TLS.Certificates}})
	trusting, ok := example.Client().Transport.(*http.Transport)
	if !ok || !strings.HasPrefix(server.URL(), "https://127.0.0.1:") {
		t.Fatalf("issuer is %s", server.URL())
	}
	ctx := oidc.ClientContext(t.Context(), example.Client())
	provider, err := oidc.NewProvider(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	device, err := (&oauth2.Config{ClientID: "hallpass", Endpoint: provider.Endpoint(), Scopes: []string{"openid"}}).DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	browser := devidp.NewBrowser(trusting.TLSClientConfig)
	if err := browser.SignIn(t.Context(), "alice", device.VerificationURIComplete); err != nil {
		t.Error(err)
	}
}

func TestServerComesBackAtItsAddress(t *testing.T) {
	server := start(t, devidp.Config{})
	at := strings.TrimPrefix(server.URL(), "http://")
	if err := server.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "already listening") {
		t.Errorf("listens twice: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := server.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "listen on that port") {
		t.Errorf("listens elsewhere: %v", err)
	}
	if err := server.Listen(at); err != nil {
		t.Fatal(err)
	}
	newRelyingParty(t, server, nil).login(t, devidp.NewBrowser(nil), "alice")
}
