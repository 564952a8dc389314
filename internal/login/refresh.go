package login

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/oauth2"
)

// Refresh gets a new ID token for a refresh token, and the refresh token to use from now on, which may be the same. Its error has
// ErrSignIn in its chain if the issuer took the refresh token back, or answers without an ID token, as it may (OpenID Connect Core
// 12.2).
func Refresh(ctx context.Context, p Provider, refreshToken string) (Tokens, error) {
	if refreshToken == "" {
		return Tokens{}, fmt.Errorf("issuer %s gave no refresh token: %w", p.Issuer, ErrSignIn)
	}
	rp, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	defer rp.close()
	answer, err := rp.TokenSource(rp.with(ctx), &oauth2.Token{RefreshToken: refreshToken}).Token()
	if err != nil {
		err = rp.explain("refresh the sign-in", err)
		if refusal := (*Refusal)(nil); errors.As(err, &refusal) && refusal.Code == "invalid_grant" {
			return Tokens{}, fmt.Errorf("%w: %w", err, ErrSignIn)
		}
		return Tokens{}, err
	}
	tokens, _, err := rp.tokens(ctx, answer, "")
	return tokens, err
}
