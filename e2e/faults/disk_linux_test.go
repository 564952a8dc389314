package faults_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A space is a mount namespace of its own, held by a process: what is mounted there is gone with that process, loop devices too. The
// machine is left as it was, whatever becomes of the test. It takes root.
type space struct{ holder *os.Process }

func newSpace(t *testing.T) *space {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready && exec cat")
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
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		_ = cmd.Wait()
		t.Fatalf("make a mount namespace: %s", stderr.String())
	}
	return &space{cmd.Process}
}

// run runs a program in the space.
func (s *space) run(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"--mount", "--target", strconv.Itoa(s.holder.Pid)}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("nsenter %q: %v\n%s", args, err, out)
	}
}

// A disk is a small file system in a space.
type disk struct {
	*space
	dir   string   // where it is mounted, as the space sees it
	root  string   // the same, as everybody sees it
	mount []string // the arguments of mount, without the folder
	pool  *disk    // that holds its blocks, if they may run out
}

// mounted mounts a file system in a space.
func mounted(t *testing.T, s *space, mount ...string) *disk {
	t.Helper()
	d := &disk{space: s, dir: t.TempDir(), mount: mount}
	d.root = filepath.Join("/proc", strconv.Itoa(s.holder.Pid), "root", d.dir)
	d.mountAgain(t)
	return d
}

func (d *disk) mountAgain(t *testing.T) {
	t.Helper()
	d.run(t, append(append([]string{"mount"}, d.mount...), d.dir)...)
}

func (d *disk) unmount(t *testing.T) {
	t.Helper()
	d.run(t, "umount", d.dir)
}

// remount changes how the file system is mounted.
func (d *disk) remount(t *testing.T, how string) {
	t.Helper()
	d.run(t, "mount", "-o", "remount,"+how, d.dir)
}

// tmpfs mounts a file system of memory of so many megabytes.
func tmpfs(t *testing.T, s *space, megabytes int) *disk {
	t.Helper()
	return mounted(t, s, "-t", "tmpfs", "-o", "mode=700,size="+strconv.Itoa(megabytes)+"m", "tmpfs")
}

// image makes a file system in a file of so many megabytes, none of which is there yet, and mounts it by a loop device.
func image(t *testing.T, s *space, file string, megabytes int64, options string, mkfs ...string) *disk {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(megabytes<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", mkfs, err, out)
	}
	return mounted(t, s, "-o", "loop,"+options, file)
}

// on makes an authority whose folder is on a disk.
func on(t *testing.T, d *disk) *authority {
	t.Helper()
	a := newAuthority(t, filepath.Join(d.root, "ca"))
	a.disk = d
	return a
}

// onTmpfs has several times the room that the log of a long run takes.
func onTmpfs(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	return on(t, tmpfs(t, newSpace(t), 64))
}

// onSmallExt4 has room for a short run.
func onSmallExt4(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	return on(t, image(t, newSpace(t), filepath.Join(t.TempDir(), "image"), 8, "errors=remount-ro",
		"/usr/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal"))
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

// leave leaves room for so many bytes.
func (d *disk) leave(t *testing.T, room uint64) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(d.root, &fs); err != nil {
		t.Fatal(err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < room {
		t.Fatalf("there is room for %d bytes, and should be for %d", free, room)
	}
	if err := os.WriteFile(filepath.Join(d.root, "filler"), make([]byte, free-room), 0o600); err != nil {
		t.Fatal(err)
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
