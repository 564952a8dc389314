package devidp_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

func TestAuthorizationRequestsRefused(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	set := oauth2.SetAuthURLParam
	pkce := oauth2.S256ChallengeOption("v")
	for name, row := range map[string]struct {
		options []oauth2.AuthCodeOption
		want    string
		told    bool // the client is told, at its redirect URI
	}{
		"a redirect to another host":             {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "http://evil.example/callback")}, "400", false},
		"a redirect to another path":             {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "http://127.0.0.1:9/other")}, "400", false},
		"a redirect to localhost by name":        {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "http://localhost:9/callback")}, "400", false},
		"a redirect to another loopback address": {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "http://127.0.0.2:9/callback")}, "400", false},
		"a redirect with a user":                 {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "http://x@127.0.0.1:9/callback")}, "400", false},
		"a redirect by https":                    {[]oauth2.AuthCodeOption{pkce, set("redirect_uri", "https://127.0.0.1:9/callback")}, "400", false},
		"an unknown client":                      {[]oauth2.AuthCodeOption{pkce, set("client_id", "nobody")}, "400", false},
		"no PKCE":                                {nil, "PKCE", true},
		"PKCE in plain":                          {[]oauth2.AuthCodeOption{set("code_challenge", "v"), set("code_challenge_method", "plain")}, "PKCE", true},
		"PKCE with no method":                    {[]oauth2.AuthCodeOption{set("code_challenge", "v")}, "PKCE", true},
		"no scope openid":                        {[]oauth2.AuthCodeOption{pkce, set("scope", "email")}, "invalid_scope", true},
		"the implicit flow":                      {[]oauth2.AuthCodeOption{pkce, set("response_type", "id_token")}, "nobody was signed in", true},
		"an answer by a self-posting form":       {[]oauth2.AuthCodeOption{pkce, set("response_mode", "form_post")}, "response_mode", true},
		"no page and no session":                 {[]oauth2.AuthCodeOption{pkce, set("prompt", "none")}, "login_required", true},
	} {
		t.Run(name, func(t *testing.T) {
			err := devidp.NewBrowser(nil).SignIn(t.Context(), "alice", rp.AuthCodeURL("s", row.options...))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if told := len(rp.callbacks) == 1; told != row.told {
				t.Errorf("client told: %v, want %v", told, row.told)
			}
			for range len(rp.callbacks) {
				<-rp.callbacks
			}
		})
	}
}

func TestLoopbackRedirectsTakeAnyPort(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	for _, redirect := range []string{"http://127.0.0.1:1/callback", "http://127.0.0.1/callback", "http://[::1]:2/callback", "http://[0:0::1]:3/callback"} {
		rp.RedirectURL = redirect
		answer, err := http.Get(rp.AuthCodeURL("s", oauth2.S256ChallengeOption("v")))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK || answer.Request.URL.Path != "/login" {
			t.Errorf("%s: %s at %s", redirect, answer.Status, answer.Request.URL.Path)
		}
	}
}

func TestCodeServesOnceAndOnlyWithItsVerifier(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	code := func() string {
		t.Helper()
		if err := devidp.NewBrowser(nil).SignIn(t.Context(), "alice", rp.AuthCodeURL("s", oauth2.S256ChallengeOption("right"))); err != nil {
			t.Fatal(err)
		}
		return (<-rp.callbacks).Get("code")
	}

	once := code()
	if _, err := rp.Exchange(t.Context(), once, oauth2.VerifierOption("right")); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "invalid_grant", errorOf(rp.Exchange(t.Context(), once, oauth2.VerifierOption("right"))))

	guessed := code()
	wantRefused(t, "invalid_grant", errorOf(rp.Exchange(t.Context(), guessed, oauth2.VerifierOption("wrong"))))
	wantRefused(t, "invalid_grant", errorOf(rp.Exchange(t.Context(), guessed, oauth2.VerifierOption("right"))))

	wantRefused(t, "invalid_request", errorOf(rp.Exchange(t.Context(), code())))
}

func TestUserCanRefuse(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	page, err := http.Get(rp.AuthCodeURL("s", oauth2.S256ChallengeOption("v")))
	if err != nil {
		t.Fatal(err)
	}
	page.Body.Close()
	id := page.Request.URL.Query().Get("id")
	answer, err := http.PostForm(server.URL()+"/login", url.Values{"id": {id}, "refuse": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if got := (<-rp.callbacks).Get("error"); got != "access_denied" {
		t.Errorf("client was told %q", got)
	}
}

func TestPagesHoldNothingOfTheQueryAndNoScripts(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	const hostile = `"><script>alert(1)</script>`
	q := url.QueryEscape(hostile)
	for _, path := range []string{
		"/login?id=" + q,
		"/device?user_code=" + q,
		"/authorize?client_id=" + q + "&redirect_uri=" + q + "&error=" + q + "&error_description=" + q,
		"/authorize/callback?id=" + q,
		"/end_session?id_token_hint=" + q + "&post_logout_redirect_uri=" + q,
		strings.TrimPrefix(rp.AuthCodeURL(hostile, oauth2.S256ChallengeOption("v"), oauth2.SetAuthURLParam("login_hint", hostile)), server.URL()),
	} {
		answer, err := http.Get(server.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		html := strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html")
		if html && strings.Contains(string(body), "<script") {
			t.Errorf("%s shows it raw: %s", path, body)
		}
		csp := answer.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "script") || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s has headers %v", path, answer.Header)
		}
	}
}

func TestForeignPagesCannotPressButtons(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	device, err := rp.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"user_code": {device.UserCode}, "user": {"carol"}}
	post := func(change func(*http.Request)) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, device.VerificationURI, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(r)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	if got := post(func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }); got != http.StatusForbidden {
		t.Errorf("a foreign page: status %d", got)
	}
	if got := post(func(r *http.Request) { r.Host = "evil.example" }); got != http.StatusMisdirectedRequest {
		t.Errorf("a rebound name: status %d", got)
	}
	if got := post(func(*http.Request) {}); got != http.StatusOK {
		t.Errorf("the code was used up: status %d", got)
	}
}

func TestListenTakesLoopbackOnly(t *testing.T) {
	server, err := devidp.New(devidp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "localhost:0", "192.0.2.1:0", "example.com:443", "127.0.0.1", ""} {
		if err := server.Listen(addr); err == nil {
			t.Errorf("listens on %q", addr)
		}
	}
}

func TestBrowserStaysOnLoopback(t *testing.T) {
	err := devidp.NewBrowser(nil).SignIn(t.Context(), "alice", "http://192.0.2.1/authorize?code=secret")
	if err == nil || !strings.Contains(err.Error(), "not a loopback address") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestBrowserSaysWhoHasAButton(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	err := devidp.NewBrowser(nil).SignIn(t.Context(), "eve", rp.AuthCodeURL("s", oauth2.S256ChallengeOption("v")))
	if err == nil || !strings.Contains(err.Error(), `no button for "eve", only for alice, bob, carol, dave, mallory`) {
		t.Errorf("got %v", err)
	}
}
