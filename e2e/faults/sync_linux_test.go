package faults_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// inject returns the wrapper that lets something happen to a system call. strace counts the calls of each thread on its own.
func inject(call, what string) []string {
	return []string{"strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace=" + call, "-e", "signal=none", "-e", "inject=" + call + ":" + what}
}

// syncFails lets a sync of the log fail under load, once or from then on: the daemon ends with an error and issues nothing more. The
// next start does not trust the file; it goes on with a verified copy, in which nothing is missing that a client received.
func syncFails(t *testing.T, a *authority, random *rand.Rand) {
	number := 1 + random.IntN(20)
	when := fmt.Sprint("error=EIO:when=", number)
	if random.IntN(2) == 0 {
		when += "+"
	}
	p := a.launch(t, inject("fdatasync", when)...)
	if p.listening() != "" { // else it was a sync of the start that failed
		l := a.load(t, p)
		p.wait(t)
		l.stop()
	}
	failed(t, a, p)
	a.again(t, random)
}

// failed looks at how a daemon ended whose sync failed.
func failed(t *testing.T, a *authority, p *process) {
	t.Helper()
	if code := p.wait(t); code != 1 {
		t.Errorf("the daemon ended with %d, want 1", code)
	}
	p.says(t, "in doubt")
	a.seen.doubt()
	if _, err := os.Stat(a.log() + ".suspect"); err != nil {
		return // the disk that failed did not take the marker either
	}
	old := stat(t, a.log())
	a.start(t).stop(t)
	if os.SameFile(old, stat(t, a.log())) {
		t.Error("a sync failed, and the next start goes on with the same file")
	}
}

func stat(t *testing.T, name string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestGrowthFails lets the sync fail by which bbolt makes its file longer.
func TestGrowthFails(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	a.start(t).stop(t)
	p := a.start(t, inject("fsync", "error=EIO:when=1+")...)
	l := a.load(t, p)
	p.wait(t)
	l.stop()
	failed(t, a, p)
	a.again(t, rand.New(rand.NewPCG(0, 0)))
	a.check(t)
}

// onThinExt4 is on a file system with 64 MB, under which there are blocks for the beginning and one MB more. It has blocks for
// everybody, until somebody syncs.
func onThinExt4(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	s := newSpace(t)
	pool := tmpfs(t, s, 32)
	d := image(t, s, filepath.Join(pool.root, "image"), 64, "data=ordered", "/usr/sbin/mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard")
	d.pool = pool
	a := settled(t, d)
	pool.leave(t, 1<<20)
	return a
}

// blocksRunOut lets the log grow until there are no more blocks under the disk: writes succeed, and a sync fails. The daemon ends, and
// goes on when there are more.
func blocksRunOut(t *testing.T, a *authority, random *rand.Rand) {
	p := a.start(t)
	l := a.load(t, p)
	p.wait(t)
	l.stop()
	if code := p.wait(t); code != 1 {
		t.Errorf("the daemon ended with %d, want 1", code)
	}
	p.says(t, "in doubt")
	a.seen.doubt()
	a.disk.pool.remount(t, "size=128m")
	a.disk.unmount(t)
	a.disk.mountAgain(t)
	a.again(t, random)
}

// slowSync makes every sync slower than clients wait: what they asked for comes too late, and nothing of it is lost or double. In the
// end the daemon is killed or asked to end while a sync is under way.
func slowSync(t *testing.T, a *authority, random *rand.Rand) {
	delay := 300*time.Millisecond + time.Duration(random.Int64N(int64(700*time.Millisecond)))
	before := a.seen.counts()
	p := a.start(t, inject("fdatasync", fmt.Sprint("delay_enter=", delay.Microseconds()))...)
	a.seen.patience = delay
	l := a.load(t, p)
	a.await(t, p, "requests that nobody waits for any more", func(c counts) bool { return c.lost-before.lost >= 2*clients })
	if random.IntN(2) == 0 {
		p.kill(t)
	} else {
		p.stop(t)
	}
	l.stop()
	a.seen.patience = 0
	a.again(t, random)
}
