package faults_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk is a small file system that only one process, which holds it, has mounted: the machine is left as it was, whatever
// becomes of the test. It takes root.
type disk struct {
	holder *os.Process
	dir    string // as the holder sees it
	root   string // the same, as everybody sees it
}

// newDisk mounts a tmpfs of 64 MB, several times what the log of a long run takes.
func newDisk(t *testing.T) *disk {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private",
		"sh", "-c", `mount -t tmpfs -o size=64m,mode=700 tmpfs "$1" && echo mounted && exec cat`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe() // cat ends when it is closed
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(stdout, make([]byte, len("mounted\n"))); err != nil {
		_ = cmd.Wait()
		t.Fatalf("mount a small file system: %s", stderr.String())
	}
	return &disk{cmd.Process, dir, filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir)}
}

// remount changes how the file system is mounted.
func (d *disk) remount(t *testing.T, how string) {
	t.Helper()
	out, err := exec.Command("nsenter", "--mount", "--target", strconv.Itoa(d.holder.Pid), "mount", "-o", "remount,"+how, d.dir).CombinedOutput()
	if err != nil {
		t.Fatalf("remount: %v\n%s", err, out)
	}
}

// fill leaves no room, and returns what makes room again.
func (d *disk) fill(t *testing.T) (free func()) {
	t.Helper()
	name := filepath.Join(d.root, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	_ = f.Close() // what matters was written
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// limitFiles lets a daemon write no file beyond its beginning, and returns what lifts the limit.
func limitFiles(t *testing.T, p *process) (lift func()) {
	t.Helper()
	set := func(limit *unix.Rlimit) (old unix.Rlimit) {
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, limit, &old); err != nil {
			t.Fatalf("limit the size of files: %v", err)
		}
		return old
	}
	old := set(nil)
	set(&unix.Rlimit{Cur: 8192, Max: old.Max})
	return func() { set(&old) }
}

// TestDiskFull takes all room away under load: clients are told that nothing was issued, the daemon lives on, and goes on by
// itself when there is room again. As root the disk is full; without, and with, the daemon may write no file beyond a size.
func TestDiskFull(t *testing.T) {
	t.Run("no file may grow", func(t *testing.T) {
		full(t, filepath.Join(t.TempDir(), "ca"), limitFiles)
	})
	if os.Geteuid() == 0 {
		t.Run("the file system is full", func(t *testing.T) {
			d := newDisk(t)
			full(t, filepath.Join(d.root, "ca"), func(t *testing.T, _ *process) func() { return d.fill(t) })
		})
	}
}

func full(t *testing.T, dir string, fill func(*testing.T, *process) (free func())) {
	a := newAuthority(t, dir)
	p := a.start(t)
	l := a.load(t, p)
	for range rounds(3, 50) {
		a.busy(t, p, a.seen.counts())
		free := fill(t, p)
		before := a.seen.counts()
		a.await(t, p, "answers that nothing can be written", func(c counts) bool { return c.unwritten-before.unwritten >= 2*clients })
		free()
	}
	a.busy(t, p, a.seen.counts())
	l.stop()
	p.stop(t)
	a.check(t)
}

// TestReadOnly takes the right to write away under load, which is like a full disk. A daemon does not start on a log that it
// cannot write; as root that is one on a file system mounted read-only, else one without the permission.
func TestReadOnly(t *testing.T) {
	t.Run("under load", func(t *testing.T) {
		a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
		a.start(t).stop(t)
		// Of the writes of each thread, some fail.
		p := a.start(t, inject("pwrite64", "error=EROFS:when=100..160")...)
		l := a.load(t, p)
		a.await(t, p, "answers that nothing can be written", func(c counts) bool { return c.unwritten >= clients })
		a.busy(t, p, a.seen.counts())
		l.stop()
		p.stop(t)
		a.check(t)
	})
	t.Run("from the start", func(t *testing.T) {
		dir := t.TempDir()
		forbid, allow := func(log string) { chmod(t, log, 0o400) }, func(log string) { chmod(t, log, 0o600) }
		if os.Geteuid() == 0 { // whom permissions do not bind
			d := newDisk(t)
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
	})
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// inject returns the wrapper that lets something happen to a system call. strace counts the calls of each thread on its own.
func inject(call, what string) []string {
	return []string{"strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace=" + call, "-e", "signal=none", "-e", "inject=" + call + ":" + what}
}

// TestSyncFails lets a sync of the log fail under load: the daemon ends with an error and issues nothing more. The next start does
// not trust the file; it goes on with a verified copy, in which nothing is missing that a client received.
func TestSyncFails(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	a.start(t).stop(t)
	// The second is what bbolt does when its file grows.
	faults := []string{"fdatasync:5", "fsync:1", "fdatasync:12"}
	for n := range rounds(0, 40) {
		faults = append(faults, fmt.Sprint("fdatasync:", n+1))
	}
	for _, fault := range faults {
		call, n, _ := strings.Cut(fault, ":")
		p := a.start(t, inject(call, "error=EIO:when="+n+"+")...)
		l := a.load(t, p)
		if code := p.wait(t); code != 1 {
			t.Errorf("%s number %s fails: the daemon ended with %d, want 1", call, n, code)
		}
		p.says(t, "in doubt")
		l.stop()
		a.seen.doubt()
		old := stat(t, a.log())
		p = a.start(t)
		if os.SameFile(old, stat(t, a.log())) {
			t.Errorf("%s number %s failed, and the next start goes on with the same file", call, n)
		}
		a.repeat(t, p)
		p.stop(t)
	}
	a.check(t)
}

func stat(t *testing.T, name string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestSlowSync makes every sync slow, and kills the daemon while one is under way.
func TestSlowSync(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	p := a.start(t, inject("fdatasync", "delay_enter=200000")...) // microseconds
	l := a.load(t, p)
	a.busy(t, p, counts{})
	p.kill(t)
	l.stop()
	p = a.start(t)
	a.repeat(t, p)
	p.stop(t)
	a.check(t)
}
