package server

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/grpc"
)

const (
	// chunkSize is that of the parts of a backup, well below what clients take as a message.
	chunkSize = 256 << 10
	// maxReason is the length of the longest reason, in bytes.
	maxReason = 1024
)

// adminService keeps the log, for those whom the policy makes admins.
type adminService struct {
	pb.UnimplementedAdminServiceServer
	*Server
}

func (s adminService) Backup(_ *pb.BackupRequest, stream grpc.ServerStreamingServer[pb.BackupResponse]) (err error) {
	ctx := stream.Context()
	caller, err := s.authorize(ctx, pb.AdminService_Backup_FullMethodName)
	if err != nil {
		return err
	}
	backup, err := s.cfg.Backup(ctx, caller, peerAddr(ctx).String())
	if errors.Is(err, store.ErrBusy) {
		return ca.Errorf(ca.Conflict, "somebody else is taking a backup: try again when that is done")
	}
	if errors.Is(err, store.ErrNoRoom) {
		return &ca.Error{Kind: ca.Unavailable, Message: err.Error() + ": make room on the machine of the CA", Err: err}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backup.Close()) }()
	if err := stream.Send(&pb.BackupResponse{Part: &pb.BackupResponse_Header{Header: &pb.BackupHeader{
		Bytes: uint64(backup.Bytes), Checkpoint: string(backup.Checkpoint), LogPublicKey: s.cfg.LogPublicKey,
	}}}); err != nil {
		return err
	}
	chunk := make([]byte, chunkSize)
	for {
		if s.draining.Err() != nil {
			return ca.Errorf(ca.Unavailable, "the CA is shutting down: take the backup again")
		}
		if err := s.polite.read(ctx, chunkRecords); err != nil {
			return err
		}
		n, err := io.ReadFull(backup, chunk)
		if n > 0 {
			if err := stream.Send(&pb.BackupResponse{Part: &pb.BackupResponse_Chunk{Chunk: chunk[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s adminService) EraseIdentity(ctx context.Context, in *pb.EraseIdentityRequest) (*pb.EraseIdentityResponse, error) {
	caller, err := s.authorize(ctx, pb.AdminService_EraseIdentity_FullMethodName)
	if err != nil {
		return nil, err
	}
	reason := strings.TrimSpace(in.GetReason())
	switch {
	case in.GetIssuer() == "" || in.GetSubject() == "":
		return nil, ca.Errorf(ca.Invalid, "issuer and subject: give both, a subject means nothing without its issuer")
	case reason == "":
		return nil, ca.Errorf(ca.Invalid, "reason: say who asked for it, it stays in the log")
	case len(reason) > maxReason:
		return nil, ca.Errorf(ca.Invalid, "reason: %d bytes are more than %d", len(reason), maxReason)
	case !ca.OneLine(reason):
		return nil, ca.Errorf(ca.Invalid, "reason: write one line without control characters")
	case in.GetIssuer() == caller.Identity.Issuer && in.GetSubject() == caller.Identity.Subject:
		return nil, ca.Errorf(ca.Invalid, "the record of it would cite your own identity: another admin must erase yours")
	}
	erased, index, err := s.cfg.EraseIdentity(ctx, caller, in.GetIssuer(), in.GetSubject(), reason)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ca.Errorf(ca.NotFound, "the log has no record about %.100q of %.200q", in.GetSubject(), in.GetIssuer())
	}
	if err != nil {
		return nil, err
	}
	return &pb.EraseIdentityResponse{Snapshots: uint32(erased), Index: index}, nil
}
