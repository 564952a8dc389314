package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (s auditService) ListReviews(ctx context.Context, in *pb.ListReviewsRequest) (*pb.ListReviewsResponse, error) {
	if _, err := s.authorize(ctx, pb.AuditService_ListReviews_FullMethodName); err != nil {
		return nil, err
	}
	limit, _, err := parsePage(in.GetPageSize(), "")
	if err != nil {
		return nil, err
	}
	after, err := parseReviewToken(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	open, err := store.OpenReviews(ctx, s.cfg.Store, after, limit)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	out, size := &pb.ListReviewsResponse{Now: timestamppb.New(now)}, 0
	for i, review := range open {
		if in.GetOverdue() && !review.Overdue(now) {
			break // those that follow are due later
		}
		entry, err := s.entryAt(ctx, review.Index)
		if err != nil {
			return nil, err
		}
		out.Entries = append(out.Entries, entry)
		size += len(entry.GetRecord()) + len(entry.GetSnapshot()) + len(entry.GetLists())
		if i == limit-1 || size > maxPageBytes {
			out.NextPageToken = reviewToken(review)
			break
		}
	}
	return out, nil
}

// reviewToken names the review behind which the next page begins.
func reviewToken(r store.OpenReview) string { return fmt.Sprintf("%d-%d", r.Due.Unix(), r.Index) }

// parseReviewToken is the reverse; nil for the first page.
func parseReviewToken(token string) (*store.OpenReview, error) {
	if token == "" {
		return nil, nil
	}
	due, index, _ := strings.Cut(token, "-")
	seconds, dueErr := strconv.ParseInt(due, 10, 64)
	n, indexErr := strconv.ParseUint(index, 10, 64)
	if dueErr != nil || indexErr != nil {
		return nil, ca.Errorf(ca.Invalid, "page_token: not a token that this service gave")
	}
	return &store.OpenReview{Due: time.Unix(seconds, 0), Index: n}, nil
}

func (s auditService) MarkReviewed(ctx context.Context, in *pb.MarkReviewedRequest) (*pb.MarkReviewedResponse, error) {
	const method = pb.AuditService_MarkReviewed_FullMethodName
	caller, err := s.authorize(ctx, method)
	if err != nil {
		return nil, err
	}
	comment := strings.TrimSpace(in.GetComment())
	switch {
	case comment == "":
		return nil, ca.Errorf(ca.Invalid, "comment: say what you found, it stays in the log")
	case len(comment) > audit.MaxComment:
		return nil, ca.Errorf(ca.Invalid, "comment: %d bytes are more than %d", len(comment), audit.MaxComment)
	case !ca.OneLine(comment):
		return nil, ca.Errorf(ca.Invalid, "comment: write one line without control characters")
	}
	at, err := s.cfg.MarkReviewed(ctx, caller, peerAddr(ctx).String(), in.GetIndex(), comment)
	if again, ok := errors.AsType[*store.ReviewedError](err); ok {
		return nil, s.reviewedBefore(ctx, again)
	}
	if ca.KindOf(err) == ca.Denied {
		_, policy, _ := s.checkRole(ctx, methods[method], caller) // whose role it is that does not help
		return nil, s.refuse(ctx, method, caller, policy, err)
	}
	if err != nil {
		return nil, err
	}
	return &pb.MarkReviewedResponse{Index: at}, nil
}

// reviewedBefore tells whoever comes second who was first.
func (s auditService) reviewedBefore(ctx context.Context, again *store.ReviewedError) error {
	var r pb.Record
	if err := proto.Unmarshal(again.Mark, &r); err != nil {
		return &ca.Error{Kind: ca.Internal, Message: "parse record", Err: err}
	}
	who := r.GetReviewed().GetCaller().GetSubject()
	snapshot, err := s.snapshot(ctx, &r)
	if err != nil {
		return err
	}
	var id pb.IdentitySnapshot
	if err := proto.Unmarshal(snapshot, &id); err == nil && id.GetEmail() != "" {
		who = id.GetEmail()
	}
	return ca.Errorf(ca.Conflict, "record %d was reviewed by %s on %s, see record %d", again.Index, who, r.GetTime().AsTime().Format(time.RFC3339), r.GetIndex())
}

// reviewOf returns the Reviewed record of a decision; nil if there is none.
func (s auditService) reviewOf(ctx context.Context, index uint64) (*pb.Entry, error) {
	record, err := store.ReviewOf(ctx, s.cfg.Store, index)
	if err != nil || record == nil {
		return nil, err
	}
	return s.entry(ctx, record)
}

func (s auditService) entryAt(ctx context.Context, index uint64) (*pb.Entry, error) {
	record, err := store.Record(ctx, s.cfg.Store, index)
	if err != nil {
		return nil, &ca.Error{Kind: ca.Internal, Message: fmt.Sprintf("a fact names record %d, the log has none", index), Err: err}
	}
	return s.entry(ctx, record)
}

// filterReviews looks up what asks for review, and of those which are open.
func (s auditService) filterReviews(ctx context.Context, state pb.ReviewState, f *store.Filter) (func(*pb.Record) (bool, error), error) {
	switch state {
	case pb.ReviewState_REVIEW_STATE_UNSPECIFIED:
		return nil, nil
	case pb.ReviewState_REVIEW_STATE_ASKED, pb.ReviewState_REVIEW_STATE_OPEN, pb.ReviewState_REVIEW_STATE_DONE:
	default:
		return nil, ca.Errorf(ca.Invalid, "review: there is no %d", state)
	}
	f.Values[audit.FieldReview] = []string{audit.ReviewAsked}
	if state == pb.ReviewState_REVIEW_STATE_ASKED {
		return nil, nil
	}
	return func(r *pb.Record) (bool, error) {
		_, err := s.cfg.Store.Fact(ctx, audit.ReviewedFact(r.GetIndex()))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		return (err == nil) == (state == pb.ReviewState_REVIEW_STATE_DONE), nil
	}, nil
}
