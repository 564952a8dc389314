package policy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// packLimits bound what a remote may make us store, and spend on it.
type packLimits struct {
	bytes    int64 // of a pack, as sent
	object   int64 // of one object, unfolded
	unfolded int64 // of all of them
	objects  int
}

// newPackLimits derives them from the size of a pack. Objects unfold to a multiple of it, but not without end.
func newPackLimits(size int64) packLimits {
	return packLimits{bytes: size, object: max(size/4, 1<<20), unfolded: 16 * size, objects: 200_000}
}

func (l packLimits) tooMany(n int) error {
	return fmt.Errorf("the repository has %d new objects, more than %d: keep policies in a repository of their own", n, l.objects)
}

func (l packLimits) tooLarge(what string, size int64) error {
	return fmt.Errorf("the repository has an object of %d bytes (%s), more than %d: keep policies in a repository of their own, or raise max_size_mib",
		size, what, l.object)
}

// receive stores a pack that a remote sends. It goes to a file first, and is looked through there: what unfolds it for good takes
// as much memory as the pack says its objects need.
func (l packLimits) receive(ctx context.Context, dir string, into storer.Storer, pack io.Reader) error {
	file, err := os.CreateTemp(dir, "incoming-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := io.Copy(file, patient{ctx, &budget{pack, l.bytes, l.bytes}}); err != nil {
		return fmt.Errorf("receive commits: %w", err)
	}
	if err := l.check(ctx, file); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := packfile.UpdateObjectStorage(into, patient{ctx, file}); err != nil {
		return fmt.Errorf("store commits: %w", err)
	}
	return nil
}

// check looks through a pack without keeping anything of it.
func (l packLimits) check(ctx context.Context, file *os.File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(patientFile{patient{ctx, file}, file})
	_, count, err := scanner.Header()
	if err != nil {
		return fmt.Errorf("read the pack that the remote sent: %w", err)
	}
	if int64(count) > int64(l.objects) {
		return l.tooMany(int(count))
	}
	left := l.unfolded
	for range count {
		header, err := scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("read the pack that the remote sent: %w", err)
		}
		size := header.Length
		if size < 0 || size > l.object {
			return l.tooLarge(fmt.Sprintf("at %d", header.Offset), size)
		}
		start := &deltaStart{}
		if _, _, err := scanner.NextObject(start); err != nil {
			return fmt.Errorf("read the pack that the remote sent: %w", err)
		}
		if header.Type == plumbing.OFSDeltaObject || header.Type == plumbing.REFDeltaObject {
			if size, err = start.target(); err != nil {
				return err
			}
			if size > l.object {
				return l.tooLarge(fmt.Sprintf("at %d", header.Offset), size)
			}
		}
		if left -= size; left < 0 {
			return fmt.Errorf("the commits unfold to more than %d bytes: keep policies in a repository of their own, or raise max_size_mib", l.unfolded)
		}
	}
	return nil
}

// deltaStart keeps the first bytes of an object: a delta begins with the sizes of what it changes and of what comes out.
type deltaStart struct{ b []byte }

func (d *deltaStart) Write(p []byte) (int, error) {
	const most = 2 * binary.MaxVarintLen64
	d.b = append(d.b, p[:min(len(p), most-len(d.b))]...)
	return len(p), nil
}

func (d *deltaStart) target() (int64, error) {
	_, n := binary.Uvarint(d.b)
	if n > 0 {
		if size, m := binary.Uvarint(d.b[n:]); m > 0 && size < 1<<62 {
			return int64(size), nil
		}
	}
	return 0, fmt.Errorf("read the pack that the remote sent: a delta without its sizes")
}

// patient reads until its context is done.
type patient struct {
	ctx context.Context //nolint:containedctx // it bounds this one reader, which is handed to code that takes no context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// patientFile can seek too.
type patientFile struct {
	patient
	io.Seeker
}
