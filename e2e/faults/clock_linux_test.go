package faults_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"google.golang.org/grpc"
)

// A clock is that of a daemon in this process, and what must follow from how it was set.
type clock struct {
	stack  *stack.Stack
	at     atomic.Int64 // Unix nanoseconds
	newest time.Time    // of the records
	opened time.Time    // what the log goes by since the start
}

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

// start starts the daemon anew, which is somebody's word that the clock is right.
func (c *clock) start() {
	c.stack.Stop()
	c.stack.Run()
	if c.opened = c.now(); c.opened.Before(c.newest) {
		c.opened = c.newest
	}
}

// withClock makes an authority whose daemon runs in this process, by a clock that the test sets.
func withClock(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	c := &clock{stack: stack.New(t, trialPolicy)}
	c.stack.Now = c.now
	c.newest = time.Now().AddDate(0, 1, 0) // no jump leads to before the release was made; the first start records the policy
	c.at.Store(c.newest.UnixNano())
	return &authority{dir: c.stack.Dir, idp: c.stack.IDP, clock: c}
}

// jumps are how a clock is set: by how much, or to what.
var jumps = []struct {
	by time.Duration
	to time.Time
}{
	{by: time.Minute},
	{by: -time.Minute},
	{by: 4 * time.Minute},
	{by: -4 * time.Minute},
	{by: 6 * time.Minute},
	{by: -6 * time.Minute},
	{by: 23 * time.Hour},
	{by: -23 * time.Hour},
	{by: 25 * time.Hour},
	{by: -25 * time.Hour},
	{to: time.Date(2028, 2, 29, 23, 59, 59, 0, time.UTC)},
	{to: time.Date(2038, 1, 19, 3, 14, 7, 0, time.UTC)}, // 2^31 - 1
	{to: time.Date(2106, 2, 7, 6, 28, 15, 0, time.UTC)}, // 2^32 - 1
}

// near is how many of them are not far ahead.
const near = 10

// clockJumps sets the clock again and again; sometimes the daemon is started then. Each time a certificate is asked for: it is issued
// with a window that follows from one reading of the clock, or nothing is, if the clock is behind the newest record or ran ahead of
// the time that passed.
func clockJumps(t *testing.T, a *authority, random *rand.Rand) {
	c := a.clock
	c.start()
	for n := range 12 {
		among := jumps
		if n < 8 {
			among = jumps[:near] // from far ahead there is no way back
		}
		jump := among[random.IntN(len(among))]
		at := jump.to
		if at.IsZero() {
			at = c.now().Add(jump.by)
		}
		c.at.Store(at.UnixNano())
		if random.IntN(3) == 0 {
			c.start()
		}
		c.ask(t, a, c.stack.Dial())
	}
	c.stack.Stop()
}

// ask asks for a certificate, which must be issued or not.
func (c *clock) ask(t *testing.T, a *authority, conn *grpc.ClientConn) {
	t.Helper()
	now := c.now()
	r, err := a.signInAt(t, "alice", now).askAt("app1.staging.example.com", now)
	if err != nil {
		t.Fatal(err)
	}
	before := a.seen.counts()
	if _, err := a.seen.send(t.Context(), conn, r); err != nil {
		t.Fatal(err)
	}
	granted := a.seen.counts().granted > before.granted
	want := c.newest.Sub(now) <= 5*time.Minute && now.Sub(c.opened) <= 24*time.Hour
	if granted != want {
		t.Errorf("at %s, with records up to %s and a log opened at %s: a certificate: %v, want %v", now, c.newest, c.opened, granted, want)
	}
	if !granted {
		return
	}
	if c.newest.Before(now) {
		c.newest = now
	}
	cert, err := a.seen.granted[before.granted].parse()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := [2]uint64{cert.ValidAfter, cert.ValidBefore}, [2]uint64{uint64(now.Unix() - 60), uint64(now.Unix() + 7200)}; got != want {
		t.Errorf("at %s: a certificate from %d to %d, want %d to %d", now, got[0], got[1], want[0], want[1])
	}
}
