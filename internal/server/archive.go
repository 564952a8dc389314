package server

import (
	"context"
	"errors"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// hashesPart is how many hashes a message carries: half a megabyte of them.
const hashesPart = 1 << 14

// notThere says why the log does not have a record.
func notThere(err error, index uint64) error {
	if archived, ok := errors.AsType[*store.ArchivedError](err); ok && archived.Archive != nil {
		return &ca.Error{Kind: ca.NotFound, Message: archived.Error(), Err: err, Refused: &ca.Refused{Index: archived.Archive.Index}}
	}
	if errors.Is(err, store.ErrNotFound) {
		return ca.Errorf(ca.NotFound, "the log has no record %d", index)
	}
	return err
}

// archived tells of records that a query would have found, or not, had they not been archived; nil if none are that old.
func (s auditService) archived(ctx context.Context, q store.Query) (*pb.Archive, error) {
	a, err := store.NewestArchive(ctx, s.cfg.Store)
	if a == nil || err != nil {
		return nil, err
	}
	if q.From >= a.GetBefore() || !q.Since.IsZero() && q.Since.After(a.GetUntil().AsTime()) {
		return nil, nil
	}
	return &pb.Archive{Index: a.Index, Time: timestamppb.New(a.Time), Before: a.GetBefore(), Until: a.GetUntil()}, nil
}

// sendHashes sends those of the archived records from one index on and before another.
func (s auditService) sendHashes(ctx context.Context, stream grpc.ServerStreamingServer[pb.FollowRecordsResponse], from, to uint64) error {
	for from < to {
		n := min(to-from, hashesPart)
		indexes := make([]int64, n)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(0, int64(from)+int64(i))
		}
		hashes, err := s.cfg.Store.Hashes(ctx, indexes)
		if err != nil {
			return err
		}
		part := make([]byte, 0, n*tlog.HashSize)
		for i := range hashes {
			part = append(part, hashes[i][:]...)
		}
		if err := stream.Send(&pb.FollowRecordsResponse{Hashes: part}); err != nil {
			return err
		}
		from += n
	}
	return nil
}
