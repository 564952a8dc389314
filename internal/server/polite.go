package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/time/rate"
)

const (
	// rush is how many requests for certificates at once mean that people wait for them.
	rush = 8
	// readRate is how many records a second all readers of the log get together meanwhile, and readBurst how many at once: about a
	// twentieth of what a machine with two cores can do.
	readRate  = 2000
	readBurst = 500
	// countedRecords is how many records that are counted, and not sent, stand for one.
	countedRecords = 10
	// chunkRecords is what a chunk of a backup counts for: it is read, encrypted and sent as it is.
	chunkRecords = 64
	// followPause is how long a follower waits for more records meanwhile, so that it does not wake for each commit.
	followPause = 100 * time.Millisecond
)

// polite lets certificates go before those who read the log: followers, lists, exports and backups. It delays them and leaves nothing out.
type polite struct {
	issuing *atomic.Int64
	records *rate.Limiter
}

func newPolite(issuing *atomic.Int64) *polite {
	if issuing == nil {
		issuing = new(atomic.Int64)
	}
	return &polite{issuing: issuing, records: rate.NewLimiter(readRate, readBurst)}
}

// issue counts a request for a certificate until the function that it returns is called.
func (p *polite) issue() (end func()) {
	p.issuing.Add(1)
	return func() { p.issuing.Add(-1) }
}

func (p *polite) rushed() bool { return p.issuing.Load() > rush }

// read is told that somebody read n records, and returns when more may be read.
func (p *polite) read(ctx context.Context, n int) error {
	for ; n > 0 && p.rushed(); n -= readBurst {
		if err := p.records.WaitN(ctx, min(n, readBurst)); err != nil {
			return &ca.Error{Kind: ca.Unavailable, Message: "certificates go before those who read the log, and many wait for one: try again later", Err: err}
		}
	}
	return nil
}

// pause lets records gather for a follower that has read all there are.
func (p *polite) pause(ctx context.Context) {
	if !p.rushed() {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(followPause):
	}
}
