package sink_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
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
