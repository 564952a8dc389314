package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is the domain of the ErrorInfo that the daemon's own errors carry.
const errorDomain = "hallpass"

// Refusal is an error that the daemon answered with, and what it cites.
type Refusal struct {
	// Reason is the error in the words of the core.
	Reason *ca.Error
	// Index is that of the record of the refusal; of one that was archived, that of the record which says so; empty if there is none.
	Index string
	// Rule, Environment and Policy (its revision or digest) are those of the decision; empty if there was none.
	Rule, Environment, Policy string
	// Explanation says why the policy refused; nil if it did not, or the daemon does not say.
	Explanation *pb.Explanation
	// RequestID finds the call in the daemon's own log.
	RequestID string
}

func (r *Refusal) Error() string { return r.Reason.Message }

// Unwrap returns the Reason.
func (r *Refusal) Unwrap() error { return r.Reason }

// codeKinds says what a gRPC error means that did not come from the daemon's own table: a proxy's or the library's.
var codeKinds = map[codes.Code]ca.Kind{
	codes.Unavailable:       ca.Unavailable,
	codes.DeadlineExceeded:  ca.Unavailable,
	codes.ResourceExhausted: ca.Exhausted,
	codes.Unauthenticated:   ca.Unauthenticated,
	codes.PermissionDenied:  ca.Denied,
	codes.InvalidArgument:   ca.Invalid,
}

// fromStatus turns what gRPC returned back into an error in the words of the core.
func (c *Client) fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	if refusal := refusalOf(st); refusal != nil {
		return refusal
	}
	if st.Code() == codes.Canceled {
		return context.Canceled
	}
	message := "the CA at " + net.JoinHostPort(c.address.Host, c.address.Port)
	switch st.Code() {
	case codes.Unavailable:
		message = "lost the connection to " + message
	case codes.DeadlineExceeded:
		message += " did not answer in time"
	case codes.Unimplemented:
		message += " does not know this call: it is older or newer than this helper"
	default:
		message += " answered: " + st.Message()
	}
	return &ca.Error{Kind: codeKinds[st.Code()], Message: message, Err: connectionCause(err)}
}

// refusalOf returns the daemon's own error, or nil if somebody else made st.
func refusalOf(st *status.Status) *Refusal {
	r := &Refusal{Reason: &ca.Error{Message: st.Message()}}
	ours := false
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != errorDomain {
				continue
			}
			ours = true
			r.Reason.Kind = kindOf(d.GetReason())
			m := d.GetMetadata()
			r.Index, r.Rule, r.Environment, r.Policy, r.RequestID = m["index"], m["rule"], m["environment"], m["policy"], m["request_id"]
		case *pb.Explanation:
			r.Explanation = d
		case *errdetails.PreconditionFailure:
			r.Reason.Needs = needsOf(d)
		case *errdetails.RetryInfo:
			r.Reason.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if !ours {
		return nil
	}
	return r
}

// kindOf reads a kind's name as the daemon spells it: upper case, "NOT_FOUND". One that is not known is Internal.
func kindOf(reason string) ca.Kind {
	for kind := ca.Invalid; kind <= ca.Unavailable; kind++ {
		if strings.ToUpper(kind.String()) == reason {
			return kind
		}
	}
	return ca.Internal
}

func needsOf(failure *errdetails.PreconditionFailure) []ca.Need {
	var needs []ca.Need
	for _, v := range failure.GetViolations() {
		switch v.GetType() {
		case "REASON":
			needs = append(needs, ca.Need{Kind: ca.NeedReason})
		case "FRESH_LOGIN":
			within, err := time.ParseDuration(v.GetSubject())
			if err != nil {
				within = 0
			}
			needs = append(needs, ca.Need{Kind: ca.NeedFreshLogin, LoginWithin: within})
		}
	}
	return needs
}

// connectionCause strips gRPC's wrapping from what the network or TLS said.
func connectionCause(err error) error {
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", connectTimeout)
	}
	text := status.Convert(err).Message()
	for _, wrapping := range []string{"desc = ", "transport: ", "last connection error: ", "Error while dialing: ", "authentication handshake failed: "} {
		if i := strings.LastIndex(text, wrapping); i >= 0 {
			text = text[i+len(wrapping):]
		}
	}
	return errors.New(strings.Trim(text, `"`))
}
