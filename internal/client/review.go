package client

import (
	"context"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// GetRecordAndReview asks for one record of the log, and for that of whoever reviewed it.
func (c *Client) GetRecordAndReview(ctx context.Context, who SignIn, index uint64) (*pb.GetRecordResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_GetRecord_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.GetRecord(ctx, &pb.GetRecordRequest{Index: index})
	return answer, c.fromStatus(err)
}

// ListReviews asks for a page of the decisions that ask for review and that nobody looked at yet.
func (c *Client) ListReviews(ctx context.Context, who SignIn, page *pb.ListReviewsRequest) (*pb.ListReviewsResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_ListReviews_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ListReviews(ctx, page)
	return answer, c.fromStatus(err)
}

// MarkReviewed has it recorded that the caller looked at the decision at index. It returns the index of that record.
func (c *Client) MarkReviewed(ctx context.Context, who SignIn, index uint64, comment string) (uint64, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_MarkReviewed_FullMethodName)
	if err != nil {
		return 0, err
	}
	answer, err := c.audit.MarkReviewed(ctx, &pb.MarkReviewedRequest{Index: index, Comment: comment})
	return answer.GetIndex(), c.fromStatus(err)
}
