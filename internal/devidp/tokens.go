package devidp

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// grant is what a token stands for.
type grant struct {
	clientID string
	subject  string
	scopes   []string
	authTime time.Time
	expires  time.Time
	family   string // shared by all tokens that descend from one sign-in
}

// refreshRequest is a grant in the words of op.RefreshTokenRequest.
type refreshRequest struct {
	grant
	current []string      // scopes asked for; a subset of the grant's
	skew    time.Duration // see moment
}

func (r *refreshRequest) GetAMR() []string                 { return nil }
func (r *refreshRequest) GetAudience() []string            { return []string{r.clientID} }
func (r *refreshRequest) GetAuthTime() time.Time           { return r.authTime.Add(r.skew) }
func (r *refreshRequest) GetClientID() string              { return r.clientID }
func (r *refreshRequest) GetScopes() []string              { return r.current }
func (r *refreshRequest) GetSubject() string               { return r.subject }
func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.current = scopes }

// newGrant makes the grant that a token request asks for.
func (s *storage) newGrant(ctx context.Context, request op.TokenRequest) (grant, error) {
	if r, ok := request.(*refreshRequest); ok {
		return r.grant, nil
	}
	r, ok := request.(op.IDTokenRequest)
	if !ok {
		return grant{}, fmt.Errorf("token request of unknown kind %T", request)
	}
	return grant{
		clientID: r.GetClientID(),
		subject:  r.GetSubject(),
		scopes:   slices.Clone(r.GetScopes()),
		authTime: r.GetAuthTime().Add(-momentOf(ctx).skew),
		family:   rand.Text(),
	}, nil
}

// addAccess makes an access token and returns its id. The caller must hold the lock.
func (s *storage) addAccess(now time.Time, g grant, scopes []string) (string, time.Time) {
	maps.DeleteFunc(s.access, func(_ string, g grant) bool { return now.After(g.expires) })
	g.scopes, g.expires = slices.Clone(scopes), now.Add(s.config.AccessTokenLifetime)
	id := rand.Text()
	s.access[id] = g
	return id, g.expires
}

func (s *storage) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	g, err := s.newGrant(ctx, request)
	if err != nil {
		return "", time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, expires := s.addAccess(momentOf(ctx).now, g, request.GetScopes())
	return id, expires, nil
}

// CreateAccessAndRefreshTokens rotates: current, if there is one, is spent.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	g, err := s.newGrant(ctx, request)
	if err != nil {
		return "", "", time.Time{}, err
	}
	now := momentOf(ctx).now
	s.mu.Lock()
	defer s.mu.Unlock()
	if current != "" {
		// Of two requests with one token that came this far together, the second finds it gone.
		if _, ok := s.refresh[current]; !ok {
			return "", "", time.Time{}, oidc.ErrInvalidGrant()
		}
		delete(s.refresh, current)
		s.spent[current] = g.family
	}
	id, expires := s.addAccess(now, g, request.GetScopes())
	token := rand.Text() + rand.Text()
	g.expires = now.Add(s.config.RefreshLifetime)
	s.refresh[token] = g
	return id, token, expires, nil
}

// TokenRequestByRefreshToken returns what the token stands for. One that was used before has leaked: whoever holds its
// descendants, they end (RFC 9700 4.14.2).
func (s *storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	m := momentOf(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if family, ok := s.spent[token]; ok {
		s.revokeFamily(family)
		return nil, oidc.ErrInvalidGrant().WithDescription("refresh token used twice")
	}
	g, ok := s.refresh[token]
	if !ok || m.now.After(g.expires) {
		return nil, oidc.ErrInvalidGrant().WithDescription("refresh token unknown or expired")
	}
	return &refreshRequest{grant: g, current: slices.Clone(g.scopes), skew: m.skew}, nil
}

// revokeFamily ends all tokens of one sign-in. The caller must hold the lock.
func (s *storage) revokeFamily(family string) {
	of := func(_ string, g grant) bool { return g.family == family }
	maps.DeleteFunc(s.refresh, of)
	maps.DeleteFunc(s.access, of)
}

func (s *storage) GetRefreshTokenInfo(_ context.Context, clientID, token string) (subject, id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.refresh[token]
	if !ok || g.clientID != clientID {
		return "", "", op.ErrInvalidRefreshToken
	}
	return g.subject, token, nil
}

// RevokeToken ends a token; a refresh token takes its family with it (RFC 7009 2.1). An unknown token is no error.
func (s *storage) RevokeToken(_ context.Context, token, _, clientID string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g, ok := s.refresh[token]; ok && g.clientID == clientID {
		s.revokeFamily(g.family)
	}
	if g, ok := s.access[token]; ok && g.clientID == clientID {
		delete(s.access, token)
	}
	return nil
}

// SetUserinfoFromScopes does nothing: SetUserinfoFromRequest, which the library calls next, does it all.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills in an ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	return s.setUserinfo(info, request.GetSubject(), scopes)
}

// SetUserinfoFromToken fills in the answer of the userinfo endpoint.
func (s *storage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, id, subject, _ string) error {
	s.mu.Lock()
	g, ok := s.access[id]
	s.mu.Unlock()
	if !ok || g.subject != subject || momentOf(ctx).now.After(g.expires) {
		return oidc.ErrAccessDenied().WithDescription("access token unknown or expired")
	}
	return s.setUserinfo(info, g.subject, g.scopes)
}

func (s *storage) setUserinfo(info *oidc.UserInfo, subject string, scopes []string) error {
	user, ok := s.config.userBySubject(subject)
	if !ok {
		return oidc.ErrAccessDenied().WithDescription("unknown user")
	}
	info.Subject = user.Subject
	for name, value := range user.claims(scopes) {
		info.AppendClaims(name, value)
	}
	return nil
}

// claims returns what the scopes tell of the user. They are set one by one, since the library's own struct would leave
// out an email_verified that is false.
func (u User) claims(scopes []string) map[string]any {
	claims := map[string]any{}
	maps.Copy(claims, u.Claims)
	if slices.Contains(scopes, oidc.ScopeProfile) {
		claims["name"] = u.Name
	}
	if slices.Contains(scopes, oidc.ScopeEmail) {
		claims["email"] = u.Email
		claims["email_verified"] = u.EmailVerified
	}
	if slices.Contains(scopes, scopeGroups) {
		claims["groups"] = append([]string{}, u.Groups...) // [] rather than null
	}
	return claims
}
