package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// maxPolicyBytes is how much a policy may have. The daemon takes none with more than 16 MiB.
const maxPolicyBytes = 32 << 20

// ListRevisions asks for a page of the policies that were ever in force, newest first.
func (c *Client) ListRevisions(ctx context.Context, who SignIn, page *pb.ListRevisionsRequest) (*pb.ListRevisionsResponse, error) {
	ctx, err := c.prove(ctx, who, pb.PolicyService_ListRevisions_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.policies.ListRevisions(ctx, page)
	return answer, c.fromStatus(err)
}

// GetRevision asks for a policy that was in force, by its commit or digest or the beginning of either, and for its files by path.
// An empty revision is the policy in force.
func (c *Client) GetRevision(ctx context.Context, who SignIn, revision string) (*pb.Revision, map[string][]byte, error) {
	ctx, err := c.prove(ctx, who, pb.PolicyService_GetRevision_FullMethodName)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout) // a stream, but no lasting one
	defer cancel()
	stream, err := c.policies.GetRevision(ctx, &pb.GetRevisionRequest{Revision: revision})
	if err != nil {
		return nil, nil, c.fromStatus(err)
	}
	var found *pb.Revision
	files, total := map[string][]byte{}, 0
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, c.fromStatus(err)
		}
		if r := answer.GetRevision(); r != nil {
			found = r
			continue
		}
		file := answer.GetFile()
		if total += len(file.GetContents()); total > maxPolicyBytes {
			return nil, nil, fmt.Errorf("the policy %s has more than %d bytes", revision, maxPolicyBytes)
		}
		files[file.GetPath()] = file.GetContents()
	}
	if found == nil {
		return nil, nil, fmt.Errorf("the CA did not say which policy %q is", revision)
	}
	return found, files, nil
}

// ReloadPolicy makes the daemon read the source of its policy now.
func (c *Client) ReloadPolicy(ctx context.Context, who SignIn) (*pb.ReloadResponse, error) {
	ctx, err := c.prove(ctx, who, pb.PolicyService_Reload_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.policies.Reload(ctx, &pb.ReloadRequest{})
	return answer, c.fromStatus(err)
}

// AcceptPolicy lets a commit come into force that does not descend from the one that is.
func (c *Client) AcceptPolicy(ctx context.Context, who SignIn, revision, reason string) (*pb.AcceptResponse, error) {
	ctx, err := c.prove(ctx, who, pb.PolicyService_Accept_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.policies.Accept(ctx, &pb.AcceptRequest{Revision: revision, Reason: reason})
	return answer, c.fromStatus(err)
}
