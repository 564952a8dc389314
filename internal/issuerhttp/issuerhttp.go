// Package issuerhttp is how Hallpass, daemon and helper alike, talks to an OIDC issuer, and the daemon to those who keep lists for
// a policy: over https, within bounds of size and time, and never by way of another host than the one it was sent to. It knows
// nothing of OIDC.
package issuerhttp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"
)

const (
	timeout   = 5 * time.Second // of one request with its answer
	maxBody   = 1 << 20         // bytes of an answer
	maxHeader = 64 << 10        // bytes
)

// Config says how to reach an issuer.
type Config struct {
	// CAFile is a PEM file of the roots to trust in place of the system's. Default: the system's.
	CAFile string
	// AllowInsecure allows http, to loopback addresses only.
	AllowInsecure bool
}

// CheckIssuer reports why an issuer at rawURL cannot be used: only absolute https URLs can, without user, query or fragment
// (OpenID Connect Discovery 3), and http ones of loopback addresses where the Config allows it.
func (c Config) CheckIssuer(rawURL string) error {
	if u, err := url.Parse(rawURL); err == nil && (u.RawQuery != "" || u.ForceQuery) {
		return fmt.Errorf("URL %.200q: it must not have a query", u.Redacted())
	}
	return c.CheckEndpoint(rawURL)
}

// CheckEndpoint reports why an endpoint that an issuer names cannot be used. It may have a query, unlike an issuer.
func (c Config) CheckEndpoint(rawURL string) error {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%.200q is not an absolute URL", rawURL)
	case strings.ContainsFunc(rawURL, func(r rune) bool { return r <= ' ' || r > '~' }): // it is shown on terminals (RFC 3986 2)
		return fmt.Errorf("URL %.200q: it must be plain ASCII, and what is not must be escaped", u.Redacted())
	case u.User != nil || u.Fragment != "":
		return fmt.Errorf("URL %.200q: it must not have a user or a fragment", u.Redacted())
	}
	return c.checkScheme(u)
}

func (c Config) checkScheme(u *url.URL) error {
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && c.AllowInsecure && isLoopback(u.Hostname()):
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return fmt.Errorf("URL %.200q: http is allowed for a trial on this machine only, by allow_insecure", u.Redacted())
	}
	return fmt.Errorf("URL %.200q: it must begin with https://", u.Redacted())
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

// Client returns a client of its own connections. Each request, a redirected one too, must be for https or what the Config
// allows; a redirect to another host is an error, as is an answer that is too large or takes too long.
func (c Config) Client() (*http.Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("load CA file: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load CA file %s: it holds no PEM certificate", c.CAFile)
		}
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    timeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // so that the bound on bytes read is one on memory
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
	}
	return &http.Client{
		Transport:     &guard{config: c, next: transport},
		CheckRedirect: sameHost,
		Timeout:       timeout,
	}, nil
}

func sameHost(r *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("too many redirects")
	}
	first := via[0].URL
	if r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
		return fmt.Errorf("redirect from %s://%s to another host, %.200q, refused", first.Scheme, first.Host, r.URL.Host)
	}
	return nil
}

// guard holds every request to the Config, and every answer to the bound.
type guard struct {
	config Config
	next   *http.Transport
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := g.config.checkScheme(r.URL); err != nil {
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxBody}
	return resp, nil
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// boundedBody fails, rather than end, past the bound: half an answer must not pass for a whole one.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fmt.Errorf("answer longer than %d bytes", maxBody)
	}
	// One byte more than is left tells an answer of just the bound from a longer one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("answer longer than %d bytes", maxBody)
	}
	return n, err
}

// Explain shortens an error of an issuer, which may quote all of an answer, and takes control characters out.
func Explain(err error) string { return Clean(err.Error(), 300) }

// Clean makes text of an issuer fit to be shown on a terminal or logged: at most limit runes, control and format characters
// replaced by a space.
func Clean(text string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "?") {
		if n == limit {
			b.WriteString("...")
			break
		}
		n++
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
