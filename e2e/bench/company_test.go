//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hiddeco/sshsig"
)

// followers is how many follow the log while it is measured what company costs.
const followers = 50

// company is those who read the log while certificates are issued: followers, an export of everything, again and again, and backups.
// They run in this process, so that what their programs do with the records counts as the client's, and takes the same cores.
type company struct {
	daemon                      *daemon
	auditor                     client.SignIn
	followed, exported, backups atomic.Int64
	err                         atomic.Pointer[error]
	running                     sync.WaitGroup
	stop                        context.CancelFunc
}

// invite lets company come, and returns once each of them has been answered.
func (w *world) invite(b *testing.B, d *daemon) *company {
	ctx, cancel := context.WithCancel(b.Context())
	c := &company{daemon: d, auditor: w.signIn(b), stop: cancel}
	var arrived sync.WaitGroup
	arrived.Add(followers)
	var conns []*client.Client
	for range 4 { // a connection carries 32 streams
		conns = append(conns, c.dial(b))
	}
	for i := range followers {
		c.running.Go(func() {
			here := sync.OnceFunc(arrived.Done)
			defer here()
			c.check(ctx, conns[i%2].FollowRecords(ctx, c.auditor, &pb.FollowRecordsRequest{Last: 1}, func(*pb.Entry) error {
				here()
				c.followed.Add(1)
				return nil
			}))
		})
	}
	c.running.Go(func() { c.check(ctx, c.export(ctx, conns[2])) })
	c.running.Go(func() {
		for ctx.Err() == nil {
			_, err := conns[3].Backup(ctx, c.auditor, io.Discard, func(_, _ uint64) {})
			if c.check(ctx, err); err == nil {
				c.backups.Add(1)
			}
		}
	})
	arrived.Wait()
	return c
}

// export reads the log from its end to its beginning, and begins again.
func (c *company) export(ctx context.Context, conn *client.Client) error {
	page := &pb.ListRecordsRequest{PageSize: 1000}
	for {
		answer, err := conn.ListRecords(ctx, c.auditor, page)
		if err != nil {
			return err
		}
		c.exported.Add(int64(len(answer.GetEntries())))
		page.PageToken = answer.GetNextPageToken()
	}
}

// check keeps the first error that is not that of the end.
func (c *company) check(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		c.err.CompareAndSwap(nil, &err)
		c.stop()
	}
}

// leave ends what company does and says what it got.
func (c *company) leave(b *testing.B) string {
	c.stop()
	c.running.Wait()
	if err := c.err.Load(); err != nil {
		b.Fatal(*err)
	}
	return fmt.Sprintf("%d records to %d followers, %d exported, %d backups", c.followed.Load(), followers, c.exported.Load(), c.backups.Load())
}

func (c *company) dial(b *testing.B) *client.Client {
	conn, err := client.Dial(b.Context(), c.daemon.address)
	must(b, err)
	b.Cleanup(func() { _ = conn.Close() })
	return conn
}

// signIn signs somebody in whom the example policy makes auditor and admin.
func (w *world) signIn(b *testing.B) client.SignIn {
	who := newPerson(b, 1<<20)
	token, err := w.idToken(who, time.Now(), "security", "ca-admins")
	must(b, err)
	return client.SignIn{Token: token, TokenNonce: who.random, Key: who.key.PublicKey(), Sign: who.sign}
}

func (p *person) sign(_ context.Context, namespace string, message []byte) ([]byte, error) {
	s, err := sshsig.Sign(bytes.NewReader(message), p.key, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, err
	}
	return s.Marshal(), nil
}

// measureCompany measures the same point alone and in company, in turns, and says what company costs.
func (w *world) measureCompany(b *testing.B, d *daemon) string {
	p := point{"reused", 64, 8000}
	var alone, together sample
	var got string
	for range rounds {
		w.warm(b, d, p)
		alone.add(w.measure(b, d, p))
		c := w.invite(b, d)
		w.warm(b, d, p)
		together.add(w.measure(b, d, p))
		got = c.leave(b)
	}
	return fmt.Sprintf("company  %d followers, an export of everything and backups: %.0f certs/s instead of %.0f (%+.1f%%), p50 %.2f ms instead of %.2f\n         they got %s in the last round\n",
		followers, together.rate(), alone.rate(), 100*(together.rate()/alone.rate()-1),
		milliseconds(together.percentile(50)), milliseconds(alone.percentile(50)), got)
}

// memory returns what a process holds in memory by itself, without the files that it mapped, in MB.
func (p *process) memory(b *testing.B) float64 {
	kb, err := strconv.ParseFloat(statusField(b, p.cmd.Process.Pid, "RssAnon"), 64)
	must(b, err)
	return kb / 1024
}
