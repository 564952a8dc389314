package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// world is a log and a folder for cursors.
type world struct {
	t     *testing.T
	store *bolt.Store
	log   *storetest.Fixture
	id    string
	dir   string
	said  *said
	path  string // of the log
	cfg   bolt.Config
	clock *storetest.Clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := storetest.NewClock()
	path, cfg := filepath.Join(t.TempDir(), "log.db"), bolt.Config{LogKey: key, Now: clock.Now, Logger: slog.New(slog.DiscardHandler)}
	s, err := bolt.Create(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, s, storetest.NewFixture(t, s, clock.Now), key.ID(), t.TempDir(), &said{}, path, cfg, clock}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	w.t.Helper()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// grant records n grants.
func (w *world) grant(n int) {
	w.t.Helper()
	for range n {
		if _, err := w.log.Record(w.t, w.log.Grant(w.t, "alice")); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) size() uint64 {
	w.t.Helper()
	size, err := w.store.Size(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return size
}

// run runs a sink until it has sent the whole log, or until done is called.
func (w *world) run(target sink.Target) (s *sink.Sink, done func()) {
	w.t.Helper()
	s, err := sink.Open(w.t.Context(), sink.Config{
		Name: "test", Target: target, Store: w.store, LogID: w.id, Dir: w.dir, Logger: slog.New(slog.NewTextHandler(w.said, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	return s, sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// sendAll runs a sink until it has sent the whole log.
func (w *world) sendAll(target sink.Target) {
	w.t.Helper()
	s, done := w.run(target)
	defer done()
	w.await(func() bool { return s.Status().Next == w.size() })
}

func (w *world) await(holds func() bool) {
	w.t.Helper()
	for !holds() {
		select {
		case <-w.t.Context().Done():
			w.t.Fatal("it never came; the log says:\n" + w.said.String())
		case <-time.After(time.Millisecond):
		}
	}
}

// said collects what is logged.
type said struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// collector is a target that fails as it is told.
type collector struct {
	mu     sync.Mutex // guards what follows
	events []string
	fail   func(sent int) error // of those that it got so far; nil never fails
	lose   bool                 // a failure comes after the events were taken
}

func (c *collector) Send(_ context.Context, events []sink.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.fail != nil {
		err = c.fail(len(c.events))
	}
	if err == nil || c.lose {
		for _, e := range events {
			text := fmt.Sprint(e.Event.Sequence)
			if e.Own.Redelivered {
				text += " again"
			}
			c.events = append(c.events, text)
		}
	}
	return err
}

func (c *collector) Close() error { return nil }

func sequence(from, to uint64, suffix string) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint(i)+suffix)
	}
	return out
}

func TestASinkGoesOnWhereItStopped(t *testing.T) {
	w := newWorld(t)
	w.grant(150) // more than a batch
	first := &collector{}
	w.sendAll(first)
	before := w.size()
	if diff := cmp.Diff(sequence(0, before, ""), first.events); diff != "" {
		t.Errorf("the first run sent (-want +got):\n%s", diff)
	}
	w.grant(3)
	second := &collector{}
	w.sendAll(second)
	if diff := cmp.Diff(sequence(before, before+3, ""), second.events); diff != "" {
		t.Errorf("the second run sent (-want +got):\n%s", diff)
	}
}

func TestWhatMayHaveArrivedIsMarkedWhenItComesAgain(t *testing.T) {
	w := newWorld(t)
	w.grant(3)
	end := w.size()
	once := true
	c := &collector{lose: true, fail: func(int) error {
		if once {
			once = false
			return errors.New("the answer got lost")
		}
		return nil
	}}
	w.sendAll(c)
	if diff := cmp.Diff(append(sequence(0, end, ""), sequence(0, end, " again")...), c.events); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	if text := w.said.String(); !strings.Contains(text, "does not get on") || !strings.Contains(text, "gets on again") {
		t.Errorf("the operators were told: %s", text)
	}
}

func TestADaemonThatEndsMeanwhileMarksWhatWasUnderWay(t *testing.T) {
	w := newWorld(t)
	w.grant(3)
	end := w.size()
	s, done := w.run(&collector{fail: func(int) error { return errors.New("down") }})
	w.await(func() bool { return s.Status().Err != nil })
	if got := s.Status(); got.Next != 0 || got.Since.IsZero() || got.Failures == 0 || got.Failed.Before(got.Since) {
		t.Errorf("the status is %+v", got)
	}
	done()
	w.grant(2) // these were never under way
	c := &collector{}
	w.sendAll(c)
	if diff := cmp.Diff(append(sequence(0, end, " again"), sequence(end, end+2, "")...), c.events); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func TestEventsThatAreRefusedForGoodAreLeftOutAndTold(t *testing.T) {
	w := newWorld(t)
	w.grant(1)
	s, done := w.run(&collector{fail: func(int) error { return &sink.RejectedError{Count: 2, Reason: "too old"} }})
	defer done()
	w.await(func() bool { return s.Status().Next == w.size() })
	if got := s.Status(); got.Rejected == 0 || got.Rejected%2 != 0 || got.Failures != 0 {
		t.Errorf("the status is %+v", got)
	}
	if !strings.Contains(w.said.String(), "2 events were refused for good: too old") {
		t.Errorf("the operators were told: %s", w.said)
	}
}

func TestTheCursorOfAnotherLogIsRefused(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "test.cursor")
	for text, want := range map[string]string{
		`{"log":"0123","next":7,"trying":7}`: "this is the log",
		`{"log":`:                            "remove it to send the log from its beginning",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := sink.Open(t.Context(), sink.Config{Name: "test", Target: &collector{}, Store: w.store, LogID: w.id, Dir: w.dir})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with the cursor %s: %v, want %q", text, err, want)
		}
	}
}

// lines reads the events of files of JSON lines.
func lines(t *testing.T, paths ...string) []sink.Event {
	t.Helper()
	var events []sink.Event
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var e sink.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v: %s", path, err, line)
			}
			events = append(events, e)
		}
	}
	return events
}

func sequences(events []sink.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprint(e.Event.Sequence))
	}
	return out
}

func TestAFileHasEachEventOnce(t *testing.T) {
	w := newWorld(t)
	w.grant(20)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w.sendAll(&sink.File{Path: path})
	// A crash in the middle of a line, and a cursor that is behind.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.dir, "test.cursor")); err != nil {
		t.Fatal(err)
	}
	w.grant(1)
	w.sendAll(&sink.File{Path: path})
	events := lines(t, path)
	if diff := cmp.Diff(sequence(0, w.size(), ""), sequences(events)); diff != "" {
		t.Errorf("the file has (-want +got):\n%s", diff)
	}
	if slices.ContainsFunc(events, func(e sink.Event) bool { return e.Own.Redelivered }) {
		t.Error("an event that stands there once is marked")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
}

func TestFullFilesArePutAside(t *testing.T) {
	w := newWorld(t)
	w.grant(350)
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	w.sendAll(&sink.File{Path: path, MaxSize: 10_000, Keep: 2})
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	size := w.size()
	want := []string{fmt.Sprintf("%s.0-%d", path, size/100*100-1), fmt.Sprintf("%s.0-%d", path, size-1)} // batches of 100, and the rest
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	// The file was just put aside: where it went on is told by its name.
	w.grant(1)
	if err := os.Remove(filepath.Join(w.dir, "test.cursor")); err != nil {
		t.Fatal(err)
	}
	w.sendAll(&sink.File{Path: path, MaxSize: 10_000, Keep: 2})
	if diff := cmp.Diff(sequence(size, size+1, ""), sequences(lines(t, path))); diff != "" {
		t.Errorf("the new file has (-want +got):\n%s", diff)
	}
}

func TestAFileOfSomebodyElseIsNotTouched(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte("{\"x\":1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, done := w.run(&sink.File{Path: path})
	defer done()
	w.await(func() bool { return s.Status().Err != nil })
	if err := s.Status().Err; !strings.Contains(err.Error(), "move the file away") {
		t.Error(err)
	}
}
