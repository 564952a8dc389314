package devidp_test

import (
	"errors"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

func TestEachUserSignsInWithTheirClaims(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	yes, no, two, three, four := true, false, 2, 3, 4
	want := map[string]claims{
		"alice":   {EmailVerified: &yes, Groups: []string{"developers"}, Contractor: &no, Level: &two},
		"bob":     {EmailVerified: &yes, Groups: []string{"sre", "developers"}, Contractor: &no, Level: &three},
		"carol":   {EmailVerified: &yes, Groups: []string{"security", "ca-admins"}, Level: &four},
		"dave":    {EmailVerified: &yes, Groups: []string{}, Contractor: &yes},
		"mallory": {EmailVerified: &no, Groups: []string{"developers"}},
	}
	subjects := map[string]bool{}
	for user, want := range want {
		before := time.Now().Unix()
		got := rp.login(t, devidp.NewBrowser(nil), user)
		if at := got.claims.AuthTime; at < before || at > time.Now().Unix() {
			t.Errorf("%s: auth_time %d is not the time of the click", user, at)
		}
		want.Email, want.AuthorizedFor, want.AuthTime = user+"@example.com", "hallpass", got.claims.AuthTime
		if diff := cmp.Diff(want, got.claims); diff != "" {
			t.Errorf("%s: claims (-want +got):\n%s", user, diff)
		}
		if got.id.Subject == user || subjects[got.id.Subject] {
			t.Errorf("%s: subject %q is the name, or somebody else's", user, got.id.Subject)
		}
		subjects[got.id.Subject] = true
		if !near(got.id.Expiry, got.id.IssuedAt.Add(time.Hour)) {
			t.Errorf("%s: token lives from %v to %v", user, got.id.IssuedAt, got.id.Expiry)
		}
	}
}

// near allows for the time that a request takes: the op package reads the machine's clock as it makes a token.
func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute }

func TestUserinfoAgreesWithTheIDToken(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	got := rp.login(t, devidp.NewBrowser(nil), "mallory")
	provider, err := oidc.NewProvider(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	info, err := provider.UserInfo(t.Context(), oauth2.StaticTokenSource(got.oauth))
	if err != nil {
		t.Fatal(err)
	}
	if info.Subject != got.id.Subject || info.Email != "mallory@example.com" || info.EmailVerified {
		t.Errorf("userinfo is %+v", info)
	}
}

func TestSessionSparesTheLoginPage(t *testing.T) {
	now := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	server := start(t, devidp.Config{Clock: func() time.Time { return now }})
	rp := newRelyingParty(t, server, func() time.Time { return now })
	browser := devidp.NewBrowser(nil)
	clicked := now.Unix()
	if got := rp.login(t, browser, "alice"); got.claims.AuthTime != clicked || !near(got.id.IssuedAt, now) || !near(got.id.Expiry, now.Add(time.Hour)) {
		t.Errorf("first sign-in at %d: auth_time %d, from %v to %v", clicked, got.claims.AuthTime, got.id.IssuedAt, got.id.Expiry)
	}

	now = now.Add(10 * time.Minute)
	if got := rp.login(t, browser, "alice"); got.claims.AuthTime != clicked {
		t.Errorf("with a session, auth_time is %d, want the click's %d", got.claims.AuthTime, clicked)
	}
	if got := rp.login(t, browser, "alice", oauth2.SetAuthURLParam("max_age", "600")); got.claims.AuthTime != clicked {
		t.Errorf("with a session not too old, auth_time is %d, want the click's %d", got.claims.AuthTime, clicked)
	}
	if got := rp.login(t, browser, "alice", oauth2.SetAuthURLParam("prompt", "none")); got.claims.AuthTime != clicked {
		t.Errorf("with prompt=none, auth_time is %d, want the click's %d", got.claims.AuthTime, clicked)
	}
	err := browser.SignIn(t.Context(), "bob", rp.AuthCodeURL("s", oauth2.S256ChallengeOption("v")))
	if err == nil || !strings.Contains(err.Error(), "session is that of alice") {
		t.Errorf("bob with alice's session: %v", err)
	}
	<-rp.callbacks

	for _, fresh := range [][2]string{{"max_age", "599"}, {"max_age", "0"}, {"prompt", "login"}, {"prompt", "select_account"}} {
		now = now.Add(10 * time.Minute)
		if got := rp.login(t, browser, "alice", oauth2.SetAuthURLParam(fresh[0], fresh[1])); got.claims.AuthTime != now.Unix() {
			t.Errorf("with %s=%s, auth_time is %d, want the new click's %d", fresh[0], fresh[1], got.claims.AuthTime, now.Unix())
		}
	}
}

func TestCookiesCanBeKept(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	file := filepath.Join(t.TempDir(), "cookies")
	first := devidp.NewBrowser(nil)
	want := rp.login(t, first, "carol")
	if err := first.SaveCookies(file); err != nil {
		t.Fatal(err)
	}
	second := devidp.NewBrowser(nil)
	if err := second.LoadCookies(file); err != nil {
		t.Fatal(err)
	}
	if got := rp.login(t, second, "carol", oauth2.SetAuthURLParam("prompt", "none")); got.claims.AuthTime != want.claims.AuthTime {
		t.Errorf("auth_time is %d, want %d", got.claims.AuthTime, want.claims.AuthTime)
	}
}

func TestEndSessionSignsOut(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	browser := devidp.NewBrowser(nil)
	got := rp.login(t, browser, "alice")
	answer, err := http.Get(server.URL() + "/end_session?" + url.Values{"id_token_hint": {got.raw}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Request.URL.Path != "/signed-out" {
		t.Errorf("end_session led to %s: %s", answer.Request.URL.Path, answer.Status)
	}
	err = browser.SignIn(t.Context(), "alice", rp.AuthCodeURL("s", oauth2.S256ChallengeOption("v"), oauth2.SetAuthURLParam("prompt", "none")))
	if err == nil || !strings.Contains(err.Error(), "login_required") {
		t.Errorf("prompt=none after signing out: %v", err)
	}
	if _, err := rp.refresh(t.Context(), got.oauth.RefreshToken); err == nil {
		t.Error("the refresh token outlives the session")
	}
}

func TestRefreshTokensRotate(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	server := start(t, devidp.Config{Clock: func() time.Time { return now }})
	rp := newRelyingParty(t, server, func() time.Time { return now })
	first := rp.login(t, devidp.NewBrowser(nil), "bob")

	now = now.Add(30 * time.Minute)
	token, err := rp.refresh(t.Context(), first.oauth.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	second := rp.read(t, token)
	if second.id.Nonce != "" || second.claims.AuthTime != first.claims.AuthTime || !near(second.id.IssuedAt, now) {
		t.Errorf("refreshed ID token: nonce %q, auth_time %d, want none and %d", second.id.Nonce, second.claims.AuthTime, first.claims.AuthTime)
	}
	if diff := cmp.Diff(first.claims, second.claims); diff != "" {
		t.Errorf("refreshing changed the claims (-first +second):\n%s", diff)
	}
	if token.RefreshToken == first.oauth.RefreshToken {
		t.Error("the refresh token did not change")
	}

	wantRefused(t, "invalid_grant", errorOf(rp.refresh(t.Context(), first.oauth.RefreshToken)))
	wantRefused(t, "invalid_grant", errorOf(rp.refresh(t.Context(), token.RefreshToken))) // its family ended with the reuse

	third := rp.login(t, devidp.NewBrowser(nil), "bob")
	now = now.Add(24*time.Hour + time.Second)
	wantRefused(t, "invalid_grant", errorOf(rp.refresh(t.Context(), third.oauth.RefreshToken)))
}

func TestRefreshTokenServesOneOfManyAtOnce(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	token := rp.login(t, devidp.NewBrowser(nil), "alice").oauth.RefreshToken
	var served atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := rp.refresh(t.Context(), token); err == nil {
				served.Add(1)
			}
		})
	}
	all.Wait()
	if served.Load() != 1 {
		t.Errorf("served %d times", served.Load())
	}
}

func errorOf[T any](_ T, err error) error { return err }

// wantRefused checks that the token endpoint refused with the error code.
func wantRefused(t testing.TB, code string, err error) {
	t.Helper()
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) || refused.ErrorCode != code {
		t.Errorf("got %v, want error code %s", err, code)
	}
}

func TestRefreshTokenCanBeRevoked(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	got := rp.login(t, devidp.NewBrowser(nil), "alice")
	answer, err := http.PostForm(server.URL()+"/revoke", url.Values{
		"client_id": {"hallpass"}, "token": {got.oauth.RefreshToken}, "token_type_hint": {"refresh_token"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("revocation: %s", answer.Status)
	}
	wantRefused(t, "invalid_grant", errorOf(rp.refresh(t.Context(), got.oauth.RefreshToken)))
}

func TestDeviceFlow(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	device, err := rp.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := devidp.NewBrowser(nil).SignIn(t.Context(), "carol", device.VerificationURIComplete); err != nil {
		t.Fatal(err)
	}
	token, err := rp.DeviceAccessToken(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	got := rp.read(t, token)
	if got.claims.Email != "carol@example.com" || got.id.Nonce != "" || got.claims.AuthTime == 0 || token.RefreshToken == "" {
		t.Errorf("device flow gave %+v, nonce %q", got.claims, got.id.Nonce)
	}
	if diff := cmp.Diff([]string{"security", "ca-admins"}, got.claims.Groups); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	wantRefused(t, "access_denied", errorOf(rp.DeviceAccessToken(t.Context(), device)))
	err = devidp.NewBrowser(nil).SignIn(t.Context(), "carol", device.VerificationURIComplete)
	if err == nil || !strings.Contains(err.Error(), "unknown, used or expired") {
		t.Errorf("second approval: %v", err)
	}
}

func TestDeviceCanBeRefused(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	device, err := rp.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	code := strings.ToLower(strings.ReplaceAll(device.UserCode, "-", "")) // as people type it
	answer, err := http.PostForm(device.VerificationURI, url.Values{"user_code": {code}, "refuse": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	wantRefused(t, "access_denied", errorOf(rp.DeviceAccessToken(t.Context(), device)))
}

func TestDeviceCodeExpires(t *testing.T) {
	now := time.Now()
	server := start(t, devidp.Config{Clock: func() time.Time { return now }})
	rp := newRelyingParty(t, server, nil)
	device, err := rp.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(11 * time.Minute)
	wantRefused(t, "expired_token", errorOf(rp.DeviceAccessToken(t.Context(), device)))
}
