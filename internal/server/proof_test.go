package server_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const getCheckpoint = pb.AuditService_GetCheckpoint_FullMethodName

// Whoever calls without a signed request shows that it holds the key of its sign-in: for this method, on this server, now.
func TestProofOfPossession(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	carol, other := s.Login("carol").SignIn, s.Login("bob").SignIn
	conn := s.Dial()
	bearer := func() context.Context { return stack.Bearer(t.Context(), carol.Token) }
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		code   codes.Code
		reason string
	}{
		{"a good one", stack.Prove(t, carol, getCheckpoint), codes.OK, ""},
		{"none", bearer(), codes.Unauthenticated, "not signed"},
		{"two", func() context.Context {
			md, _ := metadata.FromOutgoingContext(stack.Prove(t, carol, getCheckpoint))
			return metadata.NewOutgoingContext(t.Context(), metadata.Join(md, metadata.MD{"hallpass-possession-bin": md["hallpass-possession-bin"]}))
		}(), codes.Unauthenticated, "not signed"},
		{"garbage", metadata.AppendToOutgoingContext(bearer(), "hallpass-possession-bin", "garbage"), codes.Unauthenticated, "not signed"},
		{"an empty one", stack.WithProof(bearer(), t, nil, nil), codes.Unauthenticated, "not signed"},
		{"without a signature", stack.WithProof(bearer(), t, []byte("x"), nil), codes.Unauthenticated, "not signed"},
		{"too large", stack.WithProof(bearer(), t, bytes.Repeat([]byte("x"), 17<<10), []byte("SSHSIG")), codes.ResourceExhausted, "too large"},
		{"for another method", stack.Prove(t, carol, pb.AuditService_ListRecords_FullMethodName), codes.Unauthenticated, "was made for"},
		{"for no method", stack.Prove(t, carol, ""), codes.Unauthenticated, "was made for"},
		{"for another server", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) { p.ServerName = "ca.example.net" }), codes.Unauthenticated, "for the server"},
		{"of an old clock", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) {
			p.ClientTime = timestamppb.New(time.Now().Add(-6 * time.Minute))
		}), codes.InvalidArgument, "behind"},
		{"of a clock ahead", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) {
			p.ClientTime = timestamppb.New(time.Now().Add(6 * time.Minute))
		}), codes.InvalidArgument, "ahead"},
		{"of no time", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) { p.ClientTime = nil }), codes.InvalidArgument, "client_time"},
		{"naming another key than the one that signed", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) {
			p.PublicKey = other.Key.Marshal()
		}), codes.Unauthenticated, "another key"},
		{"naming no key", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) { p.PublicKey = nil }), codes.InvalidArgument, "key"},
		{"by the key of somebody else", withToken(stack.Prove(t, other, getCheckpoint), carol.Token), codes.Unauthenticated, "bound to another key"},
		{"without the random bytes of the token's nonce", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) {
			p.TokenNonce = nil
		}), codes.Unauthenticated, "bound to another key"},
		{"with too few random bytes", stack.Prove(t, carol, getCheckpoint, func(p *pb.Possession) { p.TokenNonce = make([]byte, 31) }), codes.InvalidArgument, "token_nonce"},
		{"signed as a request for a certificate is", inNamespace(t, carol, ca.RequestNamespace), codes.Unauthenticated, "namespace"},
		{"signed as a file is", inNamespace(t, carol, "file"), codes.Unauthenticated, "namespace"},
	} {
		_, err := pb.NewAuditServiceClient(conn).GetCheckpoint(tt.ctx, &pb.GetCheckpointRequest{})
		if status.Code(err) != tt.code || !strings.Contains(status.Convert(err).Message(), tt.reason) {
			t.Errorf("%s: got %v, want %s with %q", tt.name, err, tt.code, tt.reason)
		}
	}
	refused := 0
	for _, r := range s.Records() {
		if a := r.GetAccessRefused(); a != nil {
			refused++
			if a.GetMethod() != getCheckpoint || a.GetSourceIp() != "127.0.0.1" {
				t.Errorf("record %d: %v", r.GetIndex(), a)
			}
		}
	}
	if refused != 19 {
		t.Errorf("the log has %d refusals, want 19: all but the good one", refused)
	}
}

// A proof of possession is no request for a certificate.
func TestAProofIsNoRequest(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	alice := s.Login("alice").SignIn
	signed, blob := stack.Sign(t, alice, ca.CallNamespace, stack.Request(alice))
	_, err := pb.NewCertificateServiceClient(s.Dial()).Issue(stack.Bearer(t.Context(), alice.Token), &pb.IssueRequest{Request: signed, Sshsig: blob})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("a request signed as a call: got %v, want Unauthenticated, about the namespace", err)
	}
}

// inNamespace returns a call with a proof signed in a namespace.
func inNamespace(t *testing.T, who client.SignIn, namespace string) context.Context {
	t.Helper()
	signed, blob := stack.Sign(t, who, namespace, &pb.Possession{
		PublicKey: who.Key.Marshal(), Method: getCheckpoint, ClientTime: timestamppb.Now(), ServerName: "localhost", TokenNonce: who.TokenNonce,
	})
	return stack.WithProof(stack.Bearer(t.Context(), who.Token), t, signed, blob)
}

// withToken puts another token on a call.
func withToken(ctx context.Context, token string) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	md.Set("authorization", "Bearer "+token)
	return metadata.NewOutgoingContext(ctx, md)
}

// The token travels once, as a bearer token. Whatever else is there is no token, and counted.
func TestTokensInOtherForms(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	carol := s.Login("carol").SignIn
	signed, blob := stack.Sign(t, carol, ca.CallNamespace, &pb.Possession{
		PublicKey: carol.Key.Marshal(), Method: getCheckpoint, ClientTime: timestamppb.Now(), ServerName: "localhost", TokenNonce: carol.TokenNonce,
	})
	conn := s.Dial()
	for _, tt := range []struct {
		name   string
		values []string
		code   codes.Code
	}{
		{"as it should be", []string{"Bearer " + carol.Token}, codes.OK},
		{"with the scheme in lower case (RFC 9110 11.1)", []string{"bearer " + carol.Token}, codes.OK},
		{"absent", nil, codes.Unauthenticated},
		{"twice", []string{"Bearer " + carol.Token, "Bearer " + carol.Token}, codes.Unauthenticated},
		{"without a scheme", []string{carol.Token}, codes.Unauthenticated},
		{"as Basic", []string{"Basic " + carol.Token}, codes.Unauthenticated},
		{"empty", []string{""}, codes.Unauthenticated},
		{"a scheme alone", []string{"Bearer "}, codes.Unauthenticated},
		{"after two spaces", []string{"Bearer  " + carol.Token}, codes.Unauthenticated},
		{"with one after it", []string{"Bearer " + carol.Token + " " + carol.Token}, codes.Unauthenticated},
		{"with a comma", []string{"Bearer " + carol.Token + ", Bearer " + carol.Token}, codes.Unauthenticated},
	} {
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": tt.values})
		_, err := pb.NewAuditServiceClient(conn).GetCheckpoint(stack.WithProof(ctx, t, signed, blob), &pb.GetCheckpointRequest{})
		if status.Code(err) != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	if _, strangers := refusals(s.Records()); strangers != 9 {
		t.Errorf("the log counts %d strangers, want 9", strangers)
	}
	for _, secret := range stack.Secrets(carol.Token) {
		if strings.Contains(s.Output.String(), secret) {
			t.Errorf("the daemon wrote a part of the token")
		}
	}
}
