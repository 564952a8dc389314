package faults_test

import (
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
