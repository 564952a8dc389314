package login_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/login"
)

// keyFile lets all providers of this package share their signing keys, which take long to make.
var keyFile string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "login")
	if err != nil {
		panic(err)
	}
	keyFile = filepath.Join(dir, "keys.pem")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func startProvider(t testing.TB, config devidp.Config) *devidp.Server {
	t.Helper()
	config.KeyFile = keyFile
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

func provider(server *devidp.Server) login.Provider {
	return login.Provider{
		Issuer: server.URL(), ClientID: "hallpass", Scopes: []string{"openid", "email", "groups", "offline_access"}, AllowInsecure: true,
	}
}

// as returns an open function by which a browser signs the user in.
func as(ctx context.Context, user string) func(string) error {
	return func(address string) error { return devidp.NewBrowser(nil).SignIn(ctx, user, address) }
}

// signIn signs alice in by the browser.
func signIn(t testing.TB, server *devidp.Server, o login.Options) login.Tokens {
	t.Helper()
	tokens, err := login.Browser(t.Context(), provider(server), "n-1", as(t.Context(), "alice"), io.Discard, o)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// claimsOf decodes an ID token without verifying it.
func claimsOf(t testing.TB, raw string) map[string]any {
	t.Helper()
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("an ID token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func wantError(t testing.TB, err error, fragment string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), fragment) {
		t.Fatalf("got %v, want an error with %q", err, fragment)
	}
}

// printed is a writer that others can wait on.
type printed struct {
	mu      sync.Mutex
	buffer  bytes.Buffer
	changed chan struct{} // closed, and made anew, at each write
}

func newPrinted() *printed { return &printed{changed: make(chan struct{})} }

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	return p.buffer.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buffer.String()
}

// wait returns the first group of the pattern once it was printed.
func (p *printed) wait(t testing.TB, pattern string) string {
	t.Helper()
	expr := regexp.MustCompile(pattern)
	for {
		p.mu.Lock()
		match, changed := expr.FindStringSubmatch(p.buffer.String()), p.changed
		p.mu.Unlock()
		if match != nil {
			return match[1]
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("the test ended before it was printed")
		}
	}
}

func TestProvidersThatCannotBeUsed(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	for name, tt := range map[string]struct {
		change func(*login.Provider)
		want   string
	}{
		"http is refused":                      {func(p *login.Provider) { p.AllowInsecure = false }, "allow_insecure"},
		"an empty client id is refused":        {func(p *login.Provider) { p.ClientID = "" }, "client id is empty"},
		"no issuer is refused":                 {func(p *login.Provider) { p.Issuer = "" }, "not an absolute URL"},
		"an issuer that is not there is named": {func(p *login.Provider) { p.Issuer += "/nowhere" }, "discover issuer " + server.URL() + "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			p := provider(server)
			tt.change(&p)
			_, err := login.Browser(t.Context(), p, "n-1", as(t.Context(), "alice"), io.Discard, login.Options{})
			wantError(t, err, tt.want)
		})
	}
}

func TestDevice(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	out := newPrinted()
	drawn := make(chan string, 1)
	type result struct {
		tokens login.Tokens
		err    error
	}
	done := make(chan result, 1)
	go func() {
		tokens, err := login.Device(t.Context(), provider(server), out, func(address string) { drawn <- address })
		done <- result{tokens, err}
	}()
	code := out.wait(t, `enter the code  (\S+)`)
	address := <-drawn
	if !strings.Contains(address, url.QueryEscape(code)) {
		t.Errorf("the address %q has no code %q", address, code)
	}
	if err := as(t.Context(), "bob")(address); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	if got.tokens.Email != "bob@example.com" || got.tokens.RefreshToken == "" {
		t.Errorf("got %q, want bob with a refresh token", got.tokens.Email)
	}
	if nonce, found := claimsOf(t, got.tokens.IDToken)["nonce"]; found {
		t.Errorf("the ID token has nonce %v", nonce)
	}
}

func TestRefresh(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	first := signIn(t, server, login.Options{})
	second, err := login.Refresh(t.Context(), provider(server), first.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if second.Subject != first.Subject || second.RefreshToken == first.RefreshToken {
		t.Errorf("got subject %q, want %q and a new refresh token", second.Subject, first.Subject)
	}
	_, err = login.Refresh(t.Context(), provider(server), first.RefreshToken)
	if wantError(t, err, "invalid_grant"); !errors.Is(err, login.ErrSignIn) {
		t.Errorf("got %v, want ErrSignIn in its chain", err)
	}
	_, err = login.Refresh(t.Context(), provider(server), "")
	if wantError(t, err, "no refresh token"); !errors.Is(err, login.ErrSignIn) {
		t.Errorf("got %v, want ErrSignIn in its chain", err)
	}
	server.Break(devidp.Down)
	_, err = login.Refresh(t.Context(), provider(server), second.RefreshToken)
	if err == nil || errors.Is(err, login.ErrSignIn) {
		t.Errorf("got %v, want an error that a new sign-in would not mend", err)
	}
}

// TestTokensOfTheTokenEndpoint shows that an ID token is verified even though it comes straight from the issuer.
func TestTokensOfTheTokenEndpoint(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	claims := func(changes map[string]any) string {
		all, _ := server.PersonClaims("alice", "hallpass")
		for name, value := range changes {
			all[name] = value
		}
		raw, err := server.People().Sign(all, devidp.TokenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := claims(nil)
	past := time.Now().Add(-time.Hour).Unix()
	for _, tt := range []struct{ name, body, want string }{
		{"a good one is taken", good, ""},
		{"none at all is told", "", "sent no ID token"},
		{"an expired one is refused", claims(map[string]any{"exp": past}), "expired at"},
		{"one of another audience is refused", claims(map[string]any{"aud": "grafana"}), "expected audience"},
		{"one issued to another client is refused", claims(map[string]any{"azp": "grafana"}), "another client"},
		{"one of another issuer is refused", claims(map[string]any{"iss": "https://evil.example"}), "different provider"},
		{"one from the future is refused", claims(map[string]any{"iat": time.Now().Add(time.Hour).Unix()}), "issued in the future"},
		{"one whose signature was cut is refused", good[:len(good)-10], "verify the ID token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"access_token":"a","token_type":"Bearer","id_token":%q}`, tt.body)
			server.Break(devidp.At(devidp.Answering(200, body), "/oauth/token"))
			defer server.Break(nil)
			_, err := login.Refresh(t.Context(), provider(server), "r")
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, tt.want)
			if tt.body != "" && strings.Contains(err.Error(), tt.body) {
				t.Error("the error quotes the token")
			}
		})
	}
}

// TestDeviceAnswers shows that what an issuer sends to be shown is looked at first.
func TestDeviceAnswers(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	const good = "https://id.example.com/device"
	for _, tt := range []struct{ name, code, address, complete, want string }{
		{"an address that is no page is refused", "A-1", "javascript:alert(1)", "", "cannot be used"},
		{"an address over http is refused", "A-1", "http://id.example.com/device", "", "cannot be used"},
		{"an address with a terminal's commands is refused", "A-1", good + "\\u001b[2J", "", "cannot be used"},
		{"a complete address that is no page is refused", "A-1", good, "file:///x", "cannot be used"},
		{"no address is refused", "A-1", "", "", "cannot be used"},
		{"an empty code is refused", "", good, "", "no code"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"device_code":"d","user_code":"%s","verification_uri":"%s","verification_uri_complete":"%s","expires_in":60,"interval":-1}`, tt.code, tt.address, tt.complete)
			server.Break(devidp.At(devidp.Answering(200, body), "/device_authorization"))
			defer server.Break(nil)
			var out bytes.Buffer
			_, err := login.Device(t.Context(), provider(server), &out, func(string) { t.Error("a code was drawn") })
			wantError(t, err, tt.want)
			if out.Len() > 0 {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}
