package bolt_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestOlderLogIsRefused puts older files in the place of a log by hand, as an admin does in a hurry.
func TestOlderLogIsRefused(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	grant := func(n int) {
		t.Helper()
		for range n {
			if _, err := f.Record(t, f.Grant(t, "alice")); err != nil {
				t.Fatal(err)
			}
		}
	}
	grant(3)
	mustClose(t, s)
	older, olderHead := read(t, path), read(t, path+".head")
	s = open(t, path, cfg)
	f.Recorder = store.NewRecorder(s)
	grant(2)
	mustClose(t, s)
	newer, head := read(t, path), read(t, path+".head")
	fork, err := cfg.LogKey.Sign(audit.Checkpoint{LogID: cfg.LogKey.ID(), Size: 5})
	if err != nil {
		t.Fatal(err)
	}
	ahead, err := cfg.LogKey.Sign(audit.Checkpoint{LogID: cfg.LogKey.ID(), Epoch: 1, Size: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		log, head []byte
		want      string // nothing: it opens
	}{
		{"the newest with its head", newer, head, ""},
		{"the newest with a head that lags behind", newer, olderHead, ""},
		{"an older one", older, head, "the newest 2 are missing"},
		{"one without a head", newer, nil, "log.db.head is missing"},
		{"a head that is cut off", newer, head[:len(head)/2], "log.db.head: open checkpoint"},
		{"an empty head", newer, []byte{}, "log.db.head: open checkpoint"},
		{"a head with another root hash", newer, fork, "another history of the same log"},
		{"a head of an epoch that the log does not know", newer, ahead, "from before a restore"},
		{"the head of another log", newer, headOfAnother(t, clock), "log.db.head: open checkpoint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			write(t, path, tt.log)
			if tt.head != nil {
				write(t, path+".head", tt.head)
			}
			s, err := bolt.Open(path, cfg)
			if tt.want == "" {
				mustClose(t, closing(t, path, s, err))
				if !bytes.Equal(head, read(t, path+".head")) {
					t.Error("the head is not that of the log after it was closed")
				}
				return
			}
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want one with %q", err, tt.want)
			}
			if !bytes.Equal(tt.log, read(t, path)) {
				t.Error("the file was changed")
			}
		})
	}
}

func headOfAnother(t *testing.T, clock *storetest.Clock) []byte {
	t.Helper()
	path := newPath(t)
	create(t, path, newConfig(t, clock.Now))
	return read(t, path+".head")
}

func mustClose(t testing.TB, s *bolt.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestHeadFollows shows that the head of a log in use is never far behind, and never ahead.
func TestHeadFollows(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path := newPath(t)
	s := create(t, path, cfg)
	var last uint64
	for end := time.Now().Add(20 * time.Second); last < 3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the head does not follow")
		}
		index, err := s.Append(t.Context(), storetest.Refused("x"))
		if err != nil {
			t.Fatal(err)
		}
		head, err := audit.OpenCheckpoint(read(t, path+".head"), cfg.LogKey.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		if head.Size > index+1 {
			t.Fatalf("the head has %d records, the log %d", head.Size, index+1)
		}
		last = max(last, head.Size)
	}
}

// TestLogWhoseFileIsGoneIsDead shows that nothing is recorded in a file that nobody will find again.
func TestLogWhoseFileIsGoneIsDead(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"removed":  os.Remove,
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := storetest.NewClock()
			path := newPath(t)
			s, err := bolt.Create(path, newConfig(t, clock.Now))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			select {
			case <-s.Dead():
			case <-time.After(20 * time.Second):
				t.Fatal("the log lives on")
			}
			if _, err := s.Append(t.Context(), storetest.Refused("x")); !errors.Is(err, store.ErrInDoubt) {
				t.Errorf("error %v, want %v", err, store.ErrInDoubt)
			}
		})
	}
}
