package sink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defaultMaxSize is when a file is put aside, in bytes.
const defaultMaxSize = 100 << 20

// File writes JSON lines. When the file has reached MaxSize it is put aside as "<path>.<epoch>-<index>" of its last record, and the
// oldest of those beyond Keep are removed. An event is written to it once: what it already has is not written again, and a line that a
// crash left unfinished is taken away first.
type File struct {
	Path string
	// MaxSize is in bytes; zero means 100 MiB.
	MaxSize int64
	// Keep is how many full files are kept; zero means all.
	Keep int

	checked bool  // the end of the file was looked at
	empty   bool  // no event was ever written
	last    place // of the newest that was
}

// Send implements Target.
func (f *File) Send(_ context.Context, events []Event) error {
	if !f.checked {
		if err := f.recover(events[0].Own.Log); err != nil {
			return err
		}
		f.checked = true
	}
	var lines bytes.Buffer
	last, empty := f.last, f.empty
	for _, e := range events {
		at, ok := placeOf(e.Event.ID, e.Own.Log)
		if !ok {
			return fmt.Errorf("the event %q is none of the log %s", e.Event.ID, e.Own.Log)
		}
		if !empty && !at.after(last) {
			continue // written before a crash
		}
		e.Own.Redelivered = false // the file would have it
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		lines.Write(append(line, '\n'))
		last, empty = at, false
	}
	if lines.Len() == 0 {
		return nil
	}
	f.checked = false // what an error leaves behind is looked at before anything else is written
	size, err := f.append(lines.Bytes())
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	f.last, f.empty, f.checked = last, false, true
	limit := f.MaxSize
	if limit == 0 {
		limit = defaultMaxSize
	}
	if size < limit {
		return nil
	}
	return f.rotate()
}

func (f *File) append(lines []byte) (size int64, err error) {
	file, err := os.OpenFile(f.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = file.Write(lines)
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr, file.Sync(), file.Close()); err != nil {
		return 0, err
	}
	return info.Size(), syncDir(filepath.Dir(f.Path))
}

// recover finds the newest event that was written, here or in a file put aside, and takes an unfinished line away.
func (f *File) recover(logID string) error {
	f.empty = true
	full, err := f.full()
	if err != nil {
		return err
	}
	if n := len(full); n > 0 {
		f.last, f.empty = full[n-1], false
	}
	file, err := os.OpenFile(f.Path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	end, line, err := lastLine(file)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	if err := errors.Join(file.Truncate(end), file.Sync()); err != nil {
		return fmt.Errorf("take an unfinished line from %s: %w", f.Path, err)
	}
	if line == nil {
		return nil
	}
	var (
		e  Event
		ok bool
	)
	if err = json.Unmarshal(line, &e); err == nil {
		f.last, ok = placeOf(e.Event.ID, logID)
	}
	if !ok {
		return fmt.Errorf("%s ends in a line that is no event of this log: move the file away", f.Path)
	}
	f.empty = false
	return nil
}

// lastLine returns the last whole line of a file and the offset behind it.
func lastLine(r io.Reader) (end int64, line []byte, err error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, line, nil
		}
		if err != nil {
			return 0, nil, err
		}
		end, line = end+int64(len(text)), text
	}
}

// rotate puts the file aside.
func (f *File) rotate() error {
	if err := os.Rename(f.Path, f.aside(f.last)); err != nil {
		return fmt.Errorf("put %s aside: %w", f.Path, err)
	}
	full, err := f.full()
	if err != nil {
		return err
	}
	for len(full) > f.Keep && f.Keep > 0 {
		if err := os.Remove(f.aside(full[0])); err != nil {
			return fmt.Errorf("remove the oldest file: %w", err)
		}
		full = full[1:]
	}
	return syncDir(filepath.Dir(f.Path))
}

// aside is the name of a file that was put aside, by the last event in it.
func (f *File) aside(last place) string { return f.Path + "." + last.text("-") }

// full lists the files that were put aside by the last event of each, in order.
func (f *File) full() ([]place, error) {
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil {
		return nil, err
	}
	var full []place
	for _, entry := range entries {
		rest, ok := strings.CutPrefix(entry.Name(), filepath.Base(f.Path)+".")
		if last, plain := parsePlace(rest, "-"); ok && plain {
			full = append(full, last)
		}
	}
	slices.SortFunc(full, place.compare)
	return full, nil
}

// Close implements Target.
func (f *File) Close() error { return nil }
