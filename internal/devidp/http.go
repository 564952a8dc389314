package devidp

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

const (
	loginPath  = "/login"
	devicePath = "/device"

	maxRequest = 64 << 10 // bytes of a request's body
)

// routes returns the whole server as one handler.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.provider)
	mux.HandleFunc("/end_session", s.endSession)
	mux.HandleFunc("GET /{$}", s.indexPage)
	mux.HandleFunc("GET /style.css", s.style)
	mux.HandleFunc("GET "+loginPath, s.loginPage)
	mux.HandleFunc("POST "+loginPath, s.login)
	mux.HandleFunc("GET "+devicePath, s.devicePage)
	mux.HandleFunc("POST "+devicePath, s.device)
	mux.HandleFunc("GET /signed-out", s.signedOutPage)
	mux.HandleFunc("GET "+WorkloadDiscoveryPath, s.workloadDiscovery)
	mux.HandleFunc("GET "+WorkloadKeysPath, s.workloadKeys)
	mux.HandleFunc("POST "+WorkloadTokenPath, s.workloadToken)

	// Without it a page of another origin could press a user's button.
	handler := http.NewCrossOriginProtection().Handler(mux)
	handler = s.seams.wrap(handler)
	return http.MaxBytesHandler(s.guard(handler), maxRequest)
}

// guard refuses requests for another host, which is what DNS rebinding makes of this one, sets the headers that all
// answers have, and reads the clock, once.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		issuer, err := url.Parse(s.URL())
		if err != nil || issuer.Host == "" || r.Host != issuer.Host {
			http.Error(w, "no such issuer here", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy("'self'"))
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), momentKey{}, s.moment())))
	})
}

// policy returns the Content-Security-Policy of pages whose forms may lead to the given places.
func policy(formAction string) string {
	return "default-src 'none'; style-src 'self'; form-action " + formAction + "; frame-ancestors 'none'; base-uri 'none'"
}

// moment is the time of an HTTP request, which is read once. The op package dates tokens by the machine's clock but for a
// skew: how far the provider's clock is behind it.
type moment struct {
	now  time.Time
	skew time.Duration
}

type momentKey struct{}

func (s *Server) moment() moment {
	if s.config.Clock == nil {
		return moment{now: time.Now()}
	}
	now := s.config.Clock()
	return moment{now: now, skew: time.Since(now)}
}

// momentOf returns the time of the HTTP request that the context belongs to.
func momentOf(ctx context.Context) moment {
	m, ok := ctx.Value(momentKey{}).(moment)
	if !ok {
		panic("devidp: a request that did not pass the guard")
	}
	return m
}
