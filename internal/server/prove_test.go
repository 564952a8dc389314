package server_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The proofs of answers are checked here by hand, as somebody would who has another helper.
func TestEveryAnswerIsProven(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	alice := s.Login("alice").SignIn
	certs := pb.NewCertificateServiceClient(s.Dial())
	seen := audit.Checkpoint{}
	for i := range 5 {
		request, sig := stack.Sign(t, alice, ca.RequestNamespace, stack.Request(alice))
		for range 2 { // and once more, as if the answer had been lost
			answer, err := certs.Issue(stack.Bearer(t.Context(), alice.Token), &pb.IssueRequest{Request: request, Sshsig: sig, LastSize: seen.Size})
			if err != nil {
				t.Fatal(err)
			}
			checkpoint, err := audit.OpenCheckpoint(answer.GetCheckpoint(), alice.Log.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			size := int64(checkpoint.Size)
			if err := tlog.CheckRecord(treeHashes(t, answer.GetInclusionProof()), size, checkpoint.Root, int64(answer.GetIndex()), tlog.RecordHash(answer.GetRecord())); err != nil {
				t.Errorf("answer %d: %v", i, err)
			}
			if seen.Size > 0 && seen.Size < checkpoint.Size {
				if err := tlog.CheckTree(treeHashes(t, answer.GetConsistencyProof()), size, checkpoint.Root, int64(seen.Size), seen.Root); err != nil {
					t.Errorf("answer %d: %v", i, err)
				}
			}
			record, err := audit.Parse(answer.GetRecord())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(answer.GetCertificate(), record.GetDecided().GetToBeSigned()) || len(record.GetDecided().GetToBeSigned()) == 0 {
				t.Errorf("answer %d: its record grants something else", i)
			}
			seen = checkpoint
		}
	}
	// Somebody who says to have seen more than there is gets a certificate, no proof, and a word in the daemon's own log.
	request, sig := stack.Sign(t, alice, ca.RequestNamespace, stack.Request(alice))
	answer, err := certs.Issue(stack.Bearer(t.Context(), alice.Token), &pb.IssueRequest{Request: request, Sshsig: sig, LastSize: 1 << 62})
	if err != nil || len(answer.GetConsistencyProof()) != 0 || !strings.Contains(s.Output.String(), "saw more of the log than there is") {
		t.Errorf("got %v, %v\n%s", answer, err, s.Output)
	}
}

func treeHashes(t *testing.T, wire [][]byte) (out []tlog.Hash) {
	t.Helper()
	for _, h := range wire {
		if len(h) != tlog.HashSize {
			t.Fatalf("a hash has %d bytes", len(h))
		}
		out = append(out, tlog.Hash(h))
	}
	return out
}

func TestProofsAreGivenToWhoAsksWell(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	auditor := s.Forge("alice", map[string]any{"groups": []string{"security"}})
	service := pb.NewAuditServiceClient(s.Dial())
	checkpoint, err := s.Client().GetCheckpoint(t.Context(), auditor)
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.OpenCheckpoint([]byte(checkpoint.GetCheckpoint()), auditor.Log.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		from, to uint64
		code     codes.Code
	}{
		{"to the newest", 1, 0, codes.OK},
		{"between two sizes", 1, 2, codes.OK},
		{"of a size with itself", c.Size, c.Size, codes.OK},
		{"from nothing", 0, 1, codes.InvalidArgument},
		{"back", 2, 1, codes.InvalidArgument},
		{"from beyond the end", 1 << 40, 0, codes.NotFound},
		{"to beyond the end", 1, 1 << 63, codes.NotFound},
		{"from further than numbers go", 1<<64 - 1, 0, codes.NotFound},
	} {
		_, err := service.ProveConsistency(stack.Prove(t, auditor, pb.AuditService_ProveConsistency_FullMethodName), &pb.ProveConsistencyRequest{OldSize: tt.from, NewSize: tt.to})
		if status.Code(err) != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	for index, code := range map[uint64]codes.Code{0: codes.OK, c.Size - 1: codes.OK, 1 << 40: codes.NotFound, 1<<64 - 1: codes.NotFound} {
		_, err := service.ProveRecord(stack.Prove(t, auditor, pb.AuditService_ProveRecord_FullMethodName), &pb.ProveRecordRequest{Index: index})
		if status.Code(err) != code {
			t.Errorf("record %d: got %v, want %s", index, err, code)
		}
	}
	for _, digest := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		stream, err := service.GetBlob(stack.Prove(t, auditor, pb.AuditService_GetBlob_FullMethodName), &pb.GetBlobRequest{Digest: digest})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("a digest of %d bytes: got %v, want InvalidArgument", len(digest), err)
		}
	}
}

// The helper's own calls, against a real daemon.
func TestTheHelperChecksProofs(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	auditor, c := s.Forge("alice", map[string]any{"groups": []string{"security", "developers"}}), s.Client()
	older, err := c.GetCheckpoint(t.Context(), auditor)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := c.Issue(t.Context(), auditor, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ProveConsistency(t.Context(), auditor, []byte(older.GetCheckpoint())); err != nil {
		t.Error(err)
	}
	proven, err := c.ProveRecord(t.Context(), auditor, issued.Index)
	if err != nil {
		t.Fatal(err)
	}
	r := &pb.Record{}
	if err := proto.Unmarshal(proven.GetEntry().GetRecord(), r); err != nil || !bytes.HasPrefix(issued.Certificate.Marshal(), r.GetDecided().GetToBeSigned()) {
		t.Errorf("record %d is %v, %v", issued.Index, r, err)
	}
	snapshot, err := c.GetBlob(t.Context(), auditor, [32]byte(r.GetDecided().GetCaller().GetSnapshot()))
	if err != nil || !bytes.Equal(snapshot, proven.GetEntry().GetSnapshot()) {
		t.Errorf("the identity: %x, %v", snapshot, err)
	}
	// Whoever pinned another log takes nothing of this one.
	other, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	auditor.Log = client.Log{PublicKey: other.Verifier()}
	if _, err := c.Issue(t.Context(), auditor, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); err == nil || !strings.Contains(err.Error(), "not that of the log known since login") {
		t.Errorf("issue: %v", err)
	}
	if _, err := c.ProveRecord(t.Context(), auditor, 0); err == nil {
		t.Error("a record of another log was taken")
	}
}
