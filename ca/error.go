package ca

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of error an Error is. The zero Kind is Internal, so that an error nobody classified is a fault of
// ours and never an answer.
type Kind int

// The kinds of errors. Each maps to one gRPC code and one exit code of the helper.
const (
	Internal        Kind = iota // a fault of the daemon
	Invalid                     // the request is malformed
	Unauthenticated             // the caller is not who it says, or cannot show it
	Denied                      // the policy or a limit says no
	Needs                       // something that is named is still needed
	NotFound                    // there is no such thing
	Conflict                    // something changed, or was already used
	Exhausted                   // too much, too often or too large
	Unavailable                 // not now
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "denied", "needs", "not_found", "conflict", "exhausted", "unavailable"}

func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind_%d", int(k))
	}
	return kindNames[k]
}

// Error is the one error type that crosses package boundaries on its way to a caller.
type Error struct {
	Kind Kind
	// Message may reach the caller: it holds no secret and nobody else's data.
	Message string
	// Err is the cause. It is logged at the edge and never sent.
	Err error
	// Needs says what is needed, for Kind Needs.
	Needs []Need
	// RetryAfter says when to try again, for Kinds Exhausted and Unavailable; zero if unknown.
	RetryAfter time.Duration
	// Refused says where the log has this refusal; nil if it does not.
	Refused *Refused
	// Explanation says why the policy refused; nil if it did not, or cannot say.
	Explanation *Explanation
}

// Refused is what a refused caller may quote to an admin.
type Refused struct {
	Index       uint64
	Rule        string // empty if none decided
	Environment string // empty if the host is in none
	Policy      PolicyRef
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// at returns the error as one whose refusal stands at index in the log.
func (e *Error) at(index uint64, d Decision, p PolicyRef) *Error {
	recorded := *e
	recorded.Refused = &Refused{Index: index, Rule: d.Rule, Environment: d.Environment.Name, Policy: p}
	return &recorded
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error whose message is meant for the caller. It takes no cause: use &Error{} for that.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the first Error in err's chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
