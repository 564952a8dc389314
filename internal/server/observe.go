package server

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Observer is told of calls, by many at once and while callers wait, so it MUST NOT wait for anything. Fields that are nil are told
// nothing. Calls that gRPC itself refuses (an unknown method, a message that is none) are not told of.
type Observer struct {
	// Begin is told that a call begins, and returns the context that it goes on with. The method is its full name. Traceparent is what
	// the caller says of a trace (W3C Trace Context 3.2): 55 bytes that may hold anything, or empty.
	Begin func(ctx context.Context, method, traceparent string) context.Context
	// End is told, with that context, that the call ended, and the name of the gRPC code with which it did. The request id is the one
	// that the caller was told.
	End func(ctx context.Context, method, requestID, code string)
}

func (o Observer) withDefaults() Observer {
	if o.End == nil {
		o.End = func(context.Context, string, string, string) {}
	}
	return o
}

const (
	traceparentKey = "traceparent"
	// traceparentLength is that of version 00. A later one would begin like it, and be longer.
	traceparentLength = 55
)

// begin tells the observer of a call.
func (s *Server) begin(ctx context.Context, method string) context.Context {
	if s.cfg.Observer.Begin == nil {
		return ctx
	}
	parent := ""
	if values := metadata.ValueFromIncomingContext(ctx, traceparentKey); len(values) == 1 && len(values[0]) == traceparentLength {
		parent = values[0]
	}
	return s.cfg.Observer.Begin(ctx, method, parent)
}

// Methods are the full names of all methods that are served.
func Methods() []string {
	var served []string
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if methods[name].callers != nobody {
			served = append(served, name)
		}
	}
	return served
}

// Codes are the names of the gRPC codes that calls end with.
func Codes() []string {
	all := []string{codes.OK.String(), codes.Canceled.String(), codes.DeadlineExceeded.String(), codes.Internal.String()}
	for _, code := range kindCodes {
		all = append(all, code.String())
	}
	slices.Sort(all)
	return all
}

// Stats is how many are connected.
type Stats struct {
	// Connections are those that are open, TurnedAway those that were closed at once because their address had too many.
	Connections int
	TurnedAway  uint64
	// Followers are the calls under way that follow the log.
	Followers int
}

// Stats returns how many are connected now.
func (s *Server) Stats() Stats {
	stats := Stats{Followers: int(s.followers.Load())}
	if l := s.listener.Load(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		stats.Connections, stats.TurnedAway = l.all, l.turnedAway
	}
	return stats
}
