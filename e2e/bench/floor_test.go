//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// floor is what the parts of a certificate cost by themselves: CPU, but for the waiting at the end.
type floor struct {
	echo      time.Duration // of a server that answers the same messages over the same TLS and gRPC
	client    time.Duration // of its client
	key       time.Duration // the signature over the request is parsed and verified
	cached    time.Duration // a token that was seen is found by its digest
	verified  time.Duration // a token that was not is verified, and its claims are decoded
	decision  time.Duration // of the policy
	signature time.Duration // the certificate is laid out and signed
	record    time.Duration // it is encoded and hashed
	commit    time.Duration // its share of a bbolt transaction of 64

	echoed time.Duration // until the echo comes, for a single client
	synced time.Duration // until the disk has 4 KB
}

// server is the CPU that a daemon needs at least for a certificate.
func (f floor) server(tokens string) time.Duration {
	token := f.cached
	if tokens == "fresh" {
		token = f.verified
	}
	return f.echo + f.key + token + f.decision + f.signature + f.record + f.commit
}

// latency is what a lone caller waits for at least: bbolt syncs twice.
func (f floor) latency(tokens string) time.Duration {
	return f.echoed + f.server(tokens) - f.echo + 2*f.synced
}

// rate is how many certificates the cores can give in a second, or so many callers can wait for.
func (f floor) rate(p point) float64 {
	return min(float64(p.clients)/f.latency(p.tokens).Seconds(), cores()/(f.server(p.tokens)+f.client).Seconds())
}

func (f floor) describe() string {
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1000) }
	return "floor, CPU us: echo " + us(f.echo) + " + possession " + us(f.key) + " + token " + us(f.cached) + " (fresh " + us(f.verified) +
		") + decision " + us(f.decision) + " + signature " + us(f.signature) + " + record " + us(f.record) + " + commit " + us(f.commit) +
		" = " + us(f.server("reused")) + " (fresh " + us(f.server("fresh")) + "); client " + us(f.client) + "\n" +
		"floor, waiting us: echo " + us(f.echoed) + ", write and sync of 4 KB " + us(f.synced) +
		fmt.Sprintf("\nfloor, certs/s: %.0f (fresh %.0f) with many clients, %.0f (fresh %.0f) with one\n",
			f.rate(point{"reused", 1 << 20, 0}), f.rate(point{"fresh", 1 << 20, 0}), f.rate(point{"reused", 1, 0}), f.rate(point{"fresh", 1, 0}))
}

// fields are those of a floor, so that floors can be added up.
func (f *floor) fields() []*time.Duration {
	return []*time.Duration{&f.echo, &f.client, &f.key, &f.cached, &f.verified, &f.decision, &f.signature, &f.record, &f.commit, &f.echoed, &f.synced}
}

func mean(floors []floor) floor {
	var total floor
	for i, field := range total.fields() {
		for _, f := range floors {
			*field += *f.fields()[i] / time.Duration(len(floors))
		}
	}
	return total
}

// bareConfig takes from a daemon that runs what the parts are measured on, but for the record.
func (w *world) bareConfig(b *testing.B, d *daemon) bareConfig {
	_, answers := d.fire(b, w.issue(b, point{"reused", 1, 1}), 1)
	return bareConfig{Dir: d.dir, Issuer: w.idp.URL(), Certificate: certificate(b, answers[0]).Marshal(), Answer: len(answers[0])}
}

// question is what the daemon asks the policy.
func question(issuer string) ca.Question {
	now := time.Now()
	return ca.Question{
		Identity: ca.Identity{Issuer: issuer, Subject: "u-00000000", Kind: ca.Person, Email: "a@example.com",
			Groups: groups, Claims: map[string]any{"contractor": false}},
		Token:   ca.Token{Bound: true, AuthTime: now, IssuedAt: now},
		Request: ca.Request{Login: login, Host: host, SourceIP: netip.MustParseAddr("127.0.0.1")},
		Now:     now,
	}
}

// measureFloor measures every part by itself.
func (w *world) measureFloor(b *testing.B) floor {
	p, err := newParts(w.config)
	must(b, err)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(b, err)
	signer, err := ssh.NewSignerFromKey(private)
	must(b, err)
	key := w.people[0].key.PublicKey()
	asked := w.issue(b, point{"reused", 1, 1})[0]
	raw, err := w.idToken(w.people[0], time.Now())
	must(b, err)
	var mu sync.Mutex
	tokens := map[[32]byte]bool{sha256.Sum256([]byte(raw)): true}
	f := floor{
		key: cost(b, func() error {
			_, err := possession(asked.body)
			return err
		}),
		cached: cost(b, func() error {
			digest := sha256.Sum256([]byte(raw))
			mu.Lock()
			defer mu.Unlock()
			if !tokens[digest] {
				return errors.New("token not found")
			}
			return nil
		}),
		verified: cost(b, func() error { return p.verifyToken(raw) }),
		decision: cost(b, func() error { return p.decide(context.Background(), key) }),
		signature: cost(b, func() error {
			_, err := p.sign(signer, key, 1)
			return err
		}),
		record: cost(b, func() error {
			_, err := p.encode()
			return err
		}),
		commit: w.commit(b) / 64,
		synced: w.sync(b),
	}
	echo := *w.bare
	echo.method = bareEchoMethod
	one, many := w.echoCalls(b, 300), w.echoCalls(b, 6000)
	lone, _ := echo.fire(b, one, 1)
	slices.Sort(lone.latencies)
	crowd, _ := echo.fire(b, many, 64)
	f.echoed, f.echo = lone.percentile(50), crowd.serverCPU/time.Duration(crowd.requests)
	f.client = crowd.clientCPU / time.Duration(crowd.requests)
	return f
}

// echoCalls carry the tokens of as many people as the calls for certificates do.
func (w *world) echoCalls(b *testing.B, n int) []call {
	few := w.issue(b, point{"reused", 64, 64})
	calls := make([]call, n)
	for i := range calls {
		calls[i] = few[i%len(few)]
	}
	return calls
}

// cost returns the CPU of one f, with the collector's, which is why it is that of the process.
func cost(b *testing.B, f func() error) time.Duration {
	must(b, f())
	const enough = 150 * time.Millisecond
	begin, n := ownCPU(b), 0
	for ownCPU(b)-begin < enough {
		for range 50 {
			must(b, f())
		}
		n += 50
	}
	return (ownCPU(b) - begin) / time.Duration(n)
}

// commit returns the CPU of a bbolt transaction that adds 64 records at the end and syncs them.
func (w *world) commit(b *testing.B) time.Duration {
	name := filepath.Join(w.dir, "floor.db")
	db, err := openBareLog(name)
	must(b, err)
	defer func() { must(b, os.Remove(name)) }()
	defer db.Close()
	records := slices.Repeat([][]byte{w.config.Record}, 64)
	var next uint64
	return cost(b, func() error {
		next += 64
		return appendBareLog(db, next, records)
	})
}

// sync returns how long the disk takes to make 4 KB in a file durable, usually.
func (w *world) sync(b *testing.B) time.Duration {
	f, err := os.Create(filepath.Join(w.dir, "floor"))
	must(b, err)
	defer f.Close()
	page := bytes.Repeat([]byte{1}, 4096)
	var took []time.Duration
	for i := range 200 {
		begin := time.Now()
		_, err := f.WriteAt(page, int64(i%16)*4096)
		must(b, err)
		must(b, unix.Fdatasync(int(f.Fd())))
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
