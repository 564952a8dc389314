package policy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	"github.com/hallpass-ssh/hallpass/ca"
)

// claimType is how a claim is declared.
type claimType string

const (
	claimBool    claimType = "bool"
	claimInt     claimType = "int"
	claimString  claimType = "string"
	claimStrings claimType = "strings"
)

var claimTypes = map[claimType]*cel.Type{
	claimBool:    cel.BoolType,
	claimInt:     cel.IntType,
	claimString:  cel.StringType,
	claimStrings: cel.ListType(cel.StringType),
}

// claim is a declared claim. It has a default, or is optional, or is required: then an expression that meets a token
// without it fails.
type claim struct {
	name     string
	typ      claimType
	standard any // bool, int64, string or []string; nil for none
	optional bool
}

// Claims that change with every token, or that variables show better or more safely. An identity snapshot must repeat.
var undeclarable = map[string]string{
	"iss": "identity.issuer", "sub": "identity.subject", "iat": "token.issued_at", "auth_time": "token.auth_time",
	"email": "identity.email", // set only if the issuer vouches for it
	"exp":   "", "nbf": "", "nonce": "", "jti": "", "at_hash": "", "c_hash": "", "sid": "",
}

// Declare returns the identity with the claims that the policy declares, as the token holds them: a claim that the token
// lacks stays absent, and defaults are applied by Decide. A claim of the wrong type is an Error of Kind Denied.
func (p *Policy) Declare(c ca.Caller) (ca.Identity, error) {
	id := c.Identity
	id.Claims = make(map[string]any, len(p.claims))
	for _, d := range p.claims {
		raw, ok := c.Claims[d.name]
		if !ok {
			continue
		}
		value, ok := d.decode(raw)
		if !ok {
			return ca.Identity{}, ca.Errorf(ca.Denied,
				"the claim %s of your token is %s, and the policy declares it as %s: ask who runs the sign-in or the policy",
				d.name, jsonKind(raw), d.typ)
		}
		id.Claims[d.name] = value
	}
	return id, nil
}

// decode turns a value of encoding/json with UseNumber into the declared type. It converts nothing: "3" is not 3.
func (d claim) decode(raw any) (any, bool) {
	switch d.typ {
	case claimBool:
		b, ok := raw.(bool)
		return b, ok
	case claimInt:
		n, ok := raw.(json.Number)
		if !ok {
			return nil, false
		}
		i, err := n.Int64() // refuses 3.0 and 3e2 as well as what does not fit
		return i, err == nil
	case claimString:
		s, ok := raw.(string)
		return s, ok
	case claimStrings:
		list, ok := raw.([]any)
		if !ok {
			return nil, false
		}
		out := make([]string, len(list))
		for i, e := range list {
			if out[i], ok = e.(string); !ok {
				return nil, false
			}
		}
		return out, true
	}
	return nil, false
}

// jsonKind says what a value of a token is, without showing it.
func jsonKind(raw any) string {
	switch v := raw.(type) {
	case nil:
		return "null"
	case bool:
		return "a bool"
	case string:
		return "a string"
	case json.Number:
		if _, err := v.Int64(); err != nil {
			return "a number that is no int of 64 bits"
		}
		return "an int"
	case []any:
		if slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok }) {
			return "a list that holds more than strings"
		}
		return "a list of strings"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("a %T", raw)
}

// celType is the type that expressions see.
func (d claim) celType() *cel.Type {
	if d.optional {
		return cel.OptionalType(claimTypes[d.typ])
	}
	return claimTypes[d.typ]
}

// bind puts the value of the claim into vars, as expressions see it. A required claim that the identity lacks stays absent,
// so that what asks for it fails.
func (d claim) bind(vars map[string]any, claims map[string]any) error {
	value, ok := claims[d.name]
	if !ok {
		value = d.standard
	} else if !d.holds(value) {
		return fmt.Errorf("claim %s is a %T, declared as %s", d.name, value, d.typ)
	}
	switch {
	case d.optional && value == nil:
		vars["claims."+d.name] = types.OptionalNone
	case d.optional:
		vars["claims."+d.name] = types.OptionalOf(types.DefaultTypeAdapter.NativeToValue(value))
	case value != nil:
		vars["claims."+d.name] = types.DefaultTypeAdapter.NativeToValue(value)
	}
	return nil
}

func (d claim) holds(value any) bool {
	switch value.(type) {
	case bool:
		return d.typ == claimBool
	case int64:
		return d.typ == claimInt
	case string:
		return d.typ == claimString
	case []string:
		return d.typ == claimStrings
	}
	return false
}
