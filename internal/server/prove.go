package server

import (
	"context"
	"errors"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc"
)

// blobPart is how much of a blob a message carries: clients take messages of 4 MB.
const blobPart = 1 << 20

// prove adds to the answer of an issuance the proof that its record is in the log, and that the log goes on from the size that
// the caller has seen. A caller that has seen more than there is gets no proof of that: there is none.
func (s certificateService) prove(ctx context.Context, out *pb.IssueResponse, lastSize uint64) error {
	p, err := store.ProveRecord(ctx, s.cfg.Store, out.GetIndex())
	if err != nil {
		return &ca.Error{Kind: ca.Unavailable, Message: "the certificate is on record, but the proof of that cannot be read now: send the request again", Err: err}
	}
	out.Record, out.Checkpoint, out.InclusionProof = p.Record, p.Checkpoint, wireHashes(p.Inclusion)
	switch {
	case lastSize > p.Size:
		s.cfg.Logger.Warn("a caller says that it saw more of the log than there is: if the log was not restored from a copy, somebody lies",
			"seen", lastSize, "size", p.Size, "index", out.GetIndex())
	case lastSize > 0:
		proof, err := store.ProveConsistency(ctx, s.cfg.Store, lastSize, p.Size)
		if err != nil {
			return &ca.Error{Kind: ca.Unavailable, Message: "the certificate is on record, but the proof of that cannot be read now: send the request again", Err: err}
		}
		out.ConsistencyProof = wireHashes(proof)
	}
	return nil
}

func (s auditService) ProveRecord(ctx context.Context, in *pb.ProveRecordRequest) (*pb.ProveRecordResponse, error) {
	if _, err := s.authorize(ctx, pb.AuditService_ProveRecord_FullMethodName); err != nil {
		return nil, err
	}
	p, err := store.ProveRecord(ctx, s.cfg.Store, in.GetIndex())
	if err != nil {
		return nil, notThere(err, in.GetIndex())
	}
	entry, err := s.entry(ctx, p.Record)
	if err != nil {
		return nil, err
	}
	return &pb.ProveRecordResponse{Entry: entry, Checkpoint: string(p.Checkpoint), Proof: wireHashes(p.Inclusion)}, nil
}

func (s auditService) ProveConsistency(ctx context.Context, in *pb.ProveConsistencyRequest) (*pb.ProveConsistencyResponse, error) {
	if _, err := s.authorize(ctx, pb.AuditService_ProveConsistency_FullMethodName); err != nil {
		return nil, err
	}
	signed, size, err := store.NewestCheckpoint(ctx, s.cfg.Store)
	if err != nil {
		return nil, err
	}
	from, to := in.GetOldSize(), in.GetNewSize()
	if to == 0 {
		to = size
	}
	switch {
	case from == 0:
		return nil, ca.Errorf(ca.Invalid, "old_size: an empty log proves nothing, ask from 1 on")
	case max(from, to) > size:
		return nil, ca.Errorf(ca.NotFound, "the log has %d records, not %d", size, max(from, to))
	case from > to:
		return nil, ca.Errorf(ca.Invalid, "old_size %d is more than new_size %d", from, to)
	}
	proof, err := store.ProveConsistency(ctx, s.cfg.Store, from, to)
	if err != nil {
		return nil, err
	}
	return &pb.ProveConsistencyResponse{Checkpoint: string(signed), Proof: wireHashes(proof)}, nil
}

func (s auditService) GetBlob(in *pb.GetBlobRequest, stream grpc.ServerStreamingServer[pb.GetBlobResponse]) error {
	ctx := stream.Context()
	if _, err := s.authorize(ctx, pb.AuditService_GetBlob_FullMethodName); err != nil {
		return err
	}
	if len(in.GetDigest()) != 32 {
		return ca.Errorf(ca.Invalid, "digest: %d bytes, a SHA-256 has 32", len(in.GetDigest()))
	}
	blob, err := s.cfg.Store.Blob(ctx, [32]byte(in.GetDigest()))
	if errors.Is(err, store.ErrNotFound) {
		return ca.Errorf(ca.NotFound, "the log has no blob %x: it never had, or it was erased", in.GetDigest())
	}
	if err != nil {
		return err
	}
	for len(blob) > blobPart {
		if err := stream.Send(&pb.GetBlobResponse{Part: blob[:blobPart]}); err != nil {
			return err
		}
		blob = blob[blobPart:]
	}
	return stream.Send(&pb.GetBlobResponse{Part: blob})
}

func wireHashes(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
