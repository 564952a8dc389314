package faults_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPowerLostAfterInit shows that what `hallpassd init` made is on the disk when it says so. Without root, and with, the twin: it has
// synced every file and folder of it.
func TestPowerLostAfterInit(t *testing.T) {
	t.Run("all is synced", allIsSynced)
	if !mayMount(t) {
		return
	}
	for name, newDisk := range map[string]func(*testing.T, *rand.Rand) *disk{"ext4": ext4, "xfs": xfs} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, rand.New(rand.NewPCG(0, 0)))
			d.settle(t)
			a := initAuthority(t, filepath.Join(d.root, "ca"))
			d.cutPower(t)
			d.restore(t)
			p := a.start(t)
			a.send(t, a.connect(t, p), a.signIn(t, "user0"), nil)
			p.stop(t)
			a.check(t)
			if got := a.seen.counts().granted; got != 1 {
				t.Errorf("%d certificates, want 1", got)
			}
		})
	}
}

func allIsSynced(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	a := initAuthority(t, filepath.Join(t.TempDir(), "ca"), "strace", "-f", "-qq", "-yy", "-s", "0", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", trace)
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(a.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == a.dir { // which had another name then
			return err
		}
		if name := strings.TrimPrefix(path, a.dir); !strings.Contains(string(calls), name+">") {
			t.Errorf("hallpassd init does not sync %s", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
