package login

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

// maxToken is what the daemon takes at most, in bytes.
const maxToken = 16 << 10

// ReadToken reads the ID token of a workload from a file. What it says is not verified here, and nothing is decided by it: the
// daemon does both. Errors never hold any of it.
func ReadToken(file string) (issuer string, t Tokens, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", t, fmt.Errorf("read the ID token: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", t, fmt.Errorf("read the ID token: %w", err)
	}
	raw = bytes.TrimSpace(raw)
	var claims struct {
		Issuer  string  `json:"iss"`
		Subject string  `json:"sub"`
		Expiry  float64 `json:"exp"`
		Email   any     `json:"email"`
	}
	parts := bytes.Split(raw, []byte("."))
	if len(raw) > maxToken || len(parts) != 3 {
		return "", t, fmt.Errorf("%s does not hold an ID token: want one compact JWT and nothing else", file)
	}
	payload, err := base64.RawURLEncoding.DecodeString(string(parts[1]))
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Issuer == "" || claims.Subject == "" || claims.Expiry <= 0 {
		return "", t, fmt.Errorf("%s does not hold an ID token: its claims iss, sub and exp cannot be read", file)
	}
	t = Tokens{IDToken: string(raw), Expiry: time.Unix(int64(claims.Expiry), 0), Subject: issuerhttp.Clean(claims.Subject, 254)}
	if email, ok := claims.Email.(string); ok {
		t.Email = issuerhttp.Clean(email, 254)
	}
	return issuerhttp.Clean(claims.Issuer, 1000), t, nil
}
