package policy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// httpRemote speaks git's smart HTTP (gitprotocol-http).
type httpRemote struct {
	url                *url.URL
	username, password string
	client             *http.Client
	adv                *packp.AdvRefs
}

// newHTTPRemote believes the given roots instead of those of the system, if there are any.
func newHTTPRemote(u *url.URL, username, password string, roots *x509.CertPool) *httpRemote {
	return &httpRemote{
		url: u, username: username, password: password,
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    10 * time.Second,
				MaxResponseHeaderBytes: 64 << 10,
				DisableCompression:     true, // a small answer could unfold into a large one
				DisableKeepAlives:      true,
				ForceAttemptHTTP2:      true,
			},
			// The credentials are for this server, and what it points to may be anything.
			CheckRedirect: func(next *http.Request, _ []*http.Request) error {
				return fmt.Errorf("the server redirects to %s: if that is right, name that address", next.URL.Redacted())
			},
		},
	}
}

func (r *httpRemote) tip(ctx context.Context, branch string) (plumbing.Hash, error) {
	answer, err := r.ask(ctx, http.MethodGet, "/info/refs", "service=git-upload-pack", nil, "application/x-git-upload-pack-advertisement")
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer answer.Close()
	if r.adv, err = decodeAdvertised(answer); err != nil {
		return plumbing.ZeroHash, err
	}
	return branchOf(r.adv, branch)
}

func (r *httpRemote) pack(ctx context.Context, want, have plumbing.Hash) (io.ReadCloser, error) {
	req, body, err := wanted(r.adv, want, have)
	if err != nil {
		return nil, err
	}
	answer, err := r.ask(ctx, http.MethodPost, "/git-upload-pack", "", body, "application/x-git-upload-pack-result")
	if err != nil {
		return nil, err
	}
	return unpacked(req, answer)
}

func (r *httpRemote) close() { r.client.CloseIdleConnections() }

func (r *httpRemote) ask(ctx context.Context, method, path, query string, body []byte, want string) (io.ReadCloser, error) {
	u := *r.url
	u.Path += path
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "git/hallpass")
	req.Header.Set("Accept", want)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	if r.username != "" || r.password != "" {
		req.SetBasicAuth(r.username, r.password)
	}
	answer, err := r.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the URL is told once, by the caller
		}
		return nil, err
	}
	switch got := answer.Header.Get("Content-Type"); {
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		err = fmt.Errorf("the server refuses us (%s): look at username and password_file", answer.Status)
	case answer.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("the server knows no such repository (%s), or hides it: look at the address, username and password_file", answer.Status)
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("the server answers %.60q", answer.Status)
	case !strings.EqualFold(got, want):
		err = fmt.Errorf("the server answers with %.60q: this is no address of a git repository over smart HTTP", got)
	default:
		return answer.Body, nil
	}
	return nil, errors.Join(err, answer.Body.Close())
}
