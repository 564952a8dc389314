package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Backup writes a copy of the log to w, and returns what it is. Whether the copy is what it says is for the caller to check. Progress
// is told how many bytes have come.
func (c *Client) Backup(ctx context.Context, who SignIn, w io.Writer, progress func(have, of uint64)) (*pb.BackupHeader, error) {
	ctx, err := c.prove(ctx, who, pb.AdminService_Backup_FullMethodName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the stream if w fails
	defer cancel()
	stream, err := c.admin.Backup(ctx, &pb.BackupRequest{})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, c.fromStatus(err)
	}
	header := first.GetHeader()
	if header == nil {
		return nil, ca.Errorf(ca.Internal, "the CA sent a backup without saying what it is")
	}
	for have := uint64(0); ; progress(have, header.GetBytes()) {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if have != header.GetBytes() {
				return nil, ca.Errorf(ca.Unavailable, "the backup ended after %d of %d bytes: take it again", have, header.GetBytes())
			}
			return header, nil
		}
		if err != nil {
			return nil, c.fromStatus(err)
		}
		if have += uint64(len(part.GetChunk())); have > header.GetBytes() {
			return nil, ca.Errorf(ca.Internal, "the CA sent more than the %d bytes of the backup", header.GetBytes())
		}
		if _, err := w.Write(part.GetChunk()); err != nil {
			return nil, fmt.Errorf("write backup: %w", err)
		}
	}
}

// EraseIdentity has the identity snapshots of a person erased.
func (c *Client) EraseIdentity(ctx context.Context, who SignIn, in *pb.EraseIdentityRequest) (*pb.EraseIdentityResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AdminService_EraseIdentity_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.admin.EraseIdentity(ctx, in)
	return answer, c.fromStatus(err)
}
