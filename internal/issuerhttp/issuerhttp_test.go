package issuerhttp_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

// get returns what a client that may use http on loopback makes of the handler's answer.
func get(t testing.TB, handler http.HandlerFunc) (string, error) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	client, err := issuerhttp.Config{AllowInsecure: true}.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	response, err := client.Get(server.URL + "/a")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestBoundOfAnswers(t *testing.T) {
	for size, ok := range map[int]bool{0: true, 1<<20 - 1: true, 1 << 20: true, 1<<20 + 1: false, 3 << 20: false} {
		body, err := get(t, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(strings.Repeat("x", size))) })
		if ok && (err != nil || len(body) != size) {
			t.Errorf("an answer of %d bytes: got %d, %v", size, len(body), err)
		}
		if !ok && (err == nil || !strings.Contains(err.Error(), "longer than 1048576 bytes")) {
			t.Errorf("an answer of %d bytes: got error %v", size, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another host was asked") }))
	defer elsewhere.Close()
	for _, tt := range []struct{ name, to, want string }{
		{"to the same host is followed", "/b", ""},
		{"to another host is refused", elsewhere.URL, "another host"},
		{"in a circle is refused", "/a", "too many redirects"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body, err := get(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/b" {
					w.Write([]byte("arrived"))
					return
				}
				http.Redirect(w, r, tt.to, http.StatusFound)
			})
			switch {
			case tt.want == "" && (err != nil || body != "arrived"):
				t.Errorf("got %q, %v", body, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestHTTPIsForLoopback(t *testing.T) {
	strict, err := issuerhttp.Config{}.Client()
	if err != nil {
		t.Fatal(err)
	}
	response, err := strict.Get("http://127.0.0.1:1/")
	if err == nil {
		response.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "allow_insecure") {
		t.Errorf("http on loopback: got %v", err)
	}
	insecure := issuerhttp.Config{AllowInsecure: true}
	for address, ok := range map[string]bool{
		"https://id.example.com/x?y=1":    true,
		"http://127.0.0.1:8080":           true,
		"http://[::1]:8080":               true,
		"http://localhost:8080":           true,
		"http://id.example.com":           false,
		"http://127.0.0.1.example.com":    false,
		"http://localhost.example.com":    false,
		"http://0.0.0.0":                  false,
		"https://user@id.example.com":     false,
		"https://id.example.com/#x":       false,
		"javascript:alert(1)":             false,
		"file:///etc/passwd":              false,
		"//id.example.com":                false,
		"https:id.example.com":            false,
		"https://id.example.com/\u009b2J": false,
		"https://id.example.com/\u202ea":  false,
		"https://id.example.com/a b":      false,
		"https://ex\u00e4mple.com":        false,
		"":                                false,
	} {
		if err := insecure.CheckEndpoint(address); (err == nil) != ok {
			t.Errorf("%q: got %v", address, err)
		}
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                    "plain",
		"a\x1b[31mb\nc\u202ed\xff": "a [31mb c d?",
		strings.Repeat("ä", 20):    strings.Repeat("ä", 12) + "...",
	} {
		if got := issuerhttp.Clean(text, 12); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := issuerhttp.Explain(errors.New(strings.Repeat("x", 1000))); len(got) != 303 {
		t.Errorf("an error of 1000 characters became one of %d", len(got))
	}
}
