package login_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/login"
)

// FuzzCallbackURL shows that only the address of the redirect with the state of the sign-in leads to a code being redeemed, and that
// no answer can write into the page.
func FuzzCallbackURL(f *testing.F) {
	f.Add("/callback", "code=c&state=STATE")
	f.Add("/callback", "code=c&state=STATE&state=x")
	f.Add("/callback/", "code=c&state=STATE")
	f.Add("/callback", "code=c&state=state&iss=https://evil.example")
	f.Add("/callback", "state=STATE&error=%3Cscript%3Ealert(1)%3C/script%3E&error_description=%1b")
	f.Fuzz(func(t *testing.T, path, query string) {
		var codes []string
		handler := login.Callback("127.0.0.1:1", "STATE", "https://id.example.com", func(code string) { codes = append(codes, code) })
		for range 2 {
			request := &http.Request{Method: http.MethodGet, Host: "127.0.0.1:1", URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{}}
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request.WithContext(t.Context()))
			if page := recorder.Body.String(); strings.Contains(page, "<script") || strings.ContainsRune(page, '\x1b') {
				t.Fatalf("the page is %q", page)
			}
		}
		if len(codes) == 0 {
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil || path != "/callback" || !slices.Equal(values["state"], []string{"STATE"}) || values.Has("error") && values.Get("error") != "" {
			t.Fatalf("%q %q led to a code", path, query)
		}
		if len(codes) > 1 {
			t.Fatal("two codes were redeemed")
		}
	})
}
