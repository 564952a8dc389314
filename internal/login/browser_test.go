package login_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/login"
)

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

// TestNonceOfAnotherSignIn shows that an ID token which is good in all else must answer this sign-in.
func TestNonceOfAnotherSignIn(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	for name, nonce := range map[string]any{"another nonce": "n-2", "no nonce": nil, "a nonce in other letters": "N-1"} {
		t.Run(name, func(t *testing.T) {
			claims, _ := server.PersonClaims("alice", "hallpass")
			if nonce != nil {
				claims["nonce"] = nonce
			}
			raw, err := server.People().Sign(claims, devidp.TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			server.Break(devidp.At(devidp.Answering(200, fmt.Sprintf(`{"access_token":"a","token_type":"Bearer","id_token":%q}`, raw)), "/oauth/token"))
			defer server.Break(nil)
			var page string
			open := answering(t, &page, func(url.Values) string { return "code=x" })
			_, err = login.Browser(t.Context(), provider(server), "n-1", open, io.Discard, login.Options{})
			wantError(t, err, "its nonce is another")
		})
	}
}

// TestSignInThatIsNotFresh shows that an issuer which only says so is found out.
func TestSignInThatIsNotFresh(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	for name, tt := range map[string]struct {
		authTime any
		want     string
	}{
		"a sign-in of an hour ago is refused": {time.Now().Add(-time.Hour).Unix(), "did not ask you to sign in again"},
		"a sign-in of no time is refused":     {nil, "does not say when you signed in"},
	} {
		t.Run(name, func(t *testing.T) {
			claims, _ := server.PersonClaims("alice", "hallpass")
			claims["nonce"], claims["auth_time"] = "n-1", tt.authTime
			raw, err := server.People().Sign(claims, devidp.TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			server.Break(devidp.At(devidp.Answering(200, fmt.Sprintf(`{"access_token":"a","token_type":"Bearer","id_token":%q}`, raw)), "/oauth/token"))
			defer server.Break(nil)
			var page string
			open := answering(t, &page, func(url.Values) string { return "code=x" })
			tokens, err := login.Browser(t.Context(), provider(server), "n-1", open, io.Discard, login.Options{FreshLogin: true})
			wantError(t, err, tt.want)
			if tokens.IDToken != "" {
				t.Error("the tokens came beside the error")
			}
		})
	}
}
