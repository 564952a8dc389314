package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/tlog"
)

// maxBlob is how much a blob may have, in bytes: that of the daemon.
const maxBlob = 16 << 20

// GetCheckpoint asks for the newest signed checkpoint of the log. It is checked against nothing.
func (c *Client) GetCheckpoint(ctx context.Context, who SignIn) (*pb.GetCheckpointResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_GetCheckpoint_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.GetCheckpoint(ctx, &pb.GetCheckpointRequest{})
	return answer, c.fromStatus(err)
}

// ProveRecord asks for a record with the proof that it is in the log, and checks that.
func (c *Client) ProveRecord(ctx context.Context, who SignIn, index uint64) (*pb.ProveRecordResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_ProveRecord_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ProveRecord(ctx, &pb.ProveRecordRequest{Index: index})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	checkpoint, err := audit.OpenCheckpoint([]byte(answer.GetCheckpoint()), who.Log.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", index, err)
	}
	proof, err := hashes(answer.GetProof())
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", index, err)
	}
	if index >= checkpoint.Size {
		return nil, fmt.Errorf("record %d is not among the %d of the checkpoint that the CA gave", index, checkpoint.Size)
	}
	if err := tlog.CheckRecord(proof, int64(checkpoint.Size), checkpoint.Root, int64(index), tlog.RecordHash(answer.GetEntry().GetRecord())); err != nil {
		return nil, fmt.Errorf("the CA does not prove that record %d is in its log: %w", index, err)
	}
	return answer, nil
}

// ProveConsistency asks for the proof that the log goes on from a signed checkpoint, and checks that. A *ForkError says that it
// does not.
func (c *Client) ProveConsistency(ctx context.Context, who SignIn, older []byte) (*pb.ProveConsistencyResponse, error) {
	before, err := audit.OpenCheckpoint(older, who.Log.PublicKey)
	if err != nil {
		return nil, err
	}
	newest, err := c.GetCheckpoint(ctx, who)
	if err != nil {
		return nil, err
	}
	now, err := audit.OpenCheckpoint([]byte(newest.GetCheckpoint()), who.Log.PublicKey)
	if err != nil {
		return nil, err
	}
	if now.Size < before.Size {
		return nil, verifyContinuation(older, []byte(newest.GetCheckpoint()), nil, who.Log.PublicKey)
	}
	ctx, err = c.prove(ctx, who, pb.AuditService_ProveConsistency_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ProveConsistency(ctx, &pb.ProveConsistencyRequest{OldSize: before.Size})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	return answer, verifyContinuation(older, []byte(answer.GetCheckpoint()), answer.GetProof(), who.Log.PublicKey)
}

// GetBlob asks for what the log has under a digest.
func (c *Client) GetBlob(ctx context.Context, who SignIn, digest [32]byte) ([]byte, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_GetBlob_FullMethodName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout) // a stream, but no lasting one
	defer cancel()
	stream, err := c.audit.GetBlob(ctx, &pb.GetBlobRequest{Digest: digest[:]})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	var blob []byte
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, c.fromStatus(err)
		}
		if blob = append(blob, answer.GetPart()...); len(blob) > maxBlob {
			return nil, fmt.Errorf("the CA sends more than %d bytes as the blob %x", maxBlob, digest)
		}
	}
	if audit.Digest(blob) != digest {
		return nil, fmt.Errorf("the CA sends something else as the blob %x", digest)
	}
	return blob, nil
}

// NewestArchive asks for the record that tells of the newest archive; nil if there is none.
func (c *Client) NewestArchive(ctx context.Context, who SignIn) ([]byte, error) {
	for q := (&pb.ListRecordsRequest{Events: []string{"archived"}, PageSize: 1}); ; {
		answer, err := c.ListRecords(ctx, who, q)
		if err != nil {
			return nil, err
		}
		if found := answer.GetEntries(); len(found) > 0 {
			return found[0].GetRecord(), nil
		}
		if q.PageToken = answer.GetNextPageToken(); q.PageToken == "" {
			return nil, nil
		}
	}
}
