package idtoken

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hallpass-ssh/hallpass/ca"
)

const (
	maxToken  = 16 << 10 // bytes of the compact form
	maxHeader = 2 << 10  // bytes of the decoded header
	maxKeyID  = 256      // bytes
)

// refusedHeaders are those by which a token would bring its own key (jwk, jku, x5c, x5u), change what the signature covers (b64,
// crit) or how the payload is read (zip). Names differ by case only in an attack, so they are compared without it.
var refusedHeaders = []string{"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip"}

// compact is a token whose form is right. Nothing in it is verified.
type compact struct {
	alg     string
	keyID   string // empty if the header names none
	payload []byte
	claims  map[string]any // of the payload
}

// parseCompact checks the form of a token before any library sees it: RFC 7515 3.1, in its strictest reading.
func parseCompact(raw string) (*compact, *ca.Error) {
	switch {
	case raw == "":
		return nil, malformed("it is empty")
	case len(raw) > maxToken:
		return nil, malformed("it is longer than %d bytes", maxToken)
	case strings.Count(raw, ".") == 4:
		return nil, malformed("it is encrypted (JWE)")
	case strings.Count(raw, ".") != 2:
		return nil, malformed("it is not three parts with a dot between")
	}
	var parts [3][]byte
	for i, part := range strings.Split(raw, ".") {
		// RawURLEncoding skips line breaks, which no token has.
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, malformed("part %d is not base64url", i+1)
		}
		parts[i] = decoded
	}
	c, refusal := parseHeader(parts[0])
	if refusal != nil {
		return nil, refusal
	}
	if len(parts[2]) == 0 {
		return nil, malformed("it has no signature")
	}
	c.payload = parts[1]
	var err error
	if c.claims, err = decodeObject(c.payload); err != nil {
		return nil, malformed("its claims: %v", err)
	}
	return c, nil
}

func parseHeader(raw []byte) (*compact, *ca.Error) {
	if len(raw) > maxHeader {
		return nil, malformed("its header is longer than %d bytes", maxHeader)
	}
	header, err := decodeObject(raw)
	if err != nil {
		return nil, malformed("its header: %v", err)
	}
	for name := range header {
		if slices.Contains(refusedHeaders, strings.ToLower(name)) {
			return nil, malformed("its header has %q", name)
		}
	}
	c := &compact{}
	var ok bool
	if c.alg, ok = header["alg"].(string); !ok {
		return nil, malformed("its header names no alg")
	}
	if kid, found := header["kid"]; found {
		if c.keyID, ok = kid.(string); !ok || c.keyID == "" || len(c.keyID) > maxKeyID {
			return nil, malformed("the kid of its header is not a string of 1 to %d bytes", maxKeyID)
		}
	}
	// An access token (at+jwt, RFC 9068) or a logout token (logout+jwt) of the same issuer is not an ID token.
	if typ, found := header["typ"]; found {
		if name, ok := typ.(string); !ok || !strings.EqualFold(name, "JWT") {
			return nil, malformed("its header says that it is a %.40q, not an ID token", typ)
		}
	}
	return c, nil
}

func malformed(format string, args ...any) *ca.Error {
	return refuse("the ID token is malformed: "+format, args...)
}

// refuse makes the error for a stranger.
func refuse(format string, args ...any) *ca.Error {
	return ca.Errorf(ca.Unauthenticated, format, args...)
}

// validText reports whether JSON text is what it says: invalid UTF-8 and lone surrogates would be decoded to U+FFFD, so that
// two different names became one.
func validText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, utf8.RuneError) }
