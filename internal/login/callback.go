package login

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"sync"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

const callbackPath = "/callback"

// callback receives the one answer of the issuer that the browser brings.
type callback struct {
	host        string // of the redirect URI, with the port
	state       string
	issuer      string
	namesItself bool
	// finish turns the code into tokens. It is called once at most.
	finish func(code string) error

	once sync.Once
	done chan error // gets the outcome; holds one
}

// ServeHTTP takes the answer if it comes to exactly the redirect URI with the state of this sign-in. Other requests, which any page
// in the browser can make, change nothing.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The Host is checked because a page could reach us by a name that resolves to loopback (DNS rebinding).
	if r.Host != c.host || r.URL.Path != callbackPath || r.Method != http.MethodGet {
		writePage(w, http.StatusNotFound, page{Title: "Nothing here", Text: "This address only waits for the answer to a sign-in."})
		return
	}
	answer, err := parseAnswer(r.URL.RawQuery)
	if err != nil || subtle.ConstantTimeCompare([]byte(answer.state), []byte(c.state)) != 1 {
		writePage(w, http.StatusBadRequest, page{
			Title: "Not an answer to this sign-in",
			Text:  "This page does not belong to the sign-in under way. If you have just started one, go back to the terminal and use its address.",
		})
		return
	}
	again := true
	c.once.Do(func() {
		again = false
		err := c.settle(answer)
		if err != nil {
			writePage(w, http.StatusBadRequest, page{Title: "Sign-in failed", Text: "Go back to the terminal.", Detail: err.Error()})
		} else {
			writePage(w, http.StatusOK, page{Title: "You are signed in", Text: "You may close this tab and go back to the terminal."})
		}
		c.done <- err
	})
	if again {
		writePage(w, http.StatusGone, page{Title: "Already answered", Text: "This sign-in has had its answer. Go back to the terminal."})
	}
}

func (c *callback) settle(a answer) error {
	switch {
	// The answer of another issuer must not be taken to this one (mix-up, RFC 9207).
	case a.issuer != "" && a.issuer != c.issuer, a.issuer == "" && c.namesItself:
		return fmt.Errorf("the answer is not one of issuer %s", c.issuer)
	case a.code == "" && a.err == "":
		return fmt.Errorf("issuer %s answered with neither a code nor an error", c.issuer)
	case a.err != "":
		return &Refusal{Issuer: c.issuer, Code: issuerhttp.Clean(a.err, 100), Description: issuerhttp.Clean(a.description, 300)}
	}
	return c.finish(a.code)
}

// answer is what the issuer sends along with the browser (RFC 6749 4.1.2).
type answer struct {
	state, code, issuer, err, description string
}

func parseAnswer(query string) (answer, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return answer{}, errors.New("malformed query")
	}
	var a answer
	for name, to := range map[string]*string{
		"state": &a.state, "code": &a.code, "iss": &a.issuer, "error": &a.err, "error_description": &a.description,
	} {
		if len(values[name]) > 1 { // RFC 6749 3.1
			return answer{}, errors.New("a parameter comes twice")
		}
		*to = values.Get(name)
	}
	return a, nil
}

type page struct{ Title, Text, Detail string }

const pageStyle = `body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem;color:#1c2330;background:#f7f8fa}` +
	`h1{font-size:1.6rem}code{display:block;padding:.8rem;background:#e9ecf1;border-radius:.4rem;overflow-wrap:anywhere}` +
	`@media(prefers-color-scheme:dark){body{color:#e4e8ef;background:#161a21}code{background:#262c37}}`

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}} - Hallpass</title>
<style>` + pageStyle + `</style></head>
<body><h1>{{.Title}}</h1><p>{{.Text}}</p>{{with .Detail}}<code>{{.}}</code>{{end}}</body></html>
`))

// writePage writes a page that loads nothing, runs nothing and tells nobody where it came from.
func writePage(w http.ResponseWriter, status int, p page) {
	digest := sha256.Sum256([]byte(pageStyle))
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(digest[:])+
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A browser that went away is no fault of the sign-in.
	_ = pageTemplate.Execute(w, p)
}
