package devidp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	maxPage     = 1 << 20 // bytes
	maxSteps    = 5       // pages with a form on the way
	pageTimeout = 30 * time.Second
)

// Browser is a browser without a screen: it opens the pages of a provider, finds the buttons and clicks the right one. It
// keeps cookies, so a second sign-in may not see a login page. It goes to loopback addresses only.
type Browser struct {
	client   *http.Client
	jar      *jar
	signedIn string // user whose session the provider used last
}

// NewBrowser returns a browser without cookies. The TLS configuration may be nil.
func NewBrowser(config *tls.Config) *Browser {
	b := &Browser{jar: newJar()}
	b.client = &http.Client{
		Jar:       b.jar,
		Timeout:   pageTimeout,
		Transport: loopbackOnly{&http.Transport{TLSClientConfig: config, DisableKeepAlives: true}},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			b.note(r.Response)
			if len(via) >= 10 {
				return errors.New("more than 10 redirects")
			}
			return nil
		},
	}
	return b
}

// loopbackOnly keeps the browser, which clicks on anything, away from the rest of the world.
type loopbackOnly struct{ next http.RoundTripper }

func (t loopbackOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if host := r.URL.Hostname(); host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", host)
	}
	return t.next.RoundTrip(r)
}

// note remembers whose session an answer of the provider used.
func (b *Browser) note(response *http.Response) {
	if response == nil {
		return
	}
	if name, err := url.QueryUnescape(response.Header.Get(signedInHeader)); err == nil && name != "" {
		b.signedIn = name
	}
}

// SignIn opens an authorization URL, or the verification page of the device flow with its code, and clicks the button of
// the user. It follows all redirects, that to the client's loopback listener included. An error holds what the page said.
func (b *Browser) SignIn(ctx context.Context, user, rawURL string) error {
	b.signedIn = ""
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return fmt.Errorf("open %q: %w", rawURL, err)
	}
	for range maxSteps {
		current, err := b.open(request)
		if err != nil {
			return err
		}
		if len(current.forms) == 0 || b.signedIn != "" {
			return b.arrived(user)
		}
		if request, err = current.click(ctx, "user", user); err != nil {
			return err
		}
	}
	return fmt.Errorf("still asked to sign in after %d pages", maxSteps)
}

// arrived checks who the sign-in was for: a session of the browser may have spared it the login page.
func (b *Browser) arrived(user string) error {
	switch b.signedIn {
	case user:
		return nil
	case "":
		return errors.New("the page has no button, and nobody was signed in")
	}
	return fmt.Errorf("the browser's session is that of %s: use another jar, or ask for a fresh sign-in", b.signedIn)
}

// open loads the page that the request leads to. A page that says no is an error.
func (b *Browser) open(request *http.Request) (webPage, error) {
	response, err := b.client.Do(request)
	if err != nil {
		return webPage{}, withoutQuery(err)
	}
	defer response.Body.Close()
	b.note(response)
	at := response.Request.URL
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return webPage{}, fmt.Errorf("read %s: %w", at.Host, err)
	}
	// The provider tells the client of an error in the query of its redirect URI (RFC 6749 4.1.2.1).
	if query := at.Query(); query.Has("error") {
		return webPage{}, fmt.Errorf("%s: %s", printable(query.Get("error")), printable(query.Get("error_description")))
	}
	found := webPage{url: at}
	text := string(body)
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		if found, err = parsePage(at, body); err != nil {
			return webPage{}, fmt.Errorf("read page of %s: %w", at.Host, err)
		}
		text = found.text
	}
	if response.StatusCode >= http.StatusBadRequest {
		return webPage{}, fmt.Errorf("%s: %s", response.Status, printable(text))
	}
	return found, nil
}

// withoutQuery takes the URL, whose query may hold an authorization code, out of an error of net/http.
func withoutQuery(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	host := "the page"
	if u, parseErr := url.Parse(failed.URL); parseErr == nil {
		host = u.Scheme + "://" + u.Host + u.Path
	}
	return fmt.Errorf("open %s: %w", host, failed.Err)
}

// printable makes one line for a terminal from text of others.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 500 {
		text = string(runes[:500]) + "..."
	}
	return text
}

// click returns the request that the named button with the value makes.
func (p webPage) click(ctx context.Context, name, value string) (*http.Request, error) {
	var others []string
	for _, f := range p.forms {
		for _, button := range f.buttons {
			if button.name == name && button.value == value {
				return f.submit(ctx, p.url, button)
			}
			if button.name == name {
				others = append(others, button.value)
			}
		}
	}
	if others == nil {
		return nil, fmt.Errorf("the page has no button for a user: %s", printable(p.text))
	}
	slices.Sort(others)
	return nil, fmt.Errorf("the page has no button for %q, only for %s", value, printable(strings.Join(others, ", ")))
}

func (f form) submit(ctx context.Context, page *url.URL, button field) (*http.Request, error) {
	action, err := page.Parse(f.action)
	if err != nil {
		return nil, fmt.Errorf("form leads to %q: %w", f.action, err)
	}
	values := url.Values{button.name: {button.value}}
	for _, hidden := range f.hidden {
		values.Add(hidden.name, hidden.value)
	}
	if f.method != http.MethodPost {
		action.RawQuery = values.Encode()
		return http.NewRequestWithContext(ctx, http.MethodGet, action.String(), nil)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", page.Scheme+"://"+page.Host)
	return request, nil
}
