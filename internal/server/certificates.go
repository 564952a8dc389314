package server

import (
	"context"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
)

// certificateService puts the core on the wire.
type certificateService struct {
	pb.UnimplementedCertificateServiceServer
	*Server
}

func (s certificateService) Issue(ctx context.Context, in *pb.IssueRequest) (*pb.IssueResponse, error) {
	defer s.polite.issue()()
	call, err := s.newCall(ctx, in.GetRequest(), in.GetSshsig())
	if err != nil {
		return nil, err
	}
	issued, err := s.cfg.CA.Issue(ctx, call)
	meet(ctx, err)
	if err != nil {
		return nil, err
	}
	out := &pb.IssueResponse{
		Certificate: issued.Certificate,
		Index:       issued.Index,
		Decision:    decision(issued.Decision),
		Policy:      policyRef(issued.Policy),
	}
	if err := s.prove(ctx, out, in.GetLastSize()); err != nil {
		return nil, err
	}
	return out, nil
}

func (s certificateService) DryRun(ctx context.Context, in *pb.DryRunRequest) (*pb.DryRunResponse, error) {
	call, err := s.newCall(ctx, in.GetRequest(), in.GetSshsig())
	if err != nil {
		return nil, err
	}
	planned, err := s.cfg.CA.DryRun(ctx, call)
	meet(ctx, err)
	if err != nil {
		return nil, err
	}
	out := &pb.DryRunResponse{
		Decision:    decision(planned.Decision),
		Policy:      policyRef(planned.Policy),
		Principals:  planned.Principals,
		Explanation: explanation(planned.Explanation),
	}
	if planned.TTL > 0 {
		out.Ttl = durationpb.New(planned.TTL)
	}
	return out, nil
}

func (s certificateService) Discover(context.Context, *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	return s.cfg.Discovery(), nil
}

func (s certificateService) ListEnvironments(ctx context.Context, _ *pb.ListEnvironmentsRequest) (*pb.ListEnvironmentsResponse, error) {
	if _, err := s.authorize(ctx, pb.CertificateService_ListEnvironments_FullMethodName); err != nil {
		return nil, err
	}
	environments, policy := s.cfg.Environments()
	return &pb.ListEnvironmentsResponse{Environments: environments, Policy: policyRef(policy)}, nil
}

// newCall gathers what the core needs of a signed request.
func (s *Server) newCall(ctx context.Context, request, sshsig []byte) (ca.Call, error) {
	token, err := s.bearer(ctx)
	if err != nil {
		return ca.Call{}, err
	}
	return ca.Call{Token: token, Signed: request, SSHSIG: sshsig, SourceIP: peerAddr(ctx)}, nil
}

// bearer returns the ID token of a call. Who shows none is a stranger like any other.
func (s *Server) bearer(ctx context.Context) (string, error) {
	token, err := bearerOf(ctx)
	if err != nil {
		return "", s.cfg.Limiter.Stranger(peerAddr(ctx), err)
	}
	return token, nil
}

// bearerOf reads the "authorization" metadata (RFC 6750 2.1). Exactly one, of that scheme.
func bearerOf(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", ca.Errorf(ca.Unauthenticated, "the call carries %d ID tokens, want one: sign in first", len(values))
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", ca.Errorf(ca.Unauthenticated, "the authorization of the call is not a bearer token: sign in first")
	}
	return token, nil
}
