package sink_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// backUp returns the name of a copy of the log.
func (w *world) backUp() string {
	w.t.Helper()
	b, err := w.store.Backup(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := io.ReadAll(b)
	name := filepath.Join(w.t.TempDir(), "backup.db")
	if err = errors.Join(err, b.Close(), os.WriteFile(name, data, 0o600)); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// restore puts a copy in the place of the log, whatever is lost.
func (w *world) restore(backup string) {
	w.t.Helper()
	w.close()
	w.clock.Move(time.Minute) // the names of old files hold the time
	if _, err := bolt.Restore(w.path, w.cfg, bolt.Restoring{From: backup, AcceptLoss: true, By: "tester"}); err != nil {
		w.t.Fatal(err)
	}
	s, err := bolt.Open(w.path, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store, w.log = s, storetest.NewFixture(w.t, s, w.cfg.Now)
}

const goesBack = "the log was restored and has other records than the sink was sent"

// TestASinkGoesBackWithTheLog restores a log of which a sink had more: it gets what took the place of that.
func TestASinkGoesBackWithTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.grant(5)
	old, begin := w.backUp(), w.size()
	w.grant(20)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w.sendAll(&sink.File{Path: path})
	had := w.size()
	w.restore(old)
	if next, err := sink.Next(t.Context(), w.store, w.id, w.dir, "test"); next != begin || err != nil {
		t.Errorf("the sink is said to have the records before %d, %v, want %d", next, err, begin)
	}
	w.sendAll(&sink.File{Path: path})
	want := []string{}
	for i := range had {
		want = append(want, fmt.Sprintf("%s/0/%d", w.id, i))
	}
	for i := begin; i < w.size(); i++ {
		want = append(want, fmt.Sprintf("%s/1/%d", w.id, i))
	}
	if diff := cmp.Diff(want, ids(t, path)); diff != "" {
		t.Errorf("the file has (-want +got):\n%s", diff)
	}
	if n := strings.Count(w.said.String(), goesBack); n != 1 {
		t.Errorf("the operators were told %d times: %s", n, w.said)
	}
	// Nothing is said again of a restore that the cursor knows of.
	w.sendAll(&collector{})
	if n := strings.Count(w.said.String(), goesBack); n != 1 {
		t.Errorf("the operators were told %d times: %s", n, w.said)
	}
}

func TestARestoreThatLosesNothingChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.grant(5)
	w.sendAll(&collector{})
	had := w.size()
	w.restore(w.backUp())
	c := &collector{}
	w.sendAll(c)
	if diff := cmp.Diff(sequence(had, w.size(), ""), c.events); diff != "" {
		t.Errorf("sent after the restore (-want +got):\n%s", diff)
	}
	if strings.Contains(w.said.String(), goesBack) {
		t.Errorf("the operators were told: %s", w.said)
	}
}

// TestWhatWasUnderWayBeforeARestore is not what comes after it: nothing of that was ever sent.
func TestWhatWasUnderWayBeforeARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.grant(5)
	old, begin := w.backUp(), w.size()
	w.grant(5)
	s, done := w.run(&collector{fail: func(int) error { return errors.New("down") }})
	w.await(func() bool { return s.Status().Err != nil })
	done()
	w.restore(old)
	c := &collector{}
	w.sendAll(c)
	if diff := cmp.Diff(append(sequence(0, begin, " again"), sequence(begin, w.size(), "")...), c.events); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

// TestASinkGoesBackToWhereTheLogsPart restores a backup, and later another that is newer and that the log of meanwhile does not come from.
func TestASinkGoesBackToWhereTheLogsPart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.grant(5)
	older, begin := w.backUp(), w.size()
	w.grant(2)
	newer := w.backUp() // of this the sink never had the end
	w.restore(older)
	w.grant(20)
	w.sendAll(&collector{})
	w.restore(newer)
	c := &collector{}
	w.sendAll(c)
	if diff := cmp.Diff(sequence(begin, w.size(), ""), c.events); diff != "" {
		t.Errorf("sent after the second restore (-want +got):\n%s", diff)
	}
}
