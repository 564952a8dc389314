package login

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

const signInTimeout = 5 * time.Minute // for the person to act

// Options change how Browser signs in.
type Options struct {
	// FreshLogin asks the issuer to have the person sign in again even though it knows them, and checks that it did.
	FreshLogin bool
}

// Browser signs a person in with the authorization code flow. It opens the issuer's page with open, prints its address to out in any
// case, and waits until the browser brings the answer, 5 minutes at most. The nonce comes back in the ID token.
func Browser(ctx context.Context, p Provider, nonce string, open func(url string) error, out io.Writer, o Options) (Tokens, error) {
	if nonce == "" {
		return Tokens{}, errors.New("sign in: the nonce is empty")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, signInTimeout, fmt.Errorf("nobody signed in within %s", signInTimeout))
	defer cancel()
	rp, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	defer rp.close()
	if err := rp.http.CheckEndpoint(rp.Endpoint.AuthURL); err != nil {
		return Tokens{}, fmt.Errorf("authorization endpoint of issuer %s: %w", p.Issuer, err)
	}
	listener, err := listen()
	if err != nil {
		return Tokens{}, fmt.Errorf("listen for the answer to the sign-in: %w", err)
	}
	rp.RedirectURL = "http://" + listener.Addr().String() + callbackPath
	var tokens Tokens
	verifier := oauth2.GenerateVerifier()
	c := &callback{
		host: listener.Addr().String(), state: rand.Text(), issuer: p.Issuer, namesItself: rp.namesItself, done: make(chan error, 1),
		finish: func(code string) (err error) {
			tokens, err = rp.exchange(ctx, code, verifier, nonce, o)
			return err
		},
	}
	stop := serve(listener, c)
	defer stop()
	options := []oauth2.AuthCodeOption{oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)}
	if o.FreshLogin {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	address := rp.AuthCodeURL(c.state, options...)
	fmt.Fprintf(out, "To sign in, open this address in a browser on this machine:\n\n  %s\n\n", address)
	if err := open(address); err != nil {
		fmt.Fprintf(out, "No browser could be opened: %s\n", issuerhttp.Explain(err))
	}
	select {
	case err := <-c.done:
		if err != nil {
			return Tokens{}, err
		}
		return tokens, nil
	case <-ctx.Done():
		return Tokens{}, fmt.Errorf("sign in: %w", context.Cause(ctx))
	}
}

// listen takes any free port: issuers ignore the port of a loopback redirect (RFC 8252 7.3).
func listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		return listener, nil
	}
	listener, err6 := net.Listen("tcp", "[::1]:0")
	if err6 != nil {
		return nil, errors.Join(err, err6)
	}
	return listener, nil
}

// serve answers at the listener until the function that it returns is called, which lets the answer under way get out.
func serve(listener net.Listener, handler http.Handler) (stop func()) {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		MaxHeaderBytes:    32 << 10,
	}
	server.SetKeepAlivesEnabled(false)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // it ends by stop, and by nothing that could be mended here
	}()
	return func() {
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		<-served
	}
}

// exchange redeems the code.
func (rp *relyingParty) exchange(ctx context.Context, code, verifier, nonce string, o Options) (Tokens, error) {
	answer, err := rp.Exchange(rp.with(ctx), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Tokens{}, rp.explain("redeem the sign-in", err)
	}
	tokens, id, err := rp.tokens(ctx, answer, nonce)
	if err != nil {
		return Tokens{}, err
	}
	if o.FreshLogin {
		if err := rp.checkFresh(id); err != nil {
			return Tokens{}, err
		}
	}
	return tokens, nil
}

// checkFresh tells at once what the daemon would refuse later: an issuer that did not ask the person anew (OpenID Connect Core
// 3.1.2.1, max_age). Both times are the issuer's.
func (rp *relyingParty) checkFresh(id *oidc.IDToken) error {
	var claims struct {
		AuthTime float64 `json:"auth_time"`
	}
	if err := id.Claims(&claims); err != nil || claims.AuthTime <= 0 {
		return fmt.Errorf("issuer %s does not say when you signed in (auth_time), so that a fresh sign-in cannot be shown", rp.issuer)
	}
	if id.IssuedAt.Sub(time.Unix(int64(claims.AuthTime), 0)) > signInTimeout {
		return fmt.Errorf("issuer %s did not ask you to sign in again: sign out there, then try again", rp.issuer)
	}
	return nil
}

// withoutURL takes the URL, whose query may hold a secret, out of an error of net/http.
func withoutURL(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return errors.New(issuerhttp.Explain(err))
}
