package faults_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// diskFull takes all room away under load.
func diskFull(t *testing.T, a *authority, random *rand.Rand) {
	full(t, a, random, func(t *testing.T, _ *process) func() { return a.disk.fill(t) })
}

// noFileMayGrow is the twin of a full disk: the daemon may write no file beyond a size.
func noFileMayGrow(t *testing.T, a *authority, random *rand.Rand) {
	full(t, a, random, limitFiles)
}

// full takes all room away under load: clients are told that nothing was issued, the daemon lives on, and goes on by itself when
// there is room again.
func full(t *testing.T, a *authority, random *rand.Rand, fill func(*testing.T, *process) (free func())) {
	p := a.start(t)
	l := a.load(t, p)
	for range 1 + random.IntN(2) {
		a.busy(t, p, a.seen.counts())
		free := fill(t, p)
		before := a.seen.counts()
		a.await(t, p, "answers that nothing can be written", func(c counts) bool { return c.unwritten-before.unwritten >= 2*clients })
		free()
	}
	a.busy(t, p, a.seen.counts())
	l.stop()
	p.stop(t)
}

// writesRefused lets the system refuse some writes of each thread, as a file system does that is read-only: this is like a full disk.
func writesRefused(t *testing.T, a *authority, random *rand.Rand) {
	first := 20 + random.IntN(200)
	before := a.seen.counts()
	p := a.start(t, inject("pwrite64", fmt.Sprintf("error=EROFS:when=%d..%d", first, first+60))...)
	l := a.load(t, p)
	a.await(t, p, "answers that nothing can be written", func(c counts) bool { return c.unwritten-before.unwritten >= clients })
	a.busy(t, p, a.seen.counts())
	l.stop()
	p.stop(t)
}

// turnedReadOnly makes the file system read-only under load, as ext4 does to itself when it finds an error. Nothing is issued from
// then on, whether the daemon lives or ends; it does not start before the file system can be written, and goes on then.
func turnedReadOnly(t *testing.T, a *authority, random *rand.Rand) {
	p := a.start(t)
	l := a.load(t, p)
	a.busy(t, p, a.seen.counts())
	a.disk.remount(t, "abort")
	before := a.seen.counts()
	lives := a.reaches(t, p, "answers that nothing can be written", func(c counts) bool { return c.unwritten-before.unwritten >= 2*clients })
	l.stop()
	if lives {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended by itself
	}
	if code := p.wait(t); code != 1 && (!lives || code != 0) {
		t.Errorf("the daemon ended with %d, want 1, or 0 if it was told to", code)
	}
	a.seen.doubt() // the error may have come in the middle of a commit
	p = a.launch(t)
	if code := p.wait(t); code != 1 {
		t.Errorf("the daemon that cannot write ended with %d, want 1", code)
	}
	p.says(t, "open log")
	a.disk.unmount(t)
	a.disk.mountAgain(t)
	a.again(t, random)
}

// TestReadOnlyFromTheStart shows that a daemon does not start on a log that it cannot write; as root that is one on a file system
// mounted read-only, else one without the permission.
func TestReadOnlyFromTheStart(t *testing.T) {
	dir := t.TempDir()
	forbid, allow := func(log string) { chmod(t, log, 0o400) }, func(log string) { chmod(t, log, 0o600) }
	if mayMount(t) { // permissions do not bind root
		d := tmpfs(t, newSpace(t), 64)
		dir, forbid, allow = d.root, func(string) { d.remount(t, "ro") }, func(string) { d.remount(t, "rw") }
	}
	a := newAuthority(t, filepath.Join(dir, "ca"))
	forbid(a.log())
	p := a.launch(t)
	if code := p.wait(t); code != 1 {
		t.Errorf("the daemon ended with %d, want 1", code)
	}
	p.says(t, "open log")
	allow(a.log())
	p = a.start(t)
	l := a.load(t, p)
	a.busy(t, p, counts{})
	l.stop()
	p.stop(t)
	a.check(t)
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
