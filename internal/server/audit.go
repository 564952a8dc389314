package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultPage = 50
	maxPage     = 1000
	// maxPageBytes is where a page ends even if it was to be longer: clients take messages of 4 MB (gRPC's own limit), and the
	// identity of an entry can be large.
	maxPageBytes = 1 << 20
	// maxWork is how many records and pages of the index are looked at for a page, and maxSearch for how long: what nothing in the
	// index helps to find is looked for in several calls.
	maxWork   = 50_000
	maxSearch = 2 * time.Second
	// followBatch is how many records a follower reads at a time, so that it never holds a read transaction for long.
	followBatch = 100
)

// auditService reads the log for those whom the policy lets.
type auditService struct {
	pb.UnimplementedAuditServiceServer
	*Server
}

func (s auditService) GetRecord(ctx context.Context, in *pb.GetRecordRequest) (*pb.GetRecordResponse, error) {
	var record []byte
	reader, err := s.authorizeFor(ctx, pb.AuditService_GetRecord_FullMethodName, func(caller ca.Caller) (own bool, err error) {
		record, err = store.Record(ctx, s.cfg.Store, in.GetIndex())
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return isAbout(record, caller.Identity)
	})
	if err != nil {
		return nil, err
	}
	if record == nil {
		if record, err = store.Record(ctx, s.cfg.Store, in.GetIndex()); err != nil {
			return nil, notThere(err, in.GetIndex())
		}
	}
	entry, err := s.entry(ctx, record)
	if err != nil {
		return nil, err
	}
	out := &pb.GetRecordResponse{Entry: entry, Own: !reader.role}
	if reader.role {
		out.Reviewed, err = s.reviewOf(ctx, in.GetIndex())
	}
	return out, err
}

func (s auditService) ListRecords(ctx context.Context, in *pb.ListRecordsRequest) (*pb.ListRecordsResponse, error) {
	out := &pb.ListRecordsResponse{}
	q, err := s.query(ctx, pb.AuditService_ListRecords_FullMethodName, in, out)
	if err != nil {
		return nil, err
	}
	page, err := store.Search(ctx, s.cfg.Store, q)
	if err != nil {
		return nil, err
	}
	if err := s.polite.read(ctx, len(page.Found)); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, page, out); err != nil {
		return nil, err
	}
	if out.NextPageToken == "" {
		out.Archived, err = s.archived(ctx, q)
	}
	return out, err
}

// query lets a caller in, and reads what it asks for. It tells out what is to be said about the answer.
func (s auditService) query(ctx context.Context, fullMethod string, in *pb.ListRecordsRequest, out *pb.ListRecordsResponse) (store.Query, error) {
	caller, err := s.authorizeFor(ctx, fullMethod, func(ca.Caller) (bool, error) {
		return in.GetScope() == pb.RecordScope_RECORD_SCOPE_OWN || in.GetScope() == pb.RecordScope_RECORD_SCOPE_ALLOWED, nil
	})
	if err != nil {
		return store.Query{}, err
	}
	q, err := parseQuery(in)
	if err != nil {
		return q, err
	}
	if q.Filter, err = s.filter(ctx, in, out); err != nil {
		return q, err
	}
	if out.Own = !caller.role || in.GetScope() == pb.RecordScope_RECORD_SCOPE_OWN; out.Own {
		q.Filter.Only = &store.Caller{Issuer: caller.Identity.Issuer, Subject: caller.Identity.Subject}
	}
	return q, nil
}

// fill puts what was found into an answer, and where the next page begins.
func (s auditService) fill(ctx context.Context, page store.Page, out *pb.ListRecordsResponse) error {
	next, size := page.Next, 0
	for i, f := range page.Found {
		entry, err := s.entry(ctx, f.Record)
		if err != nil {
			return err
		}
		out.Entries = append(out.Entries, entry)
		size += len(entry.GetRecord()) + len(entry.GetSnapshot()) + len(entry.GetLists())
		if size > maxPageBytes && i < len(page.Found)-1 {
			next = &f.Index
			break
		}
	}
	if next == nil || *next == 0 {
		return nil
	}
	out.NextPageToken = strconv.FormatUint(*next, 10)
	records, err := s.cfg.Store.Records(ctx, *next-1, 1)
	if err != nil || len(records) == 0 {
		return err
	}
	var r pb.Record
	if err := proto.Unmarshal(records[0], &r); err != nil {
		return &ca.Error{Kind: ca.Internal, Message: "parse record", Err: err}
	}
	out.SearchedTo = r.GetTime()
	return nil
}

// parseQuery reads what a page is asked of.
func parseQuery(in *pb.ListRecordsRequest) (store.Query, error) {
	if _, ok := pb.RecordScope_name[int32(in.GetScope())]; !ok {
		return store.Query{}, ca.Errorf(ca.Invalid, "scope: there is no %d", in.GetScope())
	}
	q := store.Query{Issuer: in.GetIssuer(), Subject: in.GetSubject(), From: in.GetFrom(), Work: maxWork}
	deadline := time.Now().Add(maxSearch)
	q.Stop = func() bool { return time.Now().After(deadline) }
	if (q.Issuer == "") != (q.Subject == "") {
		return q, ca.Errorf(ca.Invalid, "issuer and subject: give both or none, a subject means nothing without its issuer")
	}
	var err error
	if q.Limit, q.Before, err = parsePage(in.GetPageSize(), in.GetPageToken()); err != nil {
		return q, err
	}
	if q.Since, err = optionalTime("since", in.GetSince()); err != nil {
		return q, err
	}
	if q.Until, err = optionalTime("until", in.GetUntil()); err != nil {
		return q, err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return q, ca.Errorf(ca.Invalid, "since %s is not before until %s", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	}
	return q, nil
}

// parsePage reads which page is asked for: how many at most, and before which index; nil for the newest.
func parsePage(size uint32, token string) (limit int, before *uint64, err error) {
	limit = min(int(size), maxPage)
	if size == 0 {
		limit = defaultPage
	}
	if token == "" {
		return limit, nil, nil
	}
	index, err := strconv.ParseUint(token, 10, 64)
	if err != nil {
		return 0, nil, ca.Errorf(ca.Invalid, "page_token: not a token that this service gave")
	}
	return limit, &index, nil
}

func optionalTime(field string, ts *timestamppb.Timestamp) (time.Time, error) {
	if ts == nil {
		return time.Time{}, nil
	}
	return parseTime(field, ts)
}

func (s auditService) FollowRecords(in *pb.FollowRecordsRequest, stream grpc.ServerStreamingServer[pb.FollowRecordsResponse]) error {
	ctx := stream.Context()
	caller, err := s.authorize(ctx, pb.AuditService_FollowRecords_FullMethodName)
	if err != nil {
		return err
	}
	// A follower may not outlive the token that let it in.
	ctx, cancel := context.WithDeadlineCause(ctx, caller.Token.Expires,
		ca.Errorf(ca.Unauthenticated, "the ID token expired while following: follow again from the next index"))
	defer cancel()
	s.followers.Add(1)
	defer s.followers.Add(-1)

	next := in.GetFrom()
	if last := uint64(in.GetLast()); last > 0 {
		size, err := s.cfg.Store.Size(ctx)
		if err != nil {
			return err
		}
		next = size - min(last, size)
	}
	for {
		began := next
		next, err = s.sendFrom(ctx, stream, next, in.GetHashes())
		if err == nil {
			err = s.polite.read(ctx, int(next-began))
		}
		if err == nil && next-began < followBatch {
			s.polite.pause(ctx)
			err = s.cfg.Store.Wait(ctx, next)
		}
		if err == nil { // a policy that came into force meanwhile may have taken the role away
			err = s.stillMay(ctx, pb.AuditService_FollowRecords_FullMethodName, caller)
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause // says more than the bare error of the context
		}
		if err != nil {
			return err
		}
	}
}

// sendFrom sends a batch of records to a follower and returns the index to go on at.
func (s auditService) sendFrom(ctx context.Context, stream grpc.ServerStreamingServer[pb.FollowRecordsResponse], next uint64, hashes bool) (uint64, error) {
	records, err := s.cfg.Store.Records(ctx, next, followBatch)
	if err != nil {
		return next, err
	}
	for _, record := range records {
		index, err := audit.Place(record)
		if err != nil {
			return next, err
		}
		if hashes {
			if err := s.sendHashes(ctx, stream, next, index); err != nil {
				return next, err
			}
		}
		entry, err := s.entry(ctx, record)
		if err != nil {
			return next, err
		}
		if err := stream.Send(&pb.FollowRecordsResponse{Entry: entry, Archived: index - next}); err != nil {
			return next, err
		}
		next = index + 1
	}
	return next, nil
}

func (s auditService) ListIdentities(ctx context.Context, in *pb.ListIdentitiesRequest) (*pb.ListIdentitiesResponse, error) {
	if _, err := s.authorize(ctx, pb.AuditService_ListIdentities_FullMethodName); err != nil {
		return nil, err
	}
	limit, _, err := parsePage(in.GetPageSize(), "")
	if err != nil {
		return nil, err
	}
	after, err := hex.DecodeString(in.GetPageToken())
	if err != nil || len(after) > 0 && len(after) != sha256.Size {
		return nil, ca.Errorf(ca.Invalid, "page_token: not a token that this service gave")
	}
	found, err := store.Identities(ctx, s.cfg.Store, after, limit)
	if err != nil {
		return nil, err
	}
	out, size := &pb.ListIdentitiesResponse{}, 0
	for i, identity := range found {
		if identity.Snapshot == nil {
			out.Erased++
		} else {
			out.Snapshots = append(out.Snapshots, identity.Snapshot)
		}
		size += len(identity.Snapshot)
		if i == limit-1 || size > maxPageBytes {
			out.NextPageToken = hex.EncodeToString(identity.ID)
			break
		}
	}
	return out, nil
}

func (s auditService) GetCheckpoint(ctx context.Context, _ *pb.GetCheckpointRequest) (*pb.GetCheckpointResponse, error) {
	if _, err := s.authorize(ctx, pb.AuditService_GetCheckpoint_FullMethodName); err != nil {
		return nil, err
	}
	checkpoint, err := s.cfg.Store.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	restores, err := store.Restores(ctx, s.cfg.Store)
	if err != nil {
		return nil, err
	}
	return &pb.GetCheckpointResponse{Checkpoint: string(checkpoint), LogPublicKey: s.cfg.LogPublicKey, Restores: restores}, nil
}

// entry adds to a record the blobs that it cites. An erased one is left out.
func (s auditService) entry(ctx context.Context, record []byte) (*pb.Entry, error) {
	var r pb.Record
	if err := proto.Unmarshal(record, &r); err != nil {
		return nil, &ca.Error{Kind: ca.Internal, Message: "parse record", Err: err}
	}
	entry := &pb.Entry{Record: record}
	var err error
	if entry.Snapshot, err = s.snapshot(ctx, &r); err != nil {
		return nil, err
	}
	entry.Lists, err = s.cited(ctx, r.GetDecided().GetLists())
	return entry, err
}

// cited returns a blob that a record cites; nil if it cites none, or one that was erased.
func (s auditService) cited(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != 32 {
		return nil, nil
	}
	blob, err := s.cfg.Store.Blob(ctx, [32]byte(digest))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return blob, err
}
