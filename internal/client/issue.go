package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Issued is a certificate that was checked against what was asked, and the decision behind it.
type Issued struct {
	Certificate *ssh.Certificate
	// Index is that of the record.
	Index    uint64
	Decision *pb.Decision
	Policy   *pb.PolicyRef
	// Restored tells that the log was restored since it was seen last, as its key says; nil if it was not. The user is to be told, once.
	Restored *audit.Gap
}

// Issue asks for a certificate. Of the request, Login, Host, TTL, Reason, Rule and BreakGlass count. If the answer gets lost,
// the same bytes are sent once more, which gives the same record and the same serial. A *ForkError says that the CA showed
// another log than before.
func (c *Client) Issue(ctx context.Context, who SignIn, r ca.Request) (*Issued, error) {
	request, sshsig, err := c.sign(ctx, who, r)
	if err != nil {
		return nil, err
	}
	seen, size, err := who.Log.Memory.load()
	if err != nil {
		return nil, fmt.Errorf("the checkpoint of the log that was kept cannot be read: %w", err)
	}
	message := &pb.IssueRequest{Request: request, Sshsig: sshsig, LastSize: size}
	answer, cert, restored, err := c.issue(ctx, who, r, message, seen)
	if err != nil {
		return nil, err
	}
	err = who.Log.Memory.remember(ctx, seen, answer, func(newest []byte) (*pb.IssueResponse, error) {
		known, err := audit.ReadCheckpoint(newest)
		if err != nil {
			return nil, err
		}
		message.LastSize = known.Size
		answer, cert, restored, err = c.issue(ctx, who, r, message, newest)
		return answer, err
	})
	if err != nil {
		return nil, err
	}
	return &Issued{cert, answer.GetIndex(), answer.GetDecision(), answer.GetPolicy(), restored}, nil
}

// issue sends a request and checks what comes back: the certificate, its record, and that the log goes on from what was seen of it.
func (c *Client) issue(ctx context.Context, who SignIn, r ca.Request, message *pb.IssueRequest, seen []byte) (
	answer *pb.IssueResponse, cert *ssh.Certificate, restored *audit.Gap, err error,
) {
	authorized := authorize(ctx, who)
	answer, err = c.certs.Issue(authorized, message)
	if err = c.fromStatus(err); answerLost(err) && ctx.Err() == nil {
		answer, err = c.certs.Issue(authorized, message)
		err = c.fromStatus(err)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	cert, err = verify(answer, who, r, c.now())
	if err == nil {
		err = verifyRecord(answer, message.GetRequest(), cert, who.Log)
	}
	if err == nil {
		restored, err = c.continued(ctx, who, seen, answer)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("the CA answered with a certificate that must not be used: %w", err)
	}
	return answer, cert, restored, nil
}

// DryRun asks what Issue would decide. Nothing is recorded.
func (c *Client) DryRun(ctx context.Context, who SignIn, r ca.Request) (*pb.DryRunResponse, error) {
	request, sshsig, err := c.sign(ctx, who, r)
	if err != nil {
		return nil, err
	}
	answer, err := c.certs.DryRun(authorize(ctx, who), &pb.DryRunRequest{Request: request, Sshsig: sshsig})
	return answer, c.fromStatus(err)
}

// sign builds the bytes of a request and signs them with the key to be certified.
func (c *Client) sign(ctx context.Context, who SignIn, r ca.Request) (request, sshsig []byte, err error) {
	host, err := ca.CanonicalHost(r.Host)
	if err != nil {
		return nil, nil, err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails: crypto/rand
	message := &pb.CertificateRequest{
		PublicKey:  who.Key.Marshal(),
		Login:      r.Login,
		Host:       host,
		Reason:     r.Reason,
		Rule:       r.Rule,
		BreakGlass: r.BreakGlass,
		ClientTime: timestamppb.New(c.now()),
		Nonce:      nonce,
		ServerName: c.ServerName(),
		TokenNonce: who.TokenNonce,
	}
	if r.TTL != 0 {
		message.Ttl = durationpb.New(r.TTL)
	}
	if request, err = proto.Marshal(message); err != nil {
		return nil, nil, fmt.Errorf("encode request: %w", err)
	}
	if sshsig, err = who.Sign(ctx, ca.RequestNamespace, request); err != nil {
		return nil, nil, err
	}
	return request, sshsig, nil
}

// answerLost tells an answer that never arrived from one that says no: the daemon's own errors are Refusals.
func answerLost(err error) bool {
	_, refused := errors.AsType[*Refusal](err)
	return !refused && ca.KindOf(err) == ca.Unavailable
}
