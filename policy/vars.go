package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
)

// maxDecision bounds all expressions of one decision together.
const maxDecision = 2 * time.Second

// evaluation is one decision's view of the variables.
type evaluation struct {
	ctx    context.Context // of this one decision
	policy *Policy
	vars   map[string]any
}

// What stops an expression that is too much.
var (
	errSlow   = fmt.Errorf("no answer within %s", maxDecision)
	errCostly = fmt.Errorf("the condition costs more than %d", maxCost)
)

// eval runs an expression. What the caller does not bring is absent from vars, so that an expression which asks for it
// fails instead of seeing an empty value.
func (e *evaluation) eval(x *expression) (any, error) {
	value, _, err := e.run(x.program)
	return value, err
}

// run is eval for a program that may keep details of what it did.
func (e *evaluation) run(p cel.Program) (any, *cel.EvalDetails, error) {
	value, details, err := e.value(p)
	if err != nil {
		return nil, details, err
	}
	return value.Value(), details, nil
}

func (e *evaluation) value(p cel.Program) (ref.Val, *cel.EvalDetails, error) {
	if e.ctx.Err() != nil {
		return nil, nil, errSlow
	}
	value, details, err := p.ContextEval(e.ctx, e.vars)
	switch {
	case e.ctx.Err() != nil:
		return nil, details, errSlow
	case err != nil && strings.Contains(err.Error(), "actual cost limit exceeded"):
		return nil, details, errCostly
	case err != nil:
		return nil, details, errors.New(plainFailure(err.Error()))
	}
	return value, details, nil
}

// holds asks a condition.
func (e *evaluation) holds(x *expression) (bool, error) {
	value, err := e.eval(x)
	if err != nil {
		return false, err
	}
	yes, ok := value.(bool)
	if !ok {
		return false, fmt.Errorf("the condition gave a %T", value)
	}
	return yes, nil
}

// plainFailure puts the usual failures of CEL into words of the policy.
func plainFailure(message string) string {
	if name, ok := strings.CutPrefix(message, "no such attribute(s): "); ok {
		if claim, ok := strings.CutPrefix(name, "claims."); ok {
			return "the token has no claim " + claim
		}
		return "there is no " + name
	}
	message = strings.Map(func(r rune) rune { // it may quote what the caller brought, and goes into the log
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, message)
	const most = 200
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most], "") + "..."
	}
	return message
}

// roleVars are the variables that roles see.
func (p *Policy) roleVars(q ca.Question) (map[string]any, error) {
	id, token := q.Identity, q.Token
	vars := make(map[string]any, 17+len(p.claims)) // with those of rules
	vars["identity.issuer"] = id.Issuer
	vars["identity.subject"] = id.Subject
	vars["identity.kind"] = id.Kind.String()
	vars["identity.email"] = types.OptionalNone
	vars["identity.groups"] = types.NewStringList(types.DefaultTypeAdapter, id.Groups)
	vars["token.bound"] = token.Bound
	vars["token.auth_time"] = types.OptionalNone
	vars["now"] = q.Now.UTC()
	if id.Email != "" {
		vars["identity.email"] = types.OptionalOf(types.String(id.Email))
	}
	if !token.AuthTime.IsZero() {
		vars["token.auth_time"] = types.OptionalOf(types.Timestamp{Time: token.AuthTime.UTC()})
	}
	if !token.IssuedAt.IsZero() {
		vars["token.issued_at"] = token.IssuedAt.UTC()
	}
	for _, c := range p.claims {
		if err := c.bind(vars, id.Claims); err != nil {
			return nil, err
		}
	}
	return vars, nil
}

// ruleVars are the variables that rules see.
func (p *Policy) ruleVars(q ca.Question, host, environment string) (map[string]any, error) {
	vars, err := p.roleVars(q)
	if err != nil {
		return nil, err
	}
	r := q.Request
	vars["environment"] = environment
	vars["request.host"] = host
	vars["request.login"] = r.Login
	vars["request.ttl"] = r.TTL
	vars["request.reason"] = r.Reason
	vars["request.break_glass"] = r.BreakGlass
	if r.SourceIP.IsValid() {
		vars["request.source_ip"] = r.SourceIP.Unmap().WithZone("").String()
	}
	if name := keyType(r.PublicKey); name != "" {
		vars["request.key_type"] = name
	}
	return vars, nil
}

// keyType returns the policy's name of a key's type; empty if it has none.
func keyType(key ssh.PublicKey) string {
	if key == nil {
		return ""
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		return "ed25519"
	case ssh.KeyAlgoSKED25519:
		return "sk-ed25519"
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return "ecdsa"
	case ssh.KeyAlgoSKECDSA256:
		return "sk-ecdsa"
	case ssh.KeyAlgoRSA:
		return "rsa"
	}
	return ""
}

// Role says whether the caller of q has a role, "auditor" or "admin". Roles see the identity, its claims, the token and the
// time. A role that the policy does not give is a no; so is one that fails, with an error that says why.
func (p *Policy) Role(ctx context.Context, role string, q ca.Question) (bool, error) {
	x := p.roles[role]
	if x == nil {
		return false, nil
	}
	vars, err := p.roleVars(q)
	if err != nil {
		return false, fmt.Errorf("role %s: %w", role, err)
	}
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	yes, err := p.evaluation(ctx, q, vars).holds(x)
	if err != nil {
		return false, fmt.Errorf("role %s: %w", role, err)
	}
	return yes, nil
}
