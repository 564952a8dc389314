package bolt_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestOwnerStays shows that root can keep the log of a daemon that runs as somebody else, and anybody else their own.
func TestOwnerStays(t *testing.T) {
	daemon, group := os.Geteuid(), os.Getegid()
	if daemon == 0 { // only root can give files away
		daemon, group = 65534, 65534
	}
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, _ := filled(t, cfg, clock)
	copied := filepath.Join(t.TempDir(), "backup.db")
	write(t, copied, read(t, path))
	for _, file := range []string{filepath.Dir(path), path, path + ".head"} {
		if err := os.Chown(file, daemon, group); err != nil {
			t.Fatal(err)
		}
	}
	for name, keep := range map[string]func() error{
		"opened":    func() error { s, err := bolt.Open(path, cfg); return closed(s, err) },
		"compacted": func() error { _, _, err := bolt.Compact(path, cfg); return err },
		"restored": func() error {
			_, err := bolt.Restore(path, cfg, bolt.Restoring{From: copied, AcceptLoss: true})
			return err
		},
		"restored when it was lost": func() error {
			if err := os.Remove(path); err != nil {
				return err
			}
			_, err := bolt.Restore(path, cfg, bolt.Restoring{From: copied, AcceptLoss: true})
			return err
		},
	} {
		if err := keep(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, file := range []string{path, path + ".head"} {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if of, ok := info.Sys().(*syscall.Stat_t); !ok || int(of.Uid) != daemon || int(of.Gid) != group || info.Mode().Perm() != 0o600 {
				t.Errorf("after it was %s, %s is of user %d and group %d and has mode %v", name, file, of.Uid, of.Gid, info.Mode())
			}
		}
	}
}

func closed(s *bolt.Store, err error) error {
	if err != nil {
		return err
	}
	return s.Close()
}

// TestLinkedLog keeps a log that is elsewhere than where it seems.
func TestLinkedLog(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, records := filled(t, cfg, clock)
	link := filepath.Join(t.TempDir(), "log.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := bolt.Compact(link, cfg); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || os.SameFile(before, after) {
		t.Errorf("the file behind the link is still the old one; error %v", err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone; error %v", err)
	}
	s := open(t, link, cfg)
	if got := len(storetest.Records(t, s)); got != len(records) {
		t.Errorf("%d records, want %d", got, len(records))
	}
}
