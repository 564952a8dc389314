package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
)

// cursor is where a sink stopped, in a file of its own.
type cursor struct {
	path string
	position
	back bool // the log was restored, and records that were sent are not in it any more
}

// position is what the file holds.
type position struct {
	// Log is the log whose records were sent: the cursor of one is worth nothing for another.
	Log string `json:"log"`
	// Epochs are those that restores had begun in the log when this was written. What a later one lost was sent, and what took its
	// place was not.
	Epochs []epoch `json:"epochs,omitempty"`
	// Next is the first record that was not handed over.
	Next uint64 `json:"next"`
	// Trying is beyond the last record that was under way: those from Next on may have arrived.
	Trying uint64 `json:"trying"`
}

// epoch is what a restore began, at the record whose index is the size of the backup.
type epoch struct {
	Epoch uint32 `json:"epoch"`
	Begin uint64 `json:"begin"`
}

// openCursor reads the cursor of a sink of a log, or begins one before the first record.
func openCursor(ctx context.Context, log store.Reader, logID, path string) (*cursor, error) {
	now, err := epochs(ctx, log)
	if err != nil {
		return nil, err
	}
	c := &cursor{path: path, position: position{Log: logID, Epochs: now}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the sink stopped: %w", err)
	}
	c.Epochs = nil // unless the file says others
	if err := json.Unmarshal(text, &c.position); err != nil {
		return nil, fmt.Errorf("read where the sink stopped: %s: %w: remove it to send the log from its beginning", path, err)
	}
	if c.Log != logID {
		return nil, fmt.Errorf("%s says where a sink of the log %q stopped, and this is the log %q: remove it to send this log from its beginning", path, c.Log, logID)
	}
	c.restored(now)
	return c, nil
}

// restored goes back to where the log parted from the one that was sent: an epoch that began in one of them only is no part of what they
// have in common.
func (c *cursor) restored(now []epoch) {
	for _, e := range slices.Concat(c.Epochs, now) {
		if slices.Contains(c.Epochs, e) && slices.Contains(now, e) {
			continue
		}
		c.back = c.back || e.Begin < c.Next
		c.Next, c.Trying = min(c.Next, e.Begin), min(c.Trying, e.Begin)
	}
	c.Epochs = now
}

// epochs returns those that restores began in a log, oldest first.
func epochs(ctx context.Context, log store.Reader) ([]epoch, error) {
	statements, err := store.Restores(ctx, log)
	if err != nil {
		return nil, err
	}
	var all []epoch
	for _, s := range statements {
		r, err := audit.ReadRestore([]byte(s))
		if err != nil {
			return nil, err
		}
		all = append(all, epoch{r.Epoch, r.Base.Size})
	}
	return all, nil
}

// try notes durably that the records before end are under way.
func (c *cursor) try(end uint64) error {
	if c.Trying >= end {
		return nil
	}
	return c.write(position{Log: c.Log, Epochs: c.Epochs, Next: c.Next, Trying: end})
}

// done notes durably that the records before end were handed over.
func (c *cursor) done(end uint64) error {
	return c.write(position{Log: c.Log, Epochs: c.Epochs, Next: end, Trying: max(c.Trying, end)})
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
