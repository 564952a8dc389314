package devidp

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// This file is for tests of those who rely on a provider: one that fails, and that counts what it is asked. Nothing of it
// can be reached over HTTP.

// Fault makes a provider of which something has failed from one that works.
type Fault func(next http.Handler) http.Handler

// seams counts the requests that relying parties make on their own, and lets the server fail.
type seams struct {
	mu      sync.Mutex // guards what follows
	fault   Fault      // nil: none
	fetches map[string]int
}

func (s *seams) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := next
		s.mu.Lock()
		switch r.URL.Path {
		case DiscoveryPath, KeysPath, WorkloadDiscoveryPath, WorkloadKeysPath:
			if s.fetches == nil {
				s.fetches = map[string]int{}
			}
			s.fetches[r.URL.Path]++
		}
		if s.fault != nil {
			handler = s.fault(next)
		}
		s.mu.Unlock()
		handler.ServeHTTP(w, r)
	})
}

// Fetches returns how often the path was asked for, which is one of DiscoveryPath, KeysPath, WorkloadDiscoveryPath and
// WorkloadKeysPath. Requests that a fault answered count.
func (s *Server) Fetches(path string) int {
	s.seams.mu.Lock()
	defer s.seams.mu.Unlock()
	return s.seams.fetches[path]
}

// Break lets the fault answer from now on, in place of an earlier one; nil mends the server.
func (s *Server) Break(fault Fault) {
	s.seams.mu.Lock()
	defer s.seams.mu.Unlock()
	s.seams.fault = fault
}

// At limits a fault to requests for the paths.
func At(fault Fault, paths ...string) Fault {
	return func(next http.Handler) http.Handler {
		broken := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slices.Contains(paths, r.URL.Path) {
				broken.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Down drops the connection without an answer.
func Down(http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// Stalled answers only when released is closed. A client that gives up first ends the wait.
func Stalled(released <-chan struct{}) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-released:
				next.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
	}
}

// Answering gives the status and the body, as JSON, to every request: an error, or garbage with status 200.
func Answering(status int, body string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			w.Write([]byte(body))
		})
	}
}

// Redirecting sends every request to the same path below the base URL.
func Redirecting(base string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.TrimSuffix(base, "/")+r.URL.Path, http.StatusFound)
		})
	}
}
