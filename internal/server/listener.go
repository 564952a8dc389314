package server

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// limitedListener accepts at most so many connections at a time; further ones wait in the backlog of the kernel. It closes at
// once what one address has above its own limit, so that nobody takes the places of all others.
type limitedListener struct {
	net.Listener
	slots     chan struct{}
	ofAddress int
	strangers time.Duration // how long a connection may last on which nobody is known
	closed    chan struct{}
	once      sync.Once

	mu         sync.Mutex // guards what follows
	open       map[netip.Prefix]int
	all        int    // that are open
	turnedAway uint64 // closed at once
}

func newLimitedListener(l net.Listener, n, ofAddress int, strangers time.Duration) *limitedListener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, n), ofAddress: ofAddress, strangers: strangers,
		closed: make(chan struct{}), open: map[netip.Prefix]int{},
	}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		from := network(addrOf(conn.RemoteAddr()))
		if l.enter(from) {
			return newLimitedConn(conn, l.strangers, func() { l.leave(from); <-l.slots }), nil
		}
		_ = conn.Close() // nobody waits for an answer
	}
}

// enter counts a connection, unless its address has too many.
func (l *limitedListener) enter(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= l.ofAddress {
		l.turnedAway++
		return false
	}
	l.open[from]++
	l.all++
	return true
}

func (l *limitedListener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
