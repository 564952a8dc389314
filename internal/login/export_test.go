package login

import "net/http"

// Callback returns the handler that waits for the answer to a sign-in, and passes codes on.
func Callback(host, state, issuer string, code func(string)) http.Handler {
	return &callback{host: host, state: state, issuer: issuer, done: make(chan error, 1), finish: func(c string) error {
		code(c)
		return nil
	}}
}
