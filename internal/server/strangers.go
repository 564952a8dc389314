package server

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// strangerGrace is how long after its last call the connection of a stranger is left alone: the answer has yet to leave.
const strangerGrace = time.Second

// limitedConn is a connection that counts, and that ends after a while if nobody is known on it by then. Without that, whoever
// connects could keep its place for ever by a call now and then that needs no token.
type limitedConn struct {
	net.Conn
	release func()
	age     time.Duration
	opened  time.Time

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	known bool
	calls int       // under way
	last  time.Time // when the last call ended
}

func newLimitedConn(conn net.Conn, age time.Duration, release func()) *limitedConn {
	c := &limitedConn{Conn: conn, release: sync.OnceFunc(release), age: age, opened: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(age, c.expire)
	return c
}

// expire closes the connection of a stranger. A call that is under way may end first, but it cannot last longer than calls do, and
// another cannot begin in its stead for ever.
func (c *limitedConn) expire() {
	c.mu.Lock()
	wait := !c.known && (c.calls > 0 || time.Since(c.last) < strangerGrace) && time.Since(c.opened) < c.age+requestDeadline
	if wait {
		c.timer.Reset(strangerGrace)
	}
	known := c.known
	c.mu.Unlock()
	if !known && !wait {
		_ = c.Close()
	}
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.mu.Lock()
	c.timer.Stop()
	c.mu.Unlock()
	defer c.release()
	return c.Conn.Close()
}

func (c *limitedConn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
}

func (c *limitedConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.last = c.calls-1, time.Now()
}

// meet says that an identity was verified on the connection, which may last from now on.
func (c *limitedConn) meet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
	c.timer.Stop()
}

// countedTLS is TLS whose calls find the connection that they came by.
type countedTLS struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (t countedTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if limited, ok := raw.(*limitedConn); ok && err == nil {
		info = countedInfo{info, limited}
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (t countedTLS) Clone() credentials.TransportCredentials {
	return countedTLS{t.TransportCredentials.Clone()}
}

// countedInfo is what gRPC tells a call of its connection.
type countedInfo struct {
	credentials.AuthInfo
	conn *limitedConn
}

// connOf returns the connection of a call, or nil.
func connOf(ctx context.Context) *limitedConn {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, _ := p.AuthInfo.(countedInfo)
	return info.conn
}

// underWay keeps the connection of a call open until the function that it returns is called.
func underWay(ctx context.Context) (ended func()) {
	conn := connOf(ctx)
	if conn == nil {
		return func() {}
	}
	conn.begin()
	return conn.end
}

// meet lets the connection of a call last if the outcome of the call shows that its caller is known.
func meet(ctx context.Context, err error) {
	if conn := connOf(ctx); conn != nil && (err == nil || ca.KindOf(err) == ca.Denied || ca.KindOf(err) == ca.Needs) {
		conn.meet()
	}
}
