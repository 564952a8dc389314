package faults_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What cuts a file system off from its disk, as the loss of power does (FS_IOC_SHUTDOWN of linux/fs.h): nothing that was not synced
// gets there any more, not even the journal.
const (
	shutdownRequest = 0x8004587d // _IOR('X', 125, __u32)
	shutdownNoFlush = 2          // FS_SHUTDOWN_FLAGS_NOLOGFLUSH
)

func (d *disk) cutPower(t *testing.T) {
	t.Helper()
	dir, err := os.Open(d.root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdownRequest, shutdownNoFlush); err != nil {
		t.Fatalf("cut the power of %s: %v", d.dir, err)
	}
}

// restore mounts the disk as the next start of the machine does. No process has a file of it open.
func (d *disk) restore(t *testing.T) {
	t.Helper()
	d.unmount(t)
	d.mountAgain(t)
}

// settle writes all to the disk that was written to its files.
func (d *disk) settle(t *testing.T) {
	t.Helper()
	dir, err := os.Open(d.root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
}

// ext4 makes a disk whose journal is written to the disk now, soon, or only when somebody asks.
func ext4(t *testing.T, random *rand.Rand) *disk {
	t.Helper()
	commit := []string{"1", "5", "1000"}[random.IntN(3)]
	return image(t, newSpace(t), filepath.Join(t.TempDir(), "image"), 128, "errors=remount-ro,commit="+commit, "/usr/sbin/mkfs.ext4", "-q", "-F")
}

func xfs(t *testing.T, _ *rand.Rand) *disk {
	t.Helper()
	return image(t, newSpace(t), filepath.Join(t.TempDir(), "image"), 320, "defaults", "/usr/sbin/mkfs.xfs", "-q")
}

func onExt4(t *testing.T, random *rand.Rand) *authority {
	t.Helper()
	return settled(t, ext4(t, random))
}

func onXFS(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	return settled(t, xfs(t, nil))
}

// settled is an authority whose configuration, which the test has edited, is on the disk.
func settled(t *testing.T, d *disk) *authority {
	t.Helper()
	a := on(t, d)
	d.settle(t)
	return a
}

// powerLost cuts the power under load. Only what was answered before that counts: while it is cut, the kernel may still say of a
// sync that it succeeded.
func powerLost(t *testing.T, a *authority, random *rand.Rand) {
	p := a.start(t)
	l := a.load(t, p)
	a.busy(t, p, a.seen.counts())
	time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond)))) // any moment is as good
	a.seen.lightsOut(true)
	a.disk.cutPower(t)
	p.kill(t)
	l.stop()
	a.seen.lightsOut(false)
	a.disk.restore(t)
	a.again(t, random)
}
