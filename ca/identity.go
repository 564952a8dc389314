package ca

import "time"

// CallerKind tells people from machines.
type CallerKind int

// The kinds of callers. The zero value is none of them.
const (
	Person   CallerKind = iota + 1 // a human who signed in
	Workload                       // a job or service with a token of its own
)

func (k CallerKind) String() string {
	switch k {
	case Person:
		return "person"
	case Workload:
		return "workload"
	}
	return "unknown"
}

// Identity is a verified caller. It is keyed on (Issuer, Subject); everything else may change from one sign-in to the next.
type Identity struct {
	Issuer  string
	Subject string
	Kind    CallerKind
	// Email is set only if the issuer's rule for emails is met. Empty otherwise.
	Email  string
	Groups []string
	// Claims are those that the policy declared, by name, as bool, int64, string or []string.
	// A declared optional claim that the token lacks is absent.
	Claims map[string]any
}

// Token is what decisions depend on of a verified ID token. The token itself stays where it was verified.
type Token struct {
	// Digest is the SHA-256 of what the signature of the compact token covers: the token without its signature, which can be made over.
	Digest [32]byte
	// Nonce is the nonce claim, empty for refreshed, device-flow and workload tokens.
	Nonce string
	// AuthTime is when the person signed in (auth_time); zero if the issuer does not say.
	AuthTime time.Time
	IssuedAt time.Time
	Expires  time.Time
	// Bound is set by the core once the token was shown to belong to the key of the request.
	Bound bool
}

// Caller is what authentication returns: who calls, with which token, and the claims of the token as they came (as
// decoded by encoding/json with UseNumber), of which the policy picks those that it declared.
type Caller struct {
	Identity Identity
	Token    Token
	Claims   map[string]any
}
