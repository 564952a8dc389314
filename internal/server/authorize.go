package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// recordTimeout bounds a record that is written although the caller may be gone.
const recordTimeout = 10 * time.Second

// possessionKey is the metadata that shows possession of the key of the sign-in: a serialised SignedPossession.
const possessionKey = "hallpass-possession-bin"

// errNoRole is the cause of a refusal of somebody who is known and may call the method only with a role.
var errNoRole = errors.New("no role")

// authorize returns the caller of a method if the table lets it call. Each handler whose request is not itself signed begins
// with it. A known identity that is refused is recorded.
func (s *Server) authorize(ctx context.Context, fullMethod string) (ca.Caller, error) {
	r, err := s.authorizeFor(ctx, fullMethod, nil)
	return r.Caller, err
}

// reader is a caller of a method that people without a role may call about themselves.
type reader struct {
	ca.Caller
	role bool
}

// authorizeFor is authorize for a method that people without its role may call too, about themselves: own says whether this call is
// one. It is asked for no other caller.
func (s *Server) authorizeFor(ctx context.Context, fullMethod string, own func(ca.Caller) (bool, error)) (reader, error) {
	caller, policy, err := s.check(ctx, fullMethod)
	meet(ctx, err)
	if err == nil {
		return reader{caller, true}, nil
	}
	if own != nil && methods[fullMethod].own && errors.Is(err, errNoRole) {
		if yes, ownErr := own(caller); yes || ownErr != nil {
			return reader{caller, false}, ownErr
		}
	}
	if caller.Identity.Subject == "" {
		return reader{}, err // a stranger, or somebody above the rate limit: counted where it was found
	}
	return reader{}, s.refuse(ctx, fullMethod, caller, policy, err)
}

// stillMay asks the policy in force again whether a caller that was let in may go on. A refusal is recorded.
func (s *Server) stillMay(ctx context.Context, fullMethod string, caller ca.Caller) error {
	_, policy, err := s.checkRole(ctx, methods[fullMethod], caller)
	if err == nil {
		return nil
	}
	return s.refuse(ctx, fullMethod, caller, policy, err)
}

// refuse records that a known caller is refused a method, and returns what it is told.
func (s *Server) refuse(ctx context.Context, fullMethod string, caller ca.Caller, policy ca.PolicyRef, err error) error {
	// A caller that hangs up is refused all the same.
	recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if recordErr := s.cfg.RefuseAccess(recordCtx, caller, fullMethod, peerAddr(ctx).String(), policy, asError(err)); recordErr != nil {
		return &ca.Error{Kind: ca.Unavailable, Message: "the refusal could not be recorded: try again", Err: recordErr}
	}
	return err
}

func (s *Server) check(ctx context.Context, fullMethod string) (ca.Caller, ca.PolicyRef, error) {
	var none ca.PolicyRef
	m, ok := methods[fullMethod]
	if !ok {
		return ca.Caller{}, none, ca.Errorf(ca.Denied, "method %q is not one that anybody may call", fullMethod)
	}
	token, err := s.bearer(ctx)
	if err != nil {
		return ca.Caller{}, none, err
	}
	signed, err := possession(ctx)
	if err != nil {
		signed = &pb.SignedPossession{} // the core refuses it, once it knows who calls
	}
	caller, err := s.cfg.CA.Possession(ctx, ca.Call{
		Token: token, Signed: signed.GetPossession(), SSHSIG: signed.GetSshsig(), SourceIP: peerAddr(ctx),
	}, fullMethod)
	if err != nil {
		return caller, none, err
	}
	switch {
	case m.callers&person != 0 && caller.Identity.Kind == ca.Person,
		m.callers&workload != 0 && caller.Identity.Kind == ca.Workload:
		return caller, none, nil
	case caller.Identity.Kind != ca.Person:
		return caller, none, ca.Errorf(ca.Denied, "%s is for people, and this is the token of a %s", fullMethod, caller.Identity.Kind)
	}
	return s.checkRole(ctx, m, caller)
}

// checkRole asks the policy in force for the roles of the method.
func (s *Server) checkRole(ctx context.Context, m method, caller ca.Caller) (ca.Caller, ca.PolicyRef, error) {
	var policy ca.PolicyRef
	for _, role := range []struct {
		bit  callers
		name string
	}{{auditor, "auditor"}, {admin, "admin"}} {
		if m.callers&role.bit == 0 {
			continue
		}
		has, ref, err := s.cfg.Role(ctx, role.name, caller, s.cfg.Now())
		policy = ref
		if err != nil {
			s.cfg.Logger.Warn("role could not be evaluated", "role", role.name, "policy", ref.Revision, "error", err)
			continue
		}
		if has {
			return caller, policy, nil
		}
	}
	return caller, policy, &ca.Error{
		Kind: ca.Denied, Message: fmt.Sprintf("this needs the role %s, and the policy does not give it to you", m.roles()), Err: errNoRole,
	}
}

// possession reads the proof of a call. Exactly one.
func possession(ctx context.Context) (*pb.SignedPossession, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(possessionKey)
	if len(values) != 1 {
		return nil, ca.Errorf(ca.Unauthenticated, "the call carries %d proofs of possession, want one", len(values))
	}
	var m pb.SignedPossession
	if err := proto.Unmarshal([]byte(values[0]), &m); err != nil {
		return nil, &ca.Error{Kind: ca.Unauthenticated, Message: "the proof of possession is malformed", Err: err}
	}
	return &m, nil
}

// ParsePossession reads the wire form of a proof. The core calls it after the signature over these bytes was checked.
func ParsePossession(signed []byte) (ca.Possession, error) {
	var m pb.Possession
	if err := proto.Unmarshal(signed, &m); err != nil {
		return ca.Possession{}, &ca.Error{Kind: ca.Unauthenticated, Message: "the proof of possession is malformed", Err: err}
	}
	key, err := ca.ParseSubjectKey(m.GetPublicKey())
	if err != nil {
		return ca.Possession{}, err
	}
	p := ca.Possession{PublicKey: key, Method: m.GetMethod(), ServerName: m.GetServerName()}
	if p.ClientTime, err = parseTime("client_time", m.GetClientTime()); err != nil {
		return ca.Possession{}, err
	}
	p.TokenNonce, err = parseTokenNonce(m.GetTokenNonce())
	return p, err
}

// asError returns the ca.Error in err's chain, or an Internal one around it.
func asError(err error) *ca.Error {
	if e, ok := err.(*ca.Error); ok { //nolint:errorlint // only the outermost is what the caller reads
		return e
	}
	return &ca.Error{Kind: ca.KindOf(err), Message: "internal error", Err: err}
}
