package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
)

// Limits of the transport. A request is about 1.5 KB; a page of a thousand records stays below gRPC's own 4 MB.
const (
	maxMessage        = 64 << 10
	maxMetadata       = 32 << 10 // an ID token of 16 KiB, and the rest
	maxStreams        = 32       // at once, of one connection
	maxConnections    = 4096
	streamWorkers     = 128 // goroutines that are kept for calls, with the stacks that these need; more calls get one of their own
	maxOfAddress      = 512 // connections at once from one address: an office behind one
	handshakeTimeout  = 5 * time.Second
	requestDeadline   = 30 * time.Second
	maxConnectionIdle = 5 * time.Minute
	strangerAge       = 30 * time.Second // what a connection may last on which nobody is known
)

// Config is what a Server needs. All fields are required unless they say otherwise.
type Config struct {
	CA          *ca.CA
	Store       store.Store
	Certificate tls.Certificate
	Limiter     *Limiter
	// LogPublicKey is the public key of the log, in the format of signed notes.
	LogPublicKey string
	// Discovery is told to everybody.
	Discovery func() *pb.DiscoverResponse
	// Environments are those of the policy in force.
	Environments func() ([]*pb.Environment, ca.PolicyRef)
	// Role says whether the policy in force gives a caller the role "auditor" or "admin". An error is a no.
	Role func(ctx context.Context, role string, caller ca.Caller, now time.Time) (bool, ca.PolicyRef, error)
	// PolicyFiles are those of a policy that was once in force, by path.
	PolicyFiles func(ctx context.Context, ref ca.PolicyRef) (map[string][]byte, error)
	// ReloadPolicy reads the source of the policy now, and says what is in force then and whether that is another than before.
	ReloadPolicy func(ctx context.Context) (ref ca.PolicyRef, changed bool, err error)
	// AcceptPolicy lets a commit come into force although history does not lead there, on the word of an admin.
	AcceptPolicy func(ctx context.Context, admin ca.Caller, revision, reason string) (ca.PolicyRef, error)
	// Backup records that an admin is given a copy of the log, and returns the copy.
	Backup func(ctx context.Context, admin ca.Caller, sourceIP string) (*store.Backup, error)
	// EraseIdentity erases the snapshots of a person on the word of an admin; see store.Recorder.
	EraseIdentity func(ctx context.Context, admin ca.Caller, issuer, subject, reason string) (erased int, index uint64, err error)
	// MarkReviewed records that somebody looked at a decision that asks for review; see store.Recorder.
	MarkReviewed func(ctx context.Context, reviewer ca.Caller, sourceIP string, index uint64, comment string) (uint64, error)
	// RefuseAccess records that a known identity was refused a method.
	RefuseAccess func(ctx context.Context, caller ca.Caller, method, sourceIP string, policy ca.PolicyRef, refusal *ca.Error) error
	// Where compiles a condition about records; what is wrong with it is for whoever wrote it.
	Where func(expression string) (Condition, error)
	// Issuing counts the requests for certificates that are under way, for whoever wants to know; default: a counter of its own.
	Issuing *atomic.Int64
	// StrangerAge is how long a connection may last on which no identity was verified; default 30 seconds.
	StrangerAge time.Duration
	// Observer is told of calls; default: nobody is.
	Observer Observer
	Now      func() time.Time
	Logger   *slog.Logger
}

// Condition tells whether a record fits. It may ask for the identity snapshot that the record cites, which is nil if it was erased.
// If it cannot tell for this record, it says why.
type Condition func(ctx context.Context, r *pb.Record, snapshot func() ([]byte, error)) (fits bool, failure string, err error)

// Server answers the API over TLS 1.3.
type Server struct {
	cfg      Config
	grpc     *grpc.Server
	health   *health.Server
	draining context.Context // done once Shutdown begins
	drain    context.CancelFunc
	// directory finds the identities of the log by email.
	directory *store.Directory
	polite    *polite
	listener  atomic.Pointer[limitedListener] // nil before Serve
	followers atomic.Int64
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, health: health.NewServer(), directory: store.NewDirectory(cfg.Store), polite: newPolite(cfg.Issuing)}
	s.cfg.Observer = s.cfg.Observer.withDefaults()
	if s.cfg.StrangerAge == 0 {
		s.cfg.StrangerAge = strangerAge
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.Creds(countedTLS{credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{cfg.Certificate},
			MinVersion:   tls.VersionTLS13,
		})}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.InTapHandle(bound),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxConnectionIdle, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.observeUnary, s.guardUnary),
		grpc.ChainStreamInterceptor(s.observeStream, s.guardStream),
	)
	pb.RegisterCertificateServiceServer(s.grpc, certificateService{Server: s})
	pb.RegisterAuditServiceServer(s.grpc, auditService{Server: s})
	pb.RegisterPolicyServiceServer(s.grpc, policyService{Server: s})
	pb.RegisterAdminServiceServer(s.grpc, adminService{Server: s})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	return s
}

// Serve answers on l until Shutdown. It returns nil after one.
func (s *Server) Serve(l net.Listener) error {
	limited := newLimitedListener(l, maxConnections, maxOfAddress, s.cfg.StrangerAge)
	s.listener.Store(limited)
	err := s.grpc.Serve(limited)
	if errors.Is(err, grpc.ErrServerStopped) || s.draining.Err() != nil {
		return nil
	}
	return err
}

// Shutdown stops taking calls, lets those under way end, and cuts them off when ctx is done.
func (s *Server) Shutdown(ctx context.Context) {
	s.drain()
	s.health.Shutdown()
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// peerAddr returns the address of the peer. It comes from the connection, never from a header.
func peerAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	return addrOf(p.Addr)
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// network is what limits count by: an IPv4 address, and the /64 of an IPv6 one, of which a single machine has as many addresses
// as it likes.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() && !addr.Is4In6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil { // no address: all without one share a limit
		return netip.Prefix{}
	}
	return prefix
}
