package faults_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// busy waits until every client may have had answers from this daemon, beyond those of before.
func (a *authority) busy(t *testing.T, p *process, before counts) {
	t.Helper()
	a.await(t, p, "certificates and refusals", func(c counts) bool {
		return c.granted-before.granted >= clients && c.refused-before.refused >= clients
	})
}

// TestKilledAtAnyTime kills the daemon at a random moment under load, again and again.
func TestKilledAtAnyTime(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	for range rounds(5, 50) {
		before := a.seen.counts()
		p := a.start(t)
		l := a.load(t, p)
		a.busy(t, p, before)
		time.Sleep(rand.N(200 * time.Millisecond)) // any moment is as good
		p.kill(t)
		l.stop()
		p = a.start(t)
		a.repeat(t, p)
		p.kill(t)
	}
	a.check(t)
}

// TestEndsAfterTheLastAnswer asks the daemon to end under load: it ends well, and has recorded what it answered.
func TestEndsAfterTheLastAnswer(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	for range rounds(2, 50) {
		p := a.start(t)
		a.repeat(t, p)
		before := a.seen.counts()
		l := a.load(t, p)
		a.busy(t, p, before)
		p.signal(t, syscall.SIGTERM)
		if code := p.wait(t); code != 0 {
			t.Errorf("the daemon ended with %d, want 0", code)
		}
		l.stop()
	}
	p := a.start(t)
	a.repeat(t, p)
	p.stop(t)
	a.check(t)
}

// TestTwoDaemonsOnOneLog starts a second daemon: it does not start, and the first does not mind.
func TestTwoDaemonsOnOneLog(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	p := a.start(t)
	l := a.load(t, p)
	second := a.launch(t)
	if code := second.wait(t); code != 1 {
		t.Errorf("the second daemon ended with %d, want 1", code)
	}
	second.says(t, "another daemon has it open")
	a.busy(t, p, a.seen.counts())
	l.stop()
	p.stop(t)
	a.check(t)
}

// TestKilledInACall kills the daemon as it enters a system call of a commit, each time another one.
func TestKilledInACall(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	a.start(t).stop(t) // records the policy
	for n := range rounds(3, 40) {
		for _, call := range []string{"fdatasync", "pwrite64"} {
			number := 1 + 2*n
			if call == "pwrite64" {
				number = 1 + 7*n // a commit has several
			}
			p := a.start(t, inject(call, fmt.Sprint("signal=KILL:when=", number))...)
			l := a.load(t, p)
			if code := p.wait(t); code != -1 {
				t.Errorf("%s number %d: the daemon ended with %d, want a signal", call, number, code)
			}
			l.stop()
			p = a.start(t)
			a.repeat(t, p)
			p.kill(t)
		}
	}
	a.check(t)
}

// TestAnswerLostAfterTheRecord kills the daemon between the record and the signature. The record stands: the same bytes, sent
// again, get a certificate with its serial.
func TestAnswerLostAfterTheRecord(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	agent := a.moveKey(t)
	p := a.start(t)
	agent.signal(t, syscall.SIGSTOP) // asked for a signature, it does not answer
	r, err := a.signIn(t, "user0").ask("app1.staging.example.com")
	if err != nil {
		t.Fatal(err)
	}
	conn, answered := a.connect(t, p), make(chan bool)
	go func() {
		ok, err := a.seen.send(t.Context(), conn, r)
		if err != nil {
			t.Error(err)
		}
		answered <- ok
	}()
	index := a.awaitRecord(t, p, r)
	p.kill(t)
	if <-answered {
		t.Fatal("there was an answer, although nothing was signed")
	}
	agent.signal(t, syscall.SIGCONT)
	p = a.start(t)
	a.repeat(t, p)
	p.stop(t)
	a.check(t)
	if g := a.seen.granted; len(g) != 1 || g[0].index != index {
		t.Errorf("the certificates are %+v, want one with the index %d", g, index)
	}
}
