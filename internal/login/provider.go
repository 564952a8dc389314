package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

// ErrSignIn is in the chain of errors that only a new sign-in can mend.
var ErrSignIn = errors.New("sign in again")

const (
	requestTimeout = 15 * time.Second // of one request to the issuer
	clockSkew      = 5 * time.Minute  // between this machine and the issuer
)

// Provider is an issuer as the helper sees it: a public client (RFC 8252 8.4), which has no secret.
type Provider struct {
	Issuer   string `json:"issuer"`    // its URL
	ClientID string `json:"client_id"` // required
	// Scopes are asked for. Default: openid, email and offline_access; openid is always among them.
	Scopes []string `json:"scopes,omitempty"`
	// CAFile and AllowInsecure are those of issuerhttp.Config.
	CAFile        string `json:"ca_file,omitempty"`
	AllowInsecure bool   `json:"allow_insecure,omitempty"`
}

// Tokens are what a sign-in gives. They are secret but for the expiry and the identity.
type Tokens struct {
	IDToken      string
	RefreshToken string    // empty if the issuer gives none
	Expiry       time.Time // of the ID token
	Subject      string
	Email        string // as the issuer sent it, for display; the daemon has its own rule for emails
}

// relyingParty is a Provider that was discovered.
type relyingParty struct {
	oauth2.Config
	issuer   string
	http     issuerhttp.Config
	client   *http.Client
	verifier *oidc.IDTokenVerifier
	// namesItself says that the issuer puts iss into the answers of its authorization endpoint (RFC 9207).
	namesItself bool
}

func (p Provider) discover(ctx context.Context) (*relyingParty, error) {
	rp := &relyingParty{issuer: p.Issuer, http: issuerhttp.Config{CAFile: p.CAFile, AllowInsecure: p.AllowInsecure}}
	if err := rp.http.CheckIssuer(p.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if p.ClientID == "" {
		return nil, fmt.Errorf("issuer %s: the client id is empty", p.Issuer)
	}
	var err error
	if rp.client, err = rp.http.Client(); err != nil {
		return nil, fmt.Errorf("issuer %s: %w", p.Issuer, err)
	}
	rp.client.Timeout = requestTimeout
	provider, err := oidc.NewProvider(rp.with(ctx), p.Issuer)
	if err != nil {
		rp.client.CloseIdleConnections()
		return nil, fmt.Errorf("discover issuer %s: %s", p.Issuer, issuerhttp.Explain(err))
	}
	var metadata struct {
		NamesItself bool `json:"authorization_response_iss_parameter_supported"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("discover issuer %s: %s", p.Issuer, issuerhttp.Explain(err))
	}
	rp.namesItself = metadata.NamesItself
	rp.ClientID, rp.Scopes, rp.Endpoint = p.ClientID, slices.Clone(p.Scopes), provider.Endpoint()
	// Found out by trial, the style would begin with one that public clients cannot use, and some issuers then refuse.
	rp.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	if len(rp.Scopes) == 0 {
		rp.Scopes = []string{"email", oidc.ScopeOfflineAccess}
	}
	if !slices.Contains(rp.Scopes, oidc.ScopeOpenID) {
		rp.Scopes = append([]string{oidc.ScopeOpenID}, rp.Scopes...)
	}
	rp.verifier = provider.VerifierContext(rp.with(ctx), &oidc.Config{ClientID: p.ClientID})
	return rp, nil
}

// with returns a context by which the libraries find the client.
func (rp *relyingParty) with(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, rp.client)
}

func (rp *relyingParty) close() { rp.client.CloseIdleConnections() }

// tokens verifies what the token endpoint answered, as the daemon would. The nonce, if there is one, must be that of the ID token.
func (rp *relyingParty) tokens(ctx context.Context, answer *oauth2.Token, nonce string) (Tokens, *oidc.IDToken, error) {
	raw, ok := answer.Extra("id_token").(string)
	if !ok || raw == "" {
		return Tokens{}, nil, fmt.Errorf("issuer %s sent no ID token: %w", rp.issuer, ErrSignIn)
	}
	id, err := rp.verifier.Verify(rp.with(ctx), raw)
	if expired := (*oidc.TokenExpiredError)(nil); errors.As(err, &expired) {
		return Tokens{}, nil, fmt.Errorf("the ID token of issuer %s expired at %s: is the clock of this machine right?", rp.issuer, expired.Expiry.Format(time.RFC3339))
	}
	if err != nil {
		return Tokens{}, nil, fmt.Errorf("verify the ID token of issuer %s: %s", rp.issuer, issuerhttp.Explain(err))
	}
	var claims struct {
		Party string `json:"azp"`
		Email any    `json:"email"`
	}
	if err := id.Claims(&claims); err != nil {
		return Tokens{}, nil, fmt.Errorf("verify the ID token of issuer %s: its claims are malformed", rp.issuer)
	}
	switch {
	case nonce != "" && id.Nonce != nonce:
		return Tokens{}, nil, fmt.Errorf("the ID token of issuer %s is not an answer to this sign-in: its nonce is another", rp.issuer)
	case claims.Party != "" && claims.Party != rp.ClientID, claims.Party == "" && len(id.Audience) > 1:
		return Tokens{}, nil, fmt.Errorf("the ID token of issuer %s was issued to another client", rp.issuer)
	case id.Issuer != rp.issuer || id.Subject == "":
		return Tokens{}, nil, fmt.Errorf("the ID token of issuer %s does not say whose it is", rp.issuer)
	case id.IssuedAt.IsZero() || id.IssuedAt.After(time.Now().Add(clockSkew)):
		return Tokens{}, nil, fmt.Errorf("the ID token of issuer %s was issued in the future: is the clock of this machine right?", rp.issuer)
	}
	t := Tokens{IDToken: raw, RefreshToken: answer.RefreshToken, Expiry: id.Expiry, Subject: id.Subject}
	if email, ok := claims.Email.(string); ok {
		t.Email = issuerhttp.Clean(email, 254)
	}
	return t, id, nil
}

// explain makes an error of an answer of the issuer. The answer's body, which may hold a token, is no part of it.
func (rp *relyingParty) explain(attempt string, err error) error {
	var answer *oauth2.RetrieveError
	if !errors.As(err, &answer) {
		return fmt.Errorf("%s at issuer %s: %w", attempt, rp.issuer, withoutURL(err))
	}
	refusal := &Refusal{Issuer: rp.issuer, Code: issuerhttp.Clean(answer.ErrorCode, 100), Description: issuerhttp.Clean(answer.ErrorDescription, 300)}
	if refusal.Code == "" && answer.Response != nil {
		refusal.Code = answer.Response.Status
	}
	return fmt.Errorf("%s: %w", attempt, refusal)
}

// Refusal is an issuer's no, in its own words, fit to be shown.
type Refusal struct {
	Issuer      string
	Code        string // of RFC 6749 or RFC 8628, such as access_denied, or an HTTP status
	Description string // empty if the issuer said no more
}

func (r *Refusal) Error() string {
	if r.Description == "" {
		return fmt.Sprintf("issuer %s refused: %s", r.Issuer, r.Code)
	}
	return fmt.Sprintf("issuer %s refused: %s (%s)", r.Issuer, r.Code, r.Description)
}
