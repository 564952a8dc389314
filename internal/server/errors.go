package server

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// errorDomain is the domain of the ErrorInfo that every error of ours carries.
const errorDomain = "hallpass"

// kindCodes maps kinds of errors to gRPC codes. A kind that is not listed is Internal.
var kindCodes = map[ca.Kind]codes.Code{
	ca.Invalid:         codes.InvalidArgument,
	ca.Unauthenticated: codes.Unauthenticated,
	ca.Denied:          codes.PermissionDenied,
	ca.Needs:           codes.FailedPrecondition,
	ca.NotFound:        codes.NotFound,
	ca.Conflict:        codes.Aborted,
	ca.Exhausted:       codes.ResourceExhausted,
	ca.Unavailable:     codes.Unavailable,
}

// toStatus puts err on the wire. The cause never leaves: an error that nobody classified says no more than the request id.
func toStatus(err error, requestID string) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*ca.Error](err)
	switch {
	case ok: // what the core said counts, even if a context that ended is the cause
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		e = &ca.Error{Kind: ca.Internal}
	}
	code, ok := kindCodes[e.Kind]
	message := e.Message
	if !ok {
		code, message = codes.Internal, "internal error, request "+requestID+": ask the operators of the CA"
	}
	info := &errdetails.ErrorInfo{
		Reason:   strings.ToUpper(e.Kind.String()),
		Domain:   errorDomain,
		Metadata: map[string]string{"request_id": requestID},
	}
	if e.Refused != nil {
		describe(e.Refused, info.Metadata)
	}
	details := []protoadapt.MessageV1{info}
	if len(e.Needs) > 0 {
		details = append(details, preconditions(e.Needs))
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if x := boundedExplanation(e.Explanation); x != nil {
		details = append(details, protoadapt.MessageV1Of(x))
	}
	st, detailErr := status.New(code, message).WithDetails(details...)
	if detailErr != nil {
		return status.Error(code, message)
	}
	return st.Err()
}

// describe tells a refused caller what to quote to an admin.
func describe(r *ca.Refused, metadata map[string]string) {
	metadata["index"] = strconv.FormatUint(r.Index, 10)
	if r.Rule != "" {
		metadata["rule"] = r.Rule
	}
	if r.Environment != "" {
		metadata["environment"] = r.Environment
	}
	switch {
	case r.Policy.Revision != "":
		metadata["policy"] = r.Policy.Revision
	case r.Policy != (ca.PolicyRef{}):
		metadata["policy"] = hex.EncodeToString(r.Policy.Digest[:])
	}
}

// preconditions says what is needed in the form that machines read.
func preconditions(needs []ca.Need) *errdetails.PreconditionFailure {
	failure := &errdetails.PreconditionFailure{}
	for _, need := range needs {
		v := &errdetails.PreconditionFailure_Violation{}
		switch need.Kind {
		case ca.NeedReason:
			v.Type, v.Description = "REASON", "a reason"
		case ca.NeedFreshLogin:
			v.Type, v.Subject, v.Description = "FRESH_LOGIN", need.LoginWithin.String(), "a sign-in within the last "+need.LoginWithin.String()
		}
		failure.Violations = append(failure.Violations, v)
	}
	return failure
}
