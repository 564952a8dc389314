package devidp

import (
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// Paths of the server that others need to know.
const (
	DiscoveryPath         = oidc.DiscoveryEndpoint
	KeysPath              = "/keys"
	WorkloadDiscoveryPath = workloadPath + oidc.DiscoveryEndpoint
	WorkloadKeysPath      = workloadPath + KeysPath
	WorkloadTokenPath     = "/workload/token"

	workloadPath = "/ci" // of the workloads' issuer
)

const workloadLifetime = 5 * time.Minute

// workloadDiscovery answers what a verifier of tokens needs; nobody signs in at this issuer.
func (s *Server) workloadDiscovery(w http.ResponseWriter, _ *http.Request) {
	issuer := s.workloads.URL()
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              issuer + KeysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func (s *Server) workloadKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.workloads.keys.jwks())
}

// workloadToken answers {"value": TOKEN} to the form fields user and audience.
func (s *Server) workloadToken(w http.ResponseWriter, r *http.Request) {
	claims, ok := s.WorkloadClaims(r.PostFormValue("user"), r.PostFormValue("audience"))
	if !ok || r.PostFormValue("audience") == "" {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "name a known workload as user, and an audience"})
		return
	}
	token, err := s.workloads.Sign(claims, TokenOptions{})
	if err != nil {
		slog.Error("sign workload token", "error", err)
		writeJSON(w, http.StatusInternalServerError, map[string]string{"error": "cannot sign"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"value": token})
}

// WorkloadClaims returns the claims of a token that the named workload would get now; false if there is none of the name.
func (s *Server) WorkloadClaims(name, audience string) (map[string]any, bool) {
	workload, ok := s.config.workload(name)
	if !ok {
		return nil, false
	}
	now := s.moment().now
	claims := map[string]any{
		"iss": s.workloads.URL(),
		"sub": workload.Subject,
		"aud": audience,
		"iat": now.Unix(),
		"nbf": now.Unix(),
		"exp": now.Add(workloadLifetime).Unix(),
		"jti": rand.Text(),
	}
	maps.Copy(claims, workload.Claims)
	return claims, true
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Error("write answer", "error", err)
	}
}
