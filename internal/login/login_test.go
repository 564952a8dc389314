package login_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

func TestBrowser(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	var out bytes.Buffer
	var opened string
	open := func(address string) error {
		opened = address
		return as(t.Context(), "alice")(address)
	}
	tokens, err := login.Browser(t.Context(), provider(server), "n-0S6_WzA2Mj", open, &out, login.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if tokens.Subject != "u-7f3a9c21" || tokens.Email != "alice@example.com" || tokens.RefreshToken == "" || !tokens.Expiry.After(time.Now()) {
		t.Errorf("got subject %q, email %q, expiry %s, want alice with a refresh token", tokens.Subject, tokens.Email, tokens.Expiry)
	}
	if nonce := claimsOf(t, tokens.IDToken)["nonce"]; nonce != "n-0S6_WzA2Mj" {
		t.Errorf("the ID token has nonce %v", nonce)
	}
	if !strings.Contains(out.String(), opened) {
		t.Errorf("the address is not in the output %q", out.String())
	}
	u, err := url.Parse(opened)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Get("code_challenge_method") != "S256" || len(q.Get("state")) < 26 || !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/callback$`).MatchString(q.Get("redirect_uri")) {
		t.Errorf("the request is %v, want PKCE, a long state and a loopback redirect", q)
	}
	if q.Has("prompt") || q.Has("max_age") {
		t.Errorf("the request is %v, want no fresh sign-in", q)
	}
}

func TestFreshLogin(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	jar := devidp.NewBrowser(nil)
	open := func(address string) error { return jar.SignIn(t.Context(), "alice", address) }
	var requests []url.Values
	watched := func(address string) error {
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		requests = append(requests, u.Query())
		return open(address)
	}
	for range 2 {
		if _, err := login.Browser(t.Context(), provider(server), "n-1", watched, io.Discard, login.Options{FreshLogin: true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range requests {
		if q.Get("prompt") != "login" || q.Get("max_age") != "0" {
			t.Errorf("the request is %v, want a fresh sign-in", q)
		}
	}
}

// TestBrowserCannotBeOpened shows that the printed address is enough.
func TestBrowserCannotBeOpened(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	out := newPrinted()
	done := make(chan error, 1)
	go func() {
		_, err := login.Browser(t.Context(), provider(server), "n-1", func(string) error { return errors.New("no \x1b[31mdisplay") }, out, login.Options{})
		done <- err
	}()
	address := out.wait(t, `(http://\S+)`)
	if err := as(t.Context(), "alice")(address); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "No browser could be opened: no  [31mdisplay") {
		t.Errorf("the output is %q", out.String())
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

// TestOtherRequests shows that whatever else a page makes the browser send, the sign-in goes on and ends well.
func TestOtherRequests(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	open := func(address string) error {
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		callback, state := u.Query().Get("redirect_uri"), url.QueryEscape(u.Query().Get("state"))
		port := strings.TrimSuffix(callback[strings.LastIndex(callback, ":")+1:], "/callback")
		for _, tt := range []struct {
			name, method, url, host string
			want                    int
		}{
			{"no state", "GET", callback + "?code=x", "", 400},
			{"another state", "GET", callback + "?code=x&state=y", "", 400},
			{"the state twice", "GET", callback + "?code=x&state=" + state + "&state=" + state, "", 400},
			{"a malformed query", "GET", callback + "?code=%zz&state=" + state, "", 400},
			{"another path", "GET", strings.TrimSuffix(callback, "/callback") + "/?code=x&state=" + state, "", 404},
			{"a path below", "GET", callback + "/x?code=x&state=" + state, "", 404},
			{"another method", "POST", callback + "?code=x&state=" + state, "", 404},
			{"another host", "GET", callback + "?code=x&state=" + state, "evil.example:" + port, 404},
			{"localhost", "GET", callback + "?code=x&state=" + state, "localhost:" + port, 404},
		} {
			request, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
			if err != nil {
				return err
			}
			request.Host = tt.host
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			response.Body.Close()
			if response.StatusCode != tt.want {
				t.Errorf("%s: got %s, want %d", tt.name, response.Status, tt.want)
			}
			if csp := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; ") {
				t.Errorf("%s: the page has the policy %q", tt.name, csp)
			}
		}
		return as(t.Context(), "alice")(address)
	}
	if _, err := login.Browser(t.Context(), provider(server), "n-1", open, io.Discard, login.Options{}); err != nil {
		t.Fatal(err)
	}
}

// answering returns an open function by which the browser brings the answer, and what page it then sees.
func answering(t testing.TB, page *string, answer func(request url.Values) string) func(string) error {
	return func(address string) error {
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		q := u.Query()
		response, err := http.Get(q.Get("redirect_uri") + "?state=" + url.QueryEscape(q.Get("state")) + "&" + answer(q))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		*page = string(body)
		return err
	}
}

func TestRefusedAnswers(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	for _, tt := range []struct{ name, answer, want string }{
		{"a refusal is told, with nothing that a terminal obeys", "error=access_denied&error_description=" + url.QueryEscape("no\x1b[2J\n<script>x</script>"),
			"refused: access_denied (no [2J <script>x</script>)"},
		{"a code that the issuer does not know is refused", "code=x", "invalid_grant"},
		{"an answer of nothing is refused", "x=1", "neither a code nor an error"},
		{"an answer of another issuer is refused", "code=x&iss=" + url.QueryEscape("https://evil.example"), "not one of issuer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var page string
			_, err := login.Browser(t.Context(), provider(server), "n-1", answering(t, &page, func(url.Values) string { return tt.answer }), io.Discard, login.Options{})
			wantError(t, err, tt.want)
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the error %q is not fit for a terminal", err)
			}
			if strings.Contains(page, "<script>") || !strings.Contains(page, "Sign-in failed") {
				t.Errorf("the page is %q", page)
			}
		})
	}
}

// TestAnswerOfAnotherSignIn shows that a code which an attacker got for himself is of no use to him in somebody else's browser: it
// is bound to another challenge (PKCE), and its ID token would have another nonce.
func TestAnswerOfAnotherSignIn(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	stolen := make(chan string, 1)
	catcher := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen <- r.URL.Query().Get("code") }))
	defer catcher.Close()
	var page string
	open := answering(t, &page, func(request url.Values) string {
		request.Set("redirect_uri", catcher.URL+"/callback")
		request.Set("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
		response, err := http.Get(server.URL() + devidp.DiscoveryPath)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer response.Body.Close()
		var metadata struct {
			Endpoint string `json:"authorization_endpoint"`
		}
		if err := json.NewDecoder(response.Body).Decode(&metadata); err != nil {
			t.Error(err)
		}
		if err := as(t.Context(), "mallory")(metadata.Endpoint + "?" + request.Encode()); err != nil {
			t.Error(err)
		}
		return "code=" + url.QueryEscape(<-stolen)
	})
	_, err := login.Browser(t.Context(), provider(server), "n-1", open, io.Discard, login.Options{})
	wantError(t, err, "redeem the sign-in")
}

func TestNobodySignsIn(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := login.Browser(ctx, provider(server), "n-1", func(string) error {
		cancel(errors.New("interrupted"))
		return nil
	}, io.Discard, login.Options{})
	wantError(t, err, "sign in: interrupted")
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
