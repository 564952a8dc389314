package client

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// connectTimeout is how long Dial waits for a daemon. ssh waits for us, and a user for ssh.
	connectTimeout = 2 * time.Second
	// callTimeout bounds a call, but not a stream. The daemon's own deadline is shorter.
	callTimeout = 30 * time.Second
)

// Client is a connection to one daemon. It is safe for concurrent use.
type Client struct {
	address Address
	conn    *grpc.ClientConn
	certs   pb.CertificateServiceClient
	audit   pb.AuditServiceClient
	admin   pb.AdminServiceClient
	// policies is the service of the policies that are and were in force.
	policies pb.PolicyServiceClient
	// now is the clock.
	now func() time.Time
}

// Dial connects to the daemon within two seconds. An Error of Kind Unavailable says that nobody, or not the daemon that was
// meant, answered there.
func Dial(ctx context.Context, address Address) (*Client, error) {
	// passthrough leaves names to the system's resolver, which tries all addresses within the one timeout.
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(address.Host, address.Port),
		grpc.WithTransportCredentials(credentials.NewTLS(address.tlsConfig())),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(bounded),
	)
	if err != nil {
		return nil, &ca.Error{Kind: ca.Invalid, Message: "server address " + address.String(), Err: err}
	}
	c := &Client{
		address: address,
		conn:    conn,
		certs:   pb.NewCertificateServiceClient(conn),
		audit:   pb.NewAuditServiceClient(conn),
		admin:   pb.NewAdminServiceClient(conn),
		now:     time.Now,

		policies: pb.NewPolicyServiceClient(conn),
	}
	if err := c.connect(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// bounded ends calls that a daemon leaves without an answer.
func bounded(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return invoke(ctx, method, in, out, conn, o...)
}

// connect waits until the connection stands, so that what fails later is known to have been an answer that got lost.
func (c *Client) connect(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c.conn.Connect()
	for state := c.conn.GetState(); state != connectivity.Ready; state = c.conn.GetState() {
		if state == connectivity.TransientFailure {
			// A call on a failed connection returns at once and says why it failed.
			_, err := c.certs.Discover(soon, &pb.DiscoverRequest{})
			return c.unreachable(ctx, err)
		}
		if !c.conn.WaitForStateChange(soon, state) {
			return c.unreachable(ctx, soon.Err())
		}
	}
	return nil
}

// unreachable is the error of a daemon that did not answer, unless the caller gave up first.
func (c *Client) unreachable(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := &ca.Error{
		Kind:    ca.Unavailable,
		Message: "cannot reach the CA at " + net.JoinHostPort(c.address.Host, c.address.Port),
		Err:     connectionCause(cause),
	}
	if c.address.Pin == nil && strings.Contains(e.Err.Error(), "x509: ") { // gRPC keeps no more of the error than its text
		e.Err = fmt.Errorf("%w; one that no public CA vouches for is given with its pin, host:port#sha256:<pin>, as hallpassd init prints it", e.Err)
	}
	return e
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// ServerName is the name that was dialled and verified.
func (c *Client) ServerName() string { return c.address.Host }

// Discover asks, without login, where people sign in and which CA keys sign user certificates.
func (c *Client) Discover(ctx context.Context) (*pb.DiscoverResponse, error) {
	answer, err := c.certs.Discover(ctx, &pb.DiscoverRequest{})
	return answer, c.fromStatus(err)
}

// ListEnvironments asks which hosts the CA knows.
func (c *Client) ListEnvironments(ctx context.Context, who SignIn) (*pb.ListEnvironmentsResponse, error) {
	ctx, err := c.prove(ctx, who, pb.CertificateService_ListEnvironments_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.certs.ListEnvironments(ctx, &pb.ListEnvironmentsRequest{})
	return answer, c.fromStatus(err)
}

// GetRecord asks for one record of the log.
func (c *Client) GetRecord(ctx context.Context, who SignIn, index uint64) (*pb.Entry, error) {
	answer, err := c.GetRecordAndReview(ctx, who, index)
	return answer.GetEntry(), err
}

// ListRecords asks for a page of records, newest first.
func (c *Client) ListRecords(ctx context.Context, who SignIn, page *pb.ListRecordsRequest) (*pb.ListRecordsResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_ListRecords_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ListRecords(ctx, page)
	return answer, c.fromStatus(err)
}

// CountRecords asks for sums over a part of the log.
func (c *Client) CountRecords(ctx context.Context, who SignIn, part *pb.CountRecordsRequest) (*pb.CountRecordsResponse, error) {
	ctx, err := c.prove(ctx, who, pb.AuditService_CountRecords_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.CountRecords(ctx, part)
	return answer, c.fromStatus(err)
}

// FollowRecords calls each with every record as it is committed, oldest first, until ctx ends or each fails.
func (c *Client) FollowRecords(ctx context.Context, who SignIn, from *pb.FollowRecordsRequest, each func(*pb.Entry) error) error {
	return c.Follow(ctx, who, from, func(r *pb.FollowRecordsResponse) error { return each(r.GetEntry()) })
}

// Follow does likewise, and tells each of records that were archived too, and of their hashes if those are asked for.
func (c *Client) Follow(ctx context.Context, who SignIn, from *pb.FollowRecordsRequest, each func(*pb.FollowRecordsResponse) error) error {
	ctx, err := c.prove(ctx, who, pb.AuditService_FollowRecords_FullMethodName)
	if err != nil {
		return err
	}
	stream, err := c.audit.FollowRecords(ctx, from)
	if err != nil {
		return c.fromStatus(err)
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return c.fromStatus(err)
		}
		if err := each(answer); err != nil {
			return err
		}
	}
}
