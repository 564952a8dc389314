package sink_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// event is that of a record, as a sink hands it to its target.
func event(log string, epoch uint32, index uint64) sink.Event {
	var e sink.Event
	e.Own.Log, e.Event.Sequence = log, index
	e.Event.ID = fmt.Sprintf("%s/%d/%d", log, epoch, index)
	return e
}

// ids are those of the events in files of JSON lines.
func ids(t *testing.T, paths ...string) []string {
	t.Helper()
	var out []string
	for _, e := range lines(t, paths...) {
		out = append(out, e.Event.ID)
	}
	return out
}

// TestAFileTellsEpochsApart sends what a restored log has at indexes that it had before, and all of it again.
func TestAFileTellsEpochsApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	before := []sink.Event{event("log", 0, 8), event("log", 0, 9), event("log", 0, 10)}
	after := []sink.Event{event("log", 0, 8), event("log", 2, 9), event("log", 2, 10)}
	for _, events := range [][]sink.Event{before, before, after, after[1:]} {
		if err := (&sink.File{Path: path}).Send(t.Context(), events); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"log/0/8", "log/0/9", "log/0/10", "log/2/9", "log/2/10"}
	if diff := cmp.Diff(want, ids(t, path)); diff != "" {
		t.Errorf("the file has (-want +got):\n%s", diff)
	}
}

// TestFilesOfAllEpochsArePutAside fills a file at the same index again and again: none replaces another, and the oldest goes first.
func TestFilesOfAllEpochsArePutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, e := range []sink.Event{event("log", 0, 9), event("log", 1, 7), event("log", 2, 9), event("log", 10, 7)} {
		if err := (&sink.File{Path: path, MaxSize: 1, Keep: 3}).Send(t.Context(), []sink.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{path + ".1-7", path + ".10-7", path + ".2-9"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"log/1/7", "log/2/9", "log/10/7"}, ids(t, path+".1-7", path+".2-9", path+".10-7")); diff != "" {
		t.Errorf("they have (-want +got):\n%s", diff)
	}
	if err := (&sink.File{Path: path}).Send(t.Context(), []sink.Event{event("log", 2, 9), event("log", 10, 8)}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"log/10/8"}, ids(t, path)); diff != "" {
		t.Errorf("the new file has (-want +got):\n%s", diff)
	}
}

// TestAFileThatIsNotTheSinksIsLeftAsItIs names files that hold something else.
func TestAFileThatIsNotTheSinksIsLeftAsItIs(t *testing.T) {
	const line = `{"@timestamp":"2026-11-23T12:00:00Z","event":{"id":"%s"}}` + "\n"
	own := fmt.Sprintf(line, "log/0/3")
	for name, text := range map[string]string{
		"lines of something else":                            "{\"x\":1}\n",
		"something that has no lines":                        "\x00\x01 a database",
		"a line that somebody is writing":                    "2026-11-23 12:00:00 sshd",
		"lines of something else, and one that is not whole": "a\nb",
		"events of another log":                              fmt.Sprintf(line, "other/0/3"),
		"events of another log, and half of one":             fmt.Sprintf(line, "other/0/3") + `{"@time`,
		"events of a log whose name goes on":                 fmt.Sprintf(line, "logs/0/3"),
		"an event without an epoch":                          fmt.Sprintf(line, "log/3"),
		"events, and then something else":                    own + "x\n",
		"events, and an empty line":                          own + "\n",
		"a line that is longer than events are":              strings.Repeat("x", 64*audit.MaxRecord) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			write(t, path, text)
			err := (&sink.File{Path: path}).Send(t.Context(), []sink.Event{event("log", 0, 4)})
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move the file away, or name another") {
				t.Errorf("error %v", err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("the file was changed: %.100q, %v", got, err)
			}
		})
	}
}

// TestAFileThatWasPutAsideByAnotherLog is no word about this one.
func TestAFileThatWasPutAsideByAnotherLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := (&sink.File{Path: path, MaxSize: 1}).Send(t.Context(), []sink.Event{event("other", 0, 9)}); err != nil {
		t.Fatal(err)
	}
	err := (&sink.File{Path: path}).Send(t.Context(), []sink.Event{event("log", 0, 4)})
	if err == nil || !strings.Contains(err.Error(), path+".0-9 does not end in an event of the log log") {
		t.Errorf("error %v", err)
	}
}

// TestALineThatACrashCutIsTakenAway goes on after whole lines, long ones too, or at the beginning.
func TestALineThatACrashCutIsTakenAway(t *testing.T) {
	long := event("log", 0, 3)
	long.Own.Record = make([]byte, audit.MaxRecord)
	for _, before := range [][]sink.Event{nil, {event("log", 0, 3)}, {event("log", 0, 2), long}} {
		for _, cut := range []string{"", `{`, `{"@timestamp":"2026`, `{"@timestamp":"2026-11-23T12:00:00Z","event":{"id":"log/0/4"}}`} {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			write(t, path, "")
			if len(before) > 0 {
				if err := (&sink.File{Path: path}).Send(t.Context(), before); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(text)+cut)
			if err := (&sink.File{Path: path}).Send(t.Context(), []sink.Event{event("log", 0, 4)}); err != nil {
				t.Fatalf("after %q: %v", cut, err)
			}
			want := []string{}
			for _, e := range slices.Concat(before, []sink.Event{event("log", 0, 4)}) {
				want = append(want, e.Event.ID)
			}
			if diff := cmp.Diff(want, ids(t, path)); diff != "" {
				t.Errorf("after %q the file has (-want +got):\n%s", cut, diff)
			}
		}
	}
}

// TestWhatIsNoRegularFileIsNotOpened names what it might take for ever to open, read or write.
func TestWhatIsNoRegularFileIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, dir} {
		err := (&sink.File{Path: path}).Send(t.Context(), []sink.Event{event("log", 0, 4)})
		if err == nil || !strings.Contains(err.Error(), path+" is not a regular file: name one") {
			t.Errorf("%s: error %v", path, err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
