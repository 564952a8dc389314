package idtoken

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hallpass-ssh/hallpass/ca"
)

const (
	maxSubject  = 255 // bytes (OpenID Connect Core 2)
	maxAudience = 16  // entries
	maxNonce    = 255 // bytes
)

// registered are the claims that OpenID Connect Core 2 and RFC 7519 4.1 name and that verification depends on, decoded strictly.
type registered struct {
	iss      string
	subject  string
	audience []string
	party    string // azp; empty if absent
	nonce    string // empty if absent, or not text
	expires  time.Time
	issued   time.Time
	notUntil time.Time // nbf; zero if absent
	authTime time.Time // zero if absent
}

func parseRegistered(claims map[string]any) (*registered, *ca.Error) {
	r := &registered{}
	var refusal *ca.Error
	if r.iss, refusal = text(claims, "iss", true); refusal != nil {
		return nil, refusal
	}
	if r.subject, refusal = text(claims, "sub", true); refusal != nil {
		return nil, refusal
	}
	if !printable(r.subject, maxSubject) {
		return nil, malformed("its sub is longer than %d bytes or has characters that cannot be printed", maxSubject)
	}
	if r.audience, refusal = audience(claims["aud"]); refusal != nil {
		return nil, refusal
	}
	if r.party, refusal = text(claims, "azp", false); refusal != nil {
		return nil, refusal
	}
	r.nonce, _ = claims["nonce"].(string)
	for _, c := range []struct {
		name     string
		to       *time.Time
		required bool
	}{{"exp", &r.expires, true}, {"iat", &r.issued, true}, {"nbf", &r.notUntil, false}, {"auth_time", &r.authTime, false}} {
		if *c.to, refusal = date(claims, c.name, c.required); refusal != nil {
			return nil, refusal
		}
	}
	if !r.expires.After(r.issued) {
		return nil, malformed("it expires before it was issued")
	}
	return r, nil
}

func text(claims map[string]any, name string, required bool) (string, *ca.Error) {
	value, found := claims[name]
	if !found && !required {
		return "", nil
	}
	s, ok := value.(string)
	switch {
	case !found:
		return "", malformed("it has no %s", name)
	case !ok:
		return "", malformed("its %s is not a string", name)
	case s == "":
		return "", malformed("its %s is empty", name)
	}
	return s, nil
}

// audience decodes aud, which is a string or a list of them (RFC 7519 4.1.3).
func audience(value any) ([]string, *ca.Error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	if value == nil || len(list) == 0 {
		return nil, malformed("it has no aud")
	}
	if len(list) > maxAudience {
		return nil, malformed("its aud has more than %d entries", maxAudience)
	}
	var names []string
	for _, entry := range list {
		name, ok := entry.(string)
		if !ok || name == "" {
			return nil, malformed("its aud is not a string or a list of strings")
		}
		names = append(names, name)
	}
	return names, nil
}

// date decodes a NumericDate (RFC 7519 2), which may have a fraction.
func date(claims map[string]any, name string, required bool) (time.Time, *ca.Error) {
	value, found := claims[name]
	if !found && !required {
		return time.Time{}, nil
	}
	if !found {
		return time.Time{}, malformed("it has no %s", name)
	}
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, malformed("its %s is not a number", name)
	}
	const year10000 = 253402300800 // the first second that RFC 3339 cannot write
	seconds, err := number.Float64()
	if err != nil || seconds < 1 || seconds >= year10000 {
		return time.Time{}, malformed("its %s is not a time", name)
	}
	return time.Unix(int64(math.Floor(seconds)), 0).UTC(), nil
}

// printable reports whether s, of 1 to limit bytes, can be shown and logged without harm. Format characters, which can make two
// names look the same, are not printable.
func printable(s string, limit int) bool {
	return s != "" && len(s) <= limit && validText(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// checkPurpose refuses other tokens of the same issuer that an ID token's verifier might take for one.
func (i *Issuer) checkPurpose(claims map[string]any) *ca.Error {
	if _, found := claims["events"]; found { // OpenID Connect Back-Channel Logout 2.4
		return malformed("it is a logout token, not an ID token")
	}
	if use, found := claims["token_use"]; found && use != "id" { // Amazon Cognito
		return malformed("its token_use says that it is not an ID token")
	}
	if typ, found := claims["typ"]; found && typ != "ID" && i.Kind == ca.Person { // Keycloak
		return malformed("its typ claim says that it is not an ID token")
	}
	if nonce, found := claims["nonce"]; found && i.Kind == ca.Person {
		if s, ok := nonce.(string); !ok || len(s) > maxNonce || s != "" && !printable(s, maxNonce) {
			return malformed("its nonce is not a string of at most %d printable bytes", maxNonce)
		}
	}
	return nil
}

// checkParty checks azp (OpenID Connect Core 3.1.3.7, points 4 and 5): a token for several audiences must say that ours asked for
// it, and one of a person must not have been asked for by another client.
func (i *Issuer) checkParty(r *registered) *ca.Error {
	switch {
	case r.party == "" && len(r.audience) > 1:
		return refuse("the ID token is for several audiences and has no azp to say which of them asked for it")
	case r.party != "" && r.party != i.Audience && (i.Kind == ca.Person || len(r.audience) > 1):
		return refuse("the ID token was issued to another client: azp is %.100q, not %q", r.party, i.Audience)
	}
	return nil
}

// checkTimes holds the token against the clock.
func (i *Issuer) checkTimes(r *registered, now time.Time) *ca.Error {
	switch {
	case !now.Before(r.expires.Add(i.Skew)):
		return refuse("the ID token expired at %s: sign in again", r.expires.Format(time.RFC3339))
	case !r.notUntil.IsZero() && now.Add(i.Skew).Before(r.notUntil):
		return refuse("the ID token is not valid before %s", r.notUntil.Format(time.RFC3339))
	case now.Add(i.Skew).Before(r.issued):
		return refuse("the ID token was issued in the future, at %s: compare the clocks of the issuer and this service", r.issued.Format(time.RFC3339))
	case now.Sub(r.issued) > i.MaxAge+i.Skew:
		return refuse("the ID token is too old: it was issued at %s, more than %s ago: sign in again", r.issued.Format(time.RFC3339), i.MaxAge)
	case now.Add(i.Skew).Before(r.authTime):
		return refuse("the ID token says that its user signed in in the future, at %s", r.authTime.Format(time.RFC3339))
	}
	return nil
}

// checkRequired holds the token against the claims that make it one of ours: without them, its bearer is a stranger, for whom
// the issuer vouches as it would for anybody.
func (i *Issuer) checkRequired(claims map[string]any) *ca.Error {
	names := make([]string, 0, len(i.Require))
	for name := range i.Require {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value, found := claims[name]
		if !found {
			return refuse("the ID token has no %s, which must be %q", name, i.Require[name])
		}
		if value != i.Require[name] {
			return refuse("the ID token's %s is not %q", name, i.Require[name])
		}
	}
	return nil
}
