// Package devidp is an OpenID Connect provider for development and tests. It speaks the real protocols (authorization
// code with PKCE, device flow, refresh with rotation, discovery) to real clients, but it asks nobody for a password:
// its login page has one button for each user it knows. For that reason it listens on loopback addresses only.
//
// One server is two issuers, as in a company: people sign in at its URL, and workloads such as CI jobs get their tokens
// from the issuer at URL/ci, which has keys of its own. Everything but the keys is in memory and ends with the server.
package devidp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Config says what the provider is. The zero value is usable.
type Config struct {
	// Issuer is the URL of the people's issuer, without a path. Default: the address given to Listen.
	Issuer string

	// TLS, if set, is what Listen serves https with. Default: plain http.
	TLS *tls.Config

	// KeyFile is a PEM file with the signing keys of both issuers; it is made if it does not exist. Default: the keys
	// are made at start and forgotten at the end.
	KeyFile string

	// Clock is the time that tokens are dated with; it may be called by several goroutines at once. Default: time.Now.
	Clock func() time.Time

	IDTokenLifetime     time.Duration // default 1 hour
	AccessTokenLifetime time.Duration // default 1 hour
	RefreshLifetime     time.Duration // of each refresh token from its issue; default 24 hours

	Users     []User     // default DefaultUsers
	Clients   []Client   // default DefaultClients
	Workloads []Workload // default DefaultWorkloads
}

func (c *Config) setDefaults() {
	if c.IDTokenLifetime == 0 {
		c.IDTokenLifetime = time.Hour
	}
	if c.AccessTokenLifetime == 0 {
		c.AccessTokenLifetime = time.Hour
	}
	if c.RefreshLifetime == 0 {
		c.RefreshLifetime = 24 * time.Hour
	}
	if c.Users == nil {
		c.Users = DefaultUsers()
	}
	if c.Clients == nil {
		c.Clients = DefaultClients()
	}
	if c.Workloads == nil {
		c.Workloads = DefaultWorkloads()
	}
}

// Server is the provider. Make it with New; it answers at an address of its own after Listen, or through Handler.
type Server struct {
	config    Config
	store     *storage
	provider  *op.Provider
	people    *Issuer
	workloads *Issuer
	handler   http.Handler
	seams     seams

	mu     sync.Mutex // guards what follows
	issuer string     // URL of the people's issuer; "" until it is known
	stop   func() error
}

// New makes a provider that does not listen yet.
func New(config Config) (*Server, error) {
	config.setDefaults()
	if config.Issuer != "" {
		u, err := url.Parse(config.Issuer)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || config.Issuer != u.Scheme+"://"+u.Host {
			return nil, fmt.Errorf("issuer %q: it must be http(s)://host:port, with nothing after it", config.Issuer)
		}
	}
	people, workloads, err := loadKeys(config.KeyFile)
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, issuer: config.Issuer}
	s.people = &Issuer{url: s.URL, keys: people}
	s.workloads = &Issuer{url: func() string { return s.URL() + workloadPath }, keys: workloads}
	s.store = newStorage(&s.config, people)
	if s.provider, err = newProvider(s.store, s.URL); err != nil {
		return nil, fmt.Errorf("make OpenID provider: %w", err)
	}
	s.handler = s.routes()
	return s, nil
}

func newProvider(store *storage, issuer func() string) (*op.Provider, error) {
	config := &op.Config{
		DefaultLogoutRedirectURI: "/signed-out",
		CodeMethodS256:           true,
		GrantTypeRefreshToken:    true,
		SupportedScopes:          []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, scopeGroups, oidc.ScopeOfflineAccess},
		SupportedClaims:          []string{"sub", "aud", "exp", "iat", "iss", "auth_time", "nonce", "azp", "name", "email", "email_verified", "groups"},
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime:     deviceLifetime,
			PollInterval: time.Second,
			UserFormPath: devicePath,
			UserCode:     op.UserCodeBase20,
		},
	}
	rand.Read(config.CryptoKey[:])
	// The issuer is a function because it may be known only once Listen has a port.
	issuerFunc := func(bool) (op.IssuerFromRequest, error) {
		return func(*http.Request) string { return issuer() }, nil
	}
	// The library would let every web origin read its answers, with credentials: no page needs that.
	return op.NewProvider(config, store, issuerFunc, op.WithAllowInsecure(), op.WithCORSOptions(nil))
}

// URL returns the URL of the people's issuer; it is empty before Listen if the Config named none.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issuer
}

// Handler returns the provider as a handler, for a server of the caller's. It answers only requests for the issuer's
// own host, so Config.Issuer must be set or Listen called.
func (s *Server) Handler() http.Handler { return s.handler }

// Listen starts to serve at addr, which must be a loopback IP address with a port, which may be 0. A server that was
// closed may listen again, at the address it had.
func (s *Server) Listen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen on %q: %w", addr, err)
	}
	// A name could resolve to anything: only addresses are taken.
	if !net.ParseIP(host).IsLoopback() {
		return fmt.Errorf("listen on %q: this provider asks for no passwords, so it takes only loopback addresses: 127.0.0.1 or [::1]", addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return fmt.Errorf("listen on %q: already listening at %s", addr, s.issuer)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if s.config.TLS != nil {
		listener, scheme = tls.NewListener(listener, s.config.TLS), "https"
	}
	if s.issuer == "" {
		s.issuer = scheme + "://" + listener.Addr().String()
	}
	if got, want := listener.Addr().String(), s.issuer; !samePort(got, want) {
		return errors.Join(fmt.Errorf("listen on %s: clients know this provider as %s; listen on that port", got, want), listener.Close())
	}
	s.stop = serve(listener, s.handler)
	return nil
}

// samePort reports whether the address, a host with a port, has the port of the URL.
func samePort(addr, rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	_, port, err := net.SplitHostPort(addr)
	return err == nil && port == u.Port()
}

// serve answers at the listener until the function it returns is called, which waits for the answers under way.
func serve(listener net.Listener, handler http.Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		cancel() // wakes requests that a fault stalls
		grace, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		if err := server.Shutdown(grace); err != nil {
			server.Close()
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	}
}

// Close stops listening. It does nothing if the server does not listen.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == nil {
		return nil
	}
	stop := s.stop
	s.stop = nil
	return stop()
}
