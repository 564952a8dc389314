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

// alone is what each part of a certificate costs if nothing else is done: CPU, but for the waiting at the end.
type alone struct {
	echo      time.Duration // of a server that answers the same messages over the same TLS and gRPC
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

// sum is that of the CPU.
func (a alone) sum(tokens string) time.Duration {
	token := a.cached
	if tokens == "fresh" {
		token = a.verified
	}
	return a.echo + a.key + token + a.decision + a.signature + a.record + a.commit
}

func (a alone) describe() string {
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1000) }
	return "parts alone, CPU us: echo " + us(a.echo) + " + possession " + us(a.key) + " + token " + us(a.cached) + " (fresh " + us(a.verified) +
		") + decision " + us(a.decision) + " + signature " + us(a.signature) + " + record " + us(a.record) + " + commit " + us(a.commit) +
		" = " + us(a.sum("reused")) + " (fresh " + us(a.sum("fresh")) + ")\n" +
		"waiting us: echo " + us(a.echoed) + ", write and sync of 4 KB " + us(a.synced) + "\n"
}

// fields are those of alone, so that several can be added up.
func (a *alone) fields() []*time.Duration {
	return []*time.Duration{&a.echo, &a.key, &a.cached, &a.verified, &a.decision, &a.signature, &a.record, &a.commit, &a.echoed, &a.synced}
}

func mean(all []alone) alone {
	var total alone
	for i, field := range total.fields() {
		for _, a := range all {
			*field += *a.fields()[i] / time.Duration(len(all))
		}
	}
	return total
}

// floorConfig takes from a daemon that runs what the floor is made of, but for the record.
func (w *world) floorConfig(b *testing.B, d *daemon) floorConfig {
	_, answers := d.fire(b, w.issue(b, point{"reused", 1, 1}), 1)
	return floorConfig{Dir: d.dir, Issuer: w.idp.URL(), Certificate: certificate(b, answers[0]).Marshal(), Answer: len(answers[0])}
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

// measureAlone measures every part.
func (w *world) measureAlone(b *testing.B) alone {
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
	a := alone{
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
	echo := *w.floor
	echo.method = floorEchoMethod
	one, many := w.echoCalls(b, 300), w.echoCalls(b, 6000)
	lone, _ := echo.fire(b, one, 1)
	slices.Sort(lone.latencies)
	crowd, _ := echo.fire(b, many, 64)
	a.echoed, a.echo = lone.percentile(50), crowd.serverCPU/time.Duration(crowd.requests)
	return a
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
	db, err := openFloorLog(name)
	must(b, err)
	defer func() { must(b, os.Remove(name)) }()
	defer db.Close()
	records := slices.Repeat([][]byte{w.config.Record}, 64)
	var next uint64
	return cost(b, func() error {
		next += 64
		return appendFloorLog(db, next, records)
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
