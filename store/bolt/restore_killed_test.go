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
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// The child restores or compacts the log at this path, with the key in the file beside it, again and again until it is killed.
const (
	killedLog  = "HALLPASS_TEST_KILLED_LOG"
	killedDoes = "HALLPASS_TEST_KILLED_DOES"
)

// TestKilled kills a process that restores, or compacts, at any moment. What it leaves opens, with all that it had. TestArchiveKilled
// does likewise with one that archives.
func TestKilled(t *testing.T) {
	if path := os.Getenv(killedLog); path != "" {
		beKilled(t, path, os.Getenv(killedDoes))
		return
	}
	for _, does := range []string{"restore", "compact"} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			clock := storetest.NewClock()
			key, secret, err := audit.GenerateLogKey()
			if err != nil {
				t.Fatal(err)
			}
			cfg := bolt.Config{LogKey: key, Now: clock.Now}
			path, records := filled(t, cfg, clock)
			write(t, path+".key", []byte(secret))
			write(t, path+".from", read(t, path))
			size, epoch := uint64(len(records)), uint32(0)
			// On a busy machine the first ones may be killed before they come to their end.
			for round := 0; round < long.Rounds(12, 25) || does == "restore" && epoch == 0 && round < 250; round++ {
				child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
				child.Env = append(os.Environ(), killedLog+"="+path, killedDoes+"="+does)
				if err := child.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(20+rand.IntN(150+10*round)) * time.Millisecond)
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = child.Wait() // it was killed
				s, err := bolt.Open(path, cfg)
				if err != nil {
					t.Fatal(err)
				}
				storetest.Check(t, s)
				signed, err := s.Checkpoint(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				c, err := audit.OpenCheckpoint(signed, key.Verifier())
				if err != nil {
					t.Fatal(err)
				}
				if c.Size < size || c.Epoch < epoch {
					t.Errorf("%d records in epoch %d, there were %d in epoch %d", c.Size, c.Epoch, size, epoch)
				}
				epoch = c.Epoch
				mustClose(t, s)
			}
			if aside, _ := filepath.Glob(path + ".before-restore-*"); does == "restore" && len(aside) < int(epoch) {
				t.Errorf("%d restores kept %d files", epoch, len(aside))
			}
		})
	}
}

func beKilled(t *testing.T, path, does string) {
	t.Helper()
	key, err := audit.ParseLogKey(strings.TrimSpace(string(read(t, path+".key"))))
	if err != nil {
		t.Fatal(err)
	}
	cfg := bolt.Config{LogKey: key}
	for {
		if does == "restore" {
			_, err = bolt.Restore(path, cfg, bolt.Restoring{From: path + ".from", AcceptLoss: true})
		} else {
			_, _, err = bolt.Compact(path, cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
