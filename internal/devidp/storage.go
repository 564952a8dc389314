package devidp

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	requestLifetime = 10 * time.Minute // of a sign-in that nobody finishes
	codeLifetime    = time.Minute      // of an authorization code
)

// storage keeps what the op package asks its storage for: sign-ins under way, sessions and tokens. It implements
// op.Storage and op.DeviceAuthorizationStorage. What it returns are copies, so nothing is read outside the lock.
type storage struct {
	config *Config
	keys   *keyring

	mu       sync.Mutex // guards the maps
	requests map[string]*authRequest
	codes    map[string]string // authorization code to request id
	sessions map[string]session
	access   map[string]grant  // by access token id
	refresh  map[string]grant  // by refresh token
	spent    map[string]string // refresh token already used, to its family
	devices  map[string]*deviceGrant
}

func newStorage(config *Config, keys *keyring) *storage {
	return &storage{
		config:   config,
		keys:     keys,
		requests: map[string]*authRequest{},
		codes:    map[string]string{},
		sessions: map[string]session{},
		access:   map[string]grant{},
		refresh:  map[string]grant{},
		spent:    map[string]string{},
		devices:  map[string]*deviceGrant{},
	}
}

// session is a browser in which a user has signed in.
type session struct {
	subject  string
	authTime time.Time // when the user's button was clicked
}

// authRequest is a sign-in by the authorization code flow, in the words of op.AuthRequest.
type authRequest struct {
	oidc.AuthRequest
	id       string
	hint     string // subject of the id_token_hint, if any
	subject  string // who signed in; "" until then
	authTime time.Time
	expires  time.Time
	skew     time.Duration // see moment
}

func (r *authRequest) GetID() string          { return r.id }
func (r *authRequest) GetACR() string         { return "" }
func (r *authRequest) GetAMR() []string       { return nil }
func (r *authRequest) GetAudience() []string  { return []string{r.ClientID} }
func (r *authRequest) GetAuthTime() time.Time { return r.authTime.Add(r.skew) }
func (r *authRequest) GetClientID() string    { return r.ClientID }
func (r *authRequest) GetNonce() string       { return r.Nonce }
func (r *authRequest) GetScopes() []string    { return r.Scopes }
func (r *authRequest) GetSubject() string     { return r.subject }
func (r *authRequest) Done() bool             { return r.subject != "" }
func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}
}

// allows reports whether the session spares the user the login page.
func (r *authRequest) allows(s session, now time.Time) bool {
	if r.hint != "" && r.hint != s.subject {
		return false
	}
	if slices.Contains(r.Prompt, oidc.PromptLogin) || slices.Contains(r.Prompt, oidc.PromptSelectAccount) {
		return false
	}
	if r.MaxAge == nil {
		return true
	}
	// max_age=0 is prompt=login (OIDC Core 3.1.2.1).
	return *r.MaxAge > 0 && now.Sub(s.authTime) <= time.Duration(*r.MaxAge)*time.Second
}

// CreateAuthRequest refuses what the library would let pass but a careful provider does not.
func (s *storage) CreateAuthRequest(ctx context.Context, request *oidc.AuthRequest, hint string) (op.AuthRequest, error) {
	i := slices.IndexFunc(s.config.Clients, func(c Client) bool { return c.ID == request.ClientID })
	switch {
	case i < 0 || !s.config.Clients[i].redirectsTo(request.RedirectURI):
		return nil, oidc.ErrInvalidRequestRedirectURI().WithDescription("The redirect_uri must be http://127.0.0.1:PORT or http://[::1]:PORT with the registered path.")
	case request.CodeChallenge == "" || request.CodeChallengeMethod != oidc.CodeChallengeMethodS256:
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE with S256 is required.")
	case !slices.Contains(request.Scopes, oidc.ScopeOpenID):
		return nil, oidc.ErrInvalidScope().WithDescription("The scope openid is required.")
	case request.ResponseMode != "" && request.ResponseMode != oidc.ResponseModeQuery:
		return nil, oidc.ErrInvalidRequest().WithDescription("Only response_mode=query is supported.")
	}
	now := momentOf(ctx).now
	r := &authRequest{AuthRequest: *request, id: rand.Text(), hint: hint, expires: now.Add(requestLifetime)}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.requests, func(_ string, r *authRequest) bool { return now.After(r.expires) })
	s.requests[r.id] = r
	return r.copy(ctx), nil
}

func (r *authRequest) copy(ctx context.Context) *authRequest {
	c := *r
	c.skew = momentOf(ctx).skew
	return &c
}

var errNoRequest = errors.New("this sign-in is unknown, finished or expired")

// request returns the sign-in with the id. The caller must hold the lock.
func (s *storage) request(ctx context.Context, id string) (*authRequest, error) {
	r, ok := s.requests[id]
	if !ok || momentOf(ctx).now.After(r.expires) {
		return nil, errNoRequest
	}
	return r, nil
}

func (s *storage) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.request(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.copy(ctx), nil
}

// pending returns the sign-in with the id if nobody has signed in yet.
func (s *storage) pending(ctx context.Context, id string) (*authRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.request(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Done() {
		return nil, errNoRequest
	}
	return r.copy(ctx), nil
}

// finish records who signed in, once.
func (s *storage) finish(ctx context.Context, id string, by session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.request(ctx, id)
	if err != nil {
		return err
	}
	if r.Done() {
		return errNoRequest
	}
	r.subject, r.authTime = by.subject, by.authTime
	return nil
}

func (s *storage) SaveAuthCode(ctx context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.request(ctx, id)
	if err != nil {
		return err
	}
	// A sign-in has one code: a reloaded callback page gets a new one and the old one ends.
	maps.DeleteFunc(s.codes, func(_, of string) bool { return of == id })
	s.codes[code] = id
	r.expires = momentOf(ctx).now.Add(codeLifetime)
	return nil
}

// AuthRequestByCode takes the code: it serves once, even if the verifier that comes with it is wrong.
func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.codes[code]
	if !ok {
		return nil, errNoRequest
	}
	delete(s.codes, code)
	r, err := s.request(ctx, id)
	if err != nil {
		return nil, err
	}
	delete(s.requests, id)
	return r.copy(ctx), nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

// signIn makes a browser session and returns its secret.
func (s *storage) signIn(by session) string {
	secret := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[secret] = by
	return secret
}

func (s *storage) session(secret string) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.sessions[secret]
	return found, ok
}

func (s *storage) signOut(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, secret)
}

// TerminateSession ends the user's sessions in all browsers, and the tokens that the client holds for the user.
func (s *storage) TerminateSession(_ context.Context, subject, clientID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sessions, func(_ string, v session) bool { return v.subject == subject })
	of := func(_ string, g grant) bool { return g.subject == subject && g.clientID == clientID }
	maps.DeleteFunc(s.access, of)
	maps.DeleteFunc(s.refresh, of)
	return nil
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.keys.signing(), nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	var keys []op.Key
	for _, k := range s.keys.published() {
		keys = append(keys, k)
	}
	return keys, nil
}

func (s *storage) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	i := slices.IndexFunc(s.config.Clients, func(c Client) bool { return c.ID == id })
	if i < 0 {
		return nil, oidc.ErrInvalidClient().WithDescription("unknown client")
	}
	return &client{Client: s.config.Clients[i], idTokenLifetime: s.config.IDTokenLifetime, skew: momentOf(ctx).skew}, nil
}

// The rest of op.Storage is for clients with secrets or keys, of which there are none.

var errPublicClients = errors.New("only public clients are known here")

func (s *storage) AuthorizeClientIDSecret(context.Context, string, string) error {
	return errPublicClients
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errPublicClients
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errPublicClients
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errPublicClients
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil // access tokens are opaque: they have no claims
}

func (s *storage) Health(context.Context) error { return nil }
