package client

import (
	"context"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// ListIdentities asks for a page of those of whom the log tells.
func (c *Client) ListIdentities(ctx context.Context, who SignIn, page *pb.ListIdentitiesRequest) (*pb.ListIdentitiesResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_ListIdentities_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ListIdentities(ctx, page)
	return answer, c.fromStatus(err)
}
