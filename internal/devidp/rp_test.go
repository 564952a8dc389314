package devidp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

// start returns a provider that listens until the test ends.
func start(t testing.TB, config devidp.Config) *devidp.Server {
	t.Helper()
	if config.KeyFile == "" {
		config.KeyFile = keyFile
	}
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

// relyingParty is a native client as the standards want it: a callback on loopback, PKCE, state, nonce.
type relyingParty struct {
	oauth2.Config
	verifier  *oidc.IDTokenVerifier
	callbacks chan url.Values // what the browser brought
}

func newRelyingParty(t testing.TB, server *devidp.Server, now func() time.Time) *relyingParty {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	rp := &relyingParty{callbacks: make(chan url.Values, 10)}
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rp.callbacks <- r.URL.Query()
	}))
	t.Cleanup(listener.Close)
	rp.Config = oauth2.Config{
		ClientID:    "hallpass",
		Endpoint:    provider.Endpoint(),
		RedirectURL: listener.URL + "/callback",
		Scopes:      []string{"openid", "email", "groups", "offline_access"},
	}
	rp.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	rp.verifier = provider.Verifier(&oidc.Config{ClientID: "hallpass", SupportedSigningAlgs: []string{"RS256"}, Now: now})
	return rp
}

// tokens is what a sign-in gave.
type tokens struct {
	oauth  *oauth2.Token
	raw    string
	id     *oidc.IDToken
	claims claims
}

type claims struct {
	Email         string   `json:"email"`
	EmailVerified *bool    `json:"email_verified"`
	Groups        []string `json:"groups"`
	AuthTime      int64    `json:"auth_time"`
	AuthorizedFor string   `json:"azp"`
	Contractor    *bool    `json:"contractor"`
	Level         *int     `json:"level"`
}

// login signs the user in by the code flow.
func (rp *relyingParty) login(t testing.TB, browser *devidp.Browser, user string, options ...oauth2.AuthCodeOption) tokens {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	options = append(options, oauth2.S256ChallengeOption(verifier), oidc.Nonce("nonce of "+user))
	if err := browser.SignIn(t.Context(), user, rp.AuthCodeURL("the state", options...)); err != nil {
		t.Fatalf("sign in as %s: %v", user, err)
	}
	query := <-rp.callbacks
	if query.Get("state") != "the state" {
		t.Fatalf("callback brought state %q", query.Get("state"))
	}
	token, err := rp.Exchange(t.Context(), query.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	got := rp.read(t, token)
	if got.id.Nonce != "nonce of "+user {
		t.Errorf("nonce is %q", got.id.Nonce)
	}
	return got
}

// read verifies the ID token of an answer.
func (rp *relyingParty) read(t testing.TB, token *oauth2.Token) tokens {
	t.Helper()
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		t.Fatal("the answer has no ID token")
	}
	id, err := rp.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	got := tokens{oauth: token, raw: raw, id: id}
	if err := id.Claims(&got.claims); err != nil {
		t.Fatal(err)
	}
	return got
}

// refresh uses a refresh token.
func (rp *relyingParty) refresh(ctx context.Context, token string) (*oauth2.Token, error) {
	return rp.TokenSource(ctx, &oauth2.Token{RefreshToken: token}).Token()
}
