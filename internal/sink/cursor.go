package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// cursor is where a sink stopped, in a file of its own.
type cursor struct {
	path string
	position
}

// position is what the file holds.
type position struct {
	// Log is the log whose records were sent: the cursor of one is worth nothing for another.
	Log string `json:"log"`
	// Next is the first record that was not handed over.
	Next uint64 `json:"next"`
	// Trying is beyond the last record that was under way: those from Next on may have arrived.
	Trying uint64 `json:"trying"`
}

// openCursor reads a cursor, or begins one before the first record.
func openCursor(path, logID string) (*cursor, error) {
	c := &cursor{path: path, position: position{Log: logID}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the sink stopped: %w", err)
	}
	if err := json.Unmarshal(text, &c.position); err != nil {
		return nil, fmt.Errorf("read where the sink stopped: %s: %w: remove it to send the log from its beginning", path, err)
	}
	if c.Log != logID {
		return nil, fmt.Errorf("%s says where a sink of the log %q stopped, and this is the log %q: remove it to send this log from its beginning", path, c.Log, logID)
	}
	return c, nil
}

// try notes durably that the records before end are under way.
func (c *cursor) try(end uint64) error {
	if c.Trying >= end {
		return nil
	}
	return c.write(position{Log: c.Log, Next: c.Next, Trying: end})
}

// done notes durably that the records before end were handed over.
func (c *cursor) done(end uint64) error {
	return c.write(position{Log: c.Log, Next: end, Trying: max(c.Trying, end)})
}

func (c *cursor) write(p position) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := replace(c.path, append(text, '\n')); err != nil {
		return fmt.Errorf("note where the sink stopped: %w", err)
	}
	c.position = p
	return nil
}

// replace writes a file that is there whole, as it was or as it is to be, whatever happens meanwhile.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
