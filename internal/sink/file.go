package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/audit"
)

const (
	// defaultMaxSize is when a file is put aside, in bytes.
	defaultMaxSize = 100 << 20
	// maxLine is more than an event has, in bytes. It holds the record in base64 and as JSON, where a character may take six, a refusal
	// again as its reason, and an identity.
	maxLine = 32 * audit.MaxRecord
	// eventBegins is what the line of an event begins with.
	eventBegins = `{"@timestamp":"`
)

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
	file, err := openRegular(f.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY)
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

// recover finds the newest event that was written, here or in a file put aside, and takes an unfinished line away. A file that holds
// anything else than events of the log is left as it is.
func (f *File) recover(logID string) error {
	f.empty = true
	full, err := f.full()
	if err != nil {
		return err
	}
	if n := len(full); n > 0 {
		if _, _, err := f.look(f.aside(full[n-1]), logID); err != nil {
			return err
		}
	}
	whole, rest, err := f.look(f.Path, logID)
	if err != nil || rest == 0 {
		return err
	}
	if err := os.Truncate(f.Path, whole); err != nil {
		return fmt.Errorf("take an unfinished line away: %w", err)
	}
	return nil
}

// look finds the last event of a file, and how many bytes it has in whole lines and after them.
func (f *File) look(path, logID string) (whole int64, rest int, err error) {
	file, err := openRegular(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	line, unfinished, whole, err := lastLine(file)
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	begins := strings.HasPrefix(string(unfinished), eventBegins) || strings.HasPrefix(eventBegins, string(unfinished))
	if line == nil && begins {
		return whole, len(unfinished), nil
	}
	var (
		e  Event
		ok bool
	)
	if err = json.Unmarshal(line, &e); err == nil {
		f.last, ok = placeOf(e.Event.ID, logID)
	}
	if !ok {
		return 0, 0, fmt.Errorf("%s does not end in an event of the log %s, so it is not this sink's: move the file away, or name another", path, logID)
	}
	f.empty = false
	return whole, len(unfinished), nil
}

func openRegular(path string, flag int) (*os.File, error) {
	if err := CheckRegular(path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, flag, 0o600)
}

// CheckRegular refuses what is there and no regular file, such as a named pipe or a device: to open or write it may never come to an end.
func CheckRegular(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: name one", path)
	}
	return nil
}

// lastLine returns the last whole line of a file, nil if it has none, what follows it, and where that begins.
func lastLine(file *os.File) (line, rest []byte, whole int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return nil, nil, 0, err
	}
	for n := int64(64 << 10); ; n *= 4 {
		from := max(0, info.Size()-n)
		tail := make([]byte, info.Size()-from)
		if _, err := file.ReadAt(tail, from); err != nil {
			return nil, nil, 0, err
		}
		end := bytes.LastIndexByte(tail, '\n')
		begin := bytes.LastIndexByte(tail[:max(0, end)], '\n')
		switch {
		case end >= 0 && (begin >= 0 || from == 0):
			return tail[begin+1 : end], tail[end+1:], from + int64(end) + 1, nil
		case from == 0:
			return nil, tail, 0, nil
		case n >= 2*maxLine:
			return nil, nil, 0, fmt.Errorf("its last line has more than %d bytes, which no event has: move the file away, or name another", maxLine)
		}
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
