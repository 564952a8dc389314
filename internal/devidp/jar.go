package devidp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"sync"
)

// jar is a cookie jar that can be kept in a file. It knows only what loopback pages need: a cookie belongs to the scheme,
// host and port that set it, whatever its path, until the server deletes it.
type jar struct {
	mu      sync.Mutex
	cookies map[string]map[string]string // guarded by mu; origin to name to value
}

func newJar() *jar { return &jar{cookies: map[string]map[string]string{}} }

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// SetCookies implements http.CookieJar.
func (j *jar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range cookies {
		if c.MaxAge < 0 {
			delete(j.cookies[origin(u)], c.Name)
			continue
		}
		if j.cookies[origin(u)] == nil {
			j.cookies[origin(u)] = map[string]string{}
		}
		j.cookies[origin(u)][c.Name] = c.Value
	}
}

// Cookies implements http.CookieJar.
func (j *jar) Cookies(u *url.URL) []*http.Cookie {
	j.mu.Lock()
	defer j.mu.Unlock()
	var cookies []*http.Cookie
	for name, value := range j.cookies[origin(u)] {
		cookies = append(cookies, &http.Cookie{Name: name, Value: value})
	}
	return cookies
}

// LoadCookies takes the cookies from a file of SaveCookies in place of those it has. No file is no cookies.
func (b *Browser) LoadCookies(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load cookies: %w", err)
	}
	cookies := map[string]map[string]string{}
	if err := json.Unmarshal(text, &cookies); err != nil {
		return fmt.Errorf("load cookies %s: %w", path, err)
	}
	if cookies == nil {
		return fmt.Errorf("load cookies %s: the file holds null; remove it", path)
	}
	b.jar.mu.Lock()
	defer b.jar.mu.Unlock()
	b.jar.cookies = cookies
	return nil
}

// SaveCookies writes the cookies to a file that only its owner can read.
func (b *Browser) SaveCookies(path string) error {
	b.jar.mu.Lock()
	text, err := json.MarshalIndent(b.jar.cookies, "", "\t")
	b.jar.mu.Unlock()
	if err != nil {
		return fmt.Errorf("save cookies: %w", err)
	}
	if err := writeFile(path, append(text, '\n')); err != nil {
		return fmt.Errorf("save cookies: %w", err)
	}
	return nil
}
