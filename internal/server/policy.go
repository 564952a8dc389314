package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Bounds of the name of a revision, in digits.
const (
	minRevision = 7
	maxRevision = 64
)

// policyService shows policies to those whom the policy in force lets, and loads others for admins.
type policyService struct {
	pb.UnimplementedPolicyServiceServer
	*Server
}

func (s policyService) ListRevisions(ctx context.Context, in *pb.ListRevisionsRequest) (*pb.ListRevisionsResponse, error) {
	if _, err := s.authorize(ctx, pb.PolicyService_ListRevisions_FullMethodName); err != nil {
		return nil, err
	}
	limit, before, err := parsePage(in.GetPageSize(), in.GetPageToken())
	if err != nil {
		return nil, err
	}
	if first := in.GetBefore(); first > 0 && (before == nil || first < *before) {
		before = &first
	}
	found, err := store.Revisions(ctx, s.cfg.Store, before, limit)
	if err != nil {
		return nil, err
	}
	newest := found
	if before != nil {
		if newest, err = store.Revisions(ctx, s.cfg.Store, nil, 1); err != nil {
			return nil, err
		}
	}
	out := &pb.ListRevisionsResponse{}
	for _, r := range found {
		out.Revisions = append(out.Revisions, revision(r, newest))
	}
	if len(found) == limit {
		out.NextPageToken = strconv.FormatUint(found[limit-1].Index, 10)
	}
	return out, nil
}

// revision puts r on the wire. What was loaded last is in force.
func revision(r store.Revision, newest []store.Revision) *pb.Revision {
	return &pb.Revision{
		Index: r.Index, Time: timestamppb.New(r.Time), Loaded: r.Loaded, InForce: len(newest) > 0 && newest[0].Index == r.Index,
	}
}

func (s policyService) GetRevision(in *pb.GetRevisionRequest, stream grpc.ServerStreamingServer[pb.GetRevisionResponse]) error {
	ctx := stream.Context()
	if _, err := s.authorize(ctx, pb.PolicyService_GetRevision_FullMethodName); err != nil {
		return err
	}
	newest, err := store.Revisions(ctx, s.cfg.Store, nil, 1)
	if err != nil {
		return err
	}
	found, err := s.findRevision(ctx, in.GetRevision(), newest)
	if err != nil {
		return err
	}
	files, err := s.cfg.PolicyFiles(ctx, refOf(found.Loaded.GetPolicy()))
	if err != nil {
		return err
	}
	first := &pb.GetRevisionResponse{Part: &pb.GetRevisionResponse_Revision{Revision: revision(found, newest)}}
	if err := stream.Send(first); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := &pb.PolicyFile{Path: name, Contents: files[name]}
		if err := stream.Send(&pb.GetRevisionResponse{Part: &pb.GetRevisionResponse_File{File: file}}); err != nil {
			return err
		}
	}
	return nil
}

func (s policyService) findRevision(ctx context.Context, name string, newest []store.Revision) (store.Revision, error) {
	if name == "" {
		if len(newest) == 0 {
			return store.Revision{}, ca.Errorf(ca.NotFound, "no policy is in force yet")
		}
		return newest[0], nil
	}
	digits := strings.ToLower(name)
	if len(digits) < minRevision || len(digits) > maxRevision || strings.Trim(digits, "0123456789abcdef") != "" {
		return store.Revision{}, ca.Errorf(ca.Invalid, "revision: a commit or a digest has %d to %d hexadecimal digits", minRevision, maxRevision)
	}
	found, err := store.FindRevision(ctx, s.cfg.Store, digits)
	if ambiguous, ok := errors.AsType[*store.AmbiguousError](err); ok {
		return found, ca.Errorf(ca.Invalid, "revision: %s", ambiguous)
	}
	if errors.Is(err, store.ErrNotFound) {
		return found, ca.Errorf(ca.NotFound, "no policy %s was ever in force", digits)
	}
	return found, err
}

func (s policyService) Reload(ctx context.Context, _ *pb.ReloadRequest) (*pb.ReloadResponse, error) {
	if _, err := s.authorize(ctx, pb.PolicyService_Reload_FullMethodName); err != nil {
		return nil, err
	}
	ref, changed, err := s.cfg.ReloadPolicy(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.ReloadResponse{Policy: policyRef(ref), Changed: changed}, nil
}

func (s policyService) Accept(ctx context.Context, in *pb.AcceptRequest) (*pb.AcceptResponse, error) {
	caller, err := s.authorize(ctx, pb.PolicyService_Accept_FullMethodName)
	if err != nil {
		return nil, err
	}
	digits, reason := in.GetRevision(), strings.TrimSpace(in.GetReason())
	switch {
	case len(digits) != 40 && len(digits) != maxRevision || strings.Trim(digits, "0123456789abcdef") != "":
		return nil, ca.Errorf(ca.Invalid, "revision: give the commit in full, 40 hexadecimal digits")
	case reason == "":
		return nil, ca.Errorf(ca.Invalid, "reason: say why it is right to take a commit that history does not lead to")
	case !ca.OneLine(reason):
		return nil, ca.Errorf(ca.Invalid, "reason: write one line without control characters")
	}
	ref, err := s.cfg.AcceptPolicy(ctx, caller, digits, reason)
	if err != nil {
		return nil, err
	}
	return &pb.AcceptResponse{Policy: policyRef(ref)}, nil
}

// refOf reads a policy off a record.
func refOf(p *pb.PolicyRef) ca.PolicyRef {
	ref := ca.PolicyRef{Revision: p.GetRevision(), Dirty: p.GetDirty()}
	if digest := p.GetDigest(); len(digest) == len(ref.Digest) {
		ref.Digest = [32]byte(digest)
	}
	return ref
}
