package bolt_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/long"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

const (
	killedArchive = "HALLPASS_TEST_KILLED_ARCHIVE"
	archiveNow    = "HALLPASS_TEST_ARCHIVE_NOW"
)

// TestArchiveKilled kills a process that archives at any moment. What it leaves opens and verifies, and the same call goes on.
func TestArchiveKilled(t *testing.T) {
	if path := os.Getenv(killedArchive); path != "" {
		archiveOnce(t, path, os.Getenv(archiveNow))
		return
	}
	t.Parallel()
	l := newAged(t)
	write(t, l.path+".key", []byte(l.secret))
	before, head := read(t, l.path), read(t, l.path+".head")
	file := filepath.Join(filepath.Dir(l.path), "one.db")
	again := func() {
		for name, text := range map[string][]byte{l.path: before, l.path + ".head": head} {
			write(t, name+".again", text)
			if err := os.Rename(name+".again", name); err != nil {
				t.Fatal(err)
			}
		}
	}
	done, whole, all := 0, time.Duration(0), long.Rounds(8, 20)
	for round := range all {
		again()
		child := exec.Command(os.Args[0], "-test.run=^TestArchiveKilled$")
		// The race detector would have it sleep for a second at its end, and most of the kills hit that.
		child.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", killedArchive+"="+l.path, archiveNow+"="+l.clock.Now().Format(time.RFC3339))
		began := time.Now()
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if round == 0 { // the first comes to its end, and shows how long that takes
			if err := child.Wait(); err != nil {
				t.Fatal(err)
			}
			whole = time.Since(began)
		} else {
			time.Sleep(rand.N(whole * 3 / 4)) // the first takes longest
			_ = child.Process.Kill()          // unless it has come to its end
			_ = child.Wait()
		}
		s := open(t, l.path, l.cfg)
		archive, err := store.NewestArchive(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		if archive != nil {
			done++
			l.mustCheck(t, archive.GetRecords(), l.path)
			l.mustCheck(t, 0, l.path, file)
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
			continue
		}
		l.mustCheck(t, 0, l.path)
		if _, err := os.Stat(file); err == nil {
			l.mustCheck(t, 0, file)
		}
	}
	t.Logf("%d of %d came to their end, which takes %v", done, all, whole)
	if done == 0 {
		t.Error("none came to its end")
	}
	again()
	l.archive(t, 50, "two.db")
	l.same(t, 256)
}

func archiveOnce(t *testing.T, path, now string) {
	t.Helper()
	key, err := audit.ParseLogKey(strings.TrimSpace(string(read(t, path+".key"))))
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, now)
	if err != nil {
		t.Fatal(err)
	}
	cfg := bolt.Config{LogKey: key, Now: func() time.Time { return at }}
	if _, err := bolt.MoveToArchive(path, cfg, bolt.Archiving{Before: at.AddDate(0, 0, -50), File: filepath.Join(filepath.Dir(path), "one.db"), By: "killed"}); err != nil {
		t.Fatal(err)
	}
}
