package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// requestIDKey is the header by which a caller can name a request to the operators.
const requestIDKey = "hallpass-request-id"

// observeUnary gives each call an id, turns errors into statuses and panics into errors, and logs once.
func (s *Server) observeUnary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	defer underWay(ctx)()
	ctx = s.begin(ctx, info.FullMethod)
	id, begin := newRequestID(), s.cfg.Now()
	_ = grpc.SetHeader(ctx, metadata.Pairs(requestIDKey, id)) // fails only once headers are sent, which they are not
	var out any
	err := s.survive(info.FullMethod, id, func() (err error) {
		out, err = handle(ctx, in)
		return err
	})
	return out, s.finish(ctx, info.FullMethod, id, begin, err)
}

// observeStream does the same for streams.
func (s *Server) observeStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	defer underWay(stream.Context())()
	ctx := s.begin(stream.Context(), info.FullMethod)
	id, begin := newRequestID(), s.cfg.Now()
	_ = stream.SetHeader(metadata.Pairs(requestIDKey, id))
	err := s.survive(info.FullMethod, id, func() error { return handle(srv, streamWith{stream, ctx}) })
	return s.finish(ctx, info.FullMethod, id, begin, err)
}

// survive turns a panic into an error. The stack goes to the daemon's own log, never to the caller.
func (s *Server) survive(method, id string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.cfg.Logger.Error("panic", "method", method, "request_id", id, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = &ca.Error{Kind: ca.Internal, Message: "panic"}
		}
	}()
	return f()
}

// finish logs a call and puts its error on the wire.
func (s *Server) finish(ctx context.Context, method, id string, begin time.Time, err error) error {
	wire := err
	// Only an error that is a status itself goes out as it is: one that is the cause of another is nobody's business.
	if _, isStatus := err.(interface{ GRPCStatus() *status.Status }); !isStatus {
		wire = toStatus(err, id)
	}
	code := status.Code(wire)
	s.cfg.Observer.End(ctx, method, id, code.String())
	level := slog.LevelInfo
	// Strangers do not fill the log of the operators, and a certificate is in that of the CA.
	if err == nil && (methods[method].callers == anybody || method == pb.CertificateService_Issue_FullMethodName) {
		level = slog.LevelDebug
	}
	if err == nil && !s.cfg.Logger.Enabled(ctx, level) {
		return wire
	}
	attrs := []slog.Attr{
		slog.String("method", method), slog.String("request_id", id), slog.String("peer", peerAddr(ctx).String()),
		slog.Duration("took", s.cfg.Now().Sub(begin)), slog.String("code", code.String()),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		switch code {
		case codes.Internal, codes.Unknown, codes.Unavailable:
			if ctx.Err() == nil { // else the caller hung up, and that is no fault of ours
				level = slog.LevelError
			}
		}
	}
	s.cfg.Logger.LogAttrs(ctx, level, "call", attrs...)
	return wire
}

// guardUnary lets a call through if its method is in the table.
func (s *Server) guardUnary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := guard(info.FullMethod); err != nil {
		return nil, err
	}
	return handle(ctx, in)
}

// guardStream does the same for streams, and ends them once the daemon drains, so that none holds a shutdown up.
func (s *Server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := guard(info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.draining, func() { cancel(errDraining) })
	defer stop()
	err := handle(srv, streamWith{stream, ctx})
	if errors.Is(context.Cause(ctx), errDraining) {
		return errDraining
	}
	return err
}

// errDraining tells the caller of a stream that it is not at fault.
var errDraining = ca.Errorf(ca.Unavailable, "the daemon is shutting down: connect again")

// streamWith is a stream with another context.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWith) Context() context.Context { return s.ctx }

// bound sets the deadline of a call when its headers arrive, so that a message which never comes whole holds nothing up either.
// A stream that follows the log may last: its token ends it.
func bound(ctx context.Context, info *tap.Info) (context.Context, error) {
	if m := methods[info.FullMethodName]; m.lasting {
		return ctx, nil
	}
	bounded, cancel := context.WithTimeout(ctx, requestDeadline)
	context.AfterFunc(ctx, cancel) // the call ended
	return bounded, nil
}

func guard(fullMethod string) error {
	m, ok := methods[fullMethod]
	if !ok {
		return ca.Errorf(ca.Denied, "method %q is not one that anybody may call", fullMethod)
	}
	if m.callers == nobody {
		return ca.Errorf(ca.Denied, "%s is not served: a stranger could hold it open for nothing", fullMethod)
	}
	return nil
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
