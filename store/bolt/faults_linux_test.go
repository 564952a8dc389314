package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"golang.org/x/sys/unix"
)

// descriptor returns that of the open file.
func descriptor(t testing.TB, path string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && target == path {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	t.Fatalf("%s is not open", path)
	return -1
}

// breakSync puts /dev/null in the place of the open file, where writes succeed and fdatasync fails with EINVAL. It returns what
// puts the file back.
func breakSync(t testing.TB, path string) (back func()) {
	t.Helper()
	fd := descriptor(t, path)
	saved, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Dup3(int(d.Fd()), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(unix.Dup3(saved, fd, unix.O_CLOEXEC), unix.Close(saved)); err != nil {
			t.Fatal(err)
		}
	}
}

const appends = 30

// inChild runs the test in a process of its own, whose limits are nobody else's, beside the other tests, and says whether this is
// that process.
func inChild(t *testing.T) bool {
	t.Helper()
	const mark = "BOLT_TEST_CHILD"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), program, "-test.v", "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), mark+"="+t.Name())
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// limitFiles lets this process write no file beyond size, and returns what lifts the limit: the write that would fails with EFBIG,
// as it would with ENOSPC on a disk that is full.
func limitFiles(t testing.TB, size int64) (lift func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(size), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteRefused refuses each write of each append of a scenario, and that by which the file grows: the append fails, nothing
// else does, and it works once there is room.
func TestWriteRefused(t *testing.T) {
	if !inChild(t) {
		return
	}
	clock := storetest.NewClock()
	path := newPath(t)
	s := create(t, path, newConfig(t, clock.Now))
	f := storetest.NewFixture(t, s, clock.Now)
	refusals := 0
	for i := range appends {
		before, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for limit := int64(2 * page); ; limit += page {
			lift := limitFiles(t, limit)
			index, err := f.Record(t, f.Grant(t, fmt.Sprint("user", i)))
			lift()
			if err == nil {
				if index != before {
					t.Fatalf("append %d: index %d, want %d", i, index, before)
				}
				break
			}
			if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrInDoubt) {
				t.Fatalf("append %d with room for %d pages: error %v, want %v", i, limit/page, err, store.ErrUnavailable)
			}
			if after, err := s.Size(t.Context()); err != nil || after != before {
				t.Fatalf("append %d with room for %d pages: %d records, %d before; error %v", i, limit/page, after, before, err)
			}
			refusals++
		}
		storetest.Check(t, s)
	}
	if refusals < 5*appends {
		t.Errorf("only %d writes were refused", refusals)
	}
	select {
	case <-s.Dead():
		t.Error("the log is dead")
	default:
	}
}

// TestWriteRefusedWhereABlockEnds refuses each write of the append that completes a block of the index, and of those around it: what
// an append that failed had told the index is not in it.
func TestWriteRefusedWhereABlockEnds(t *testing.T) {
	if !inChild(t) {
		return
	}
	clock := storetest.NewClock()
	s := create(t, newPath(t), newConfig(t, clock.Now))
	f := storetest.NewFixture(t, s, clock.Now)
	refusals := 0
	for size := uint64(0); size < audit.BlockSize+3; {
		var err error
		if size, err = s.Size(t.Context()); err != nil {
			t.Fatal(err)
		}
		for limit := int64(2 * page); size >= audit.BlockSize-3 && limit < 1<<24; limit += 4 * page {
			lift := limitFiles(t, limit)
			_, err := f.Record(t, f.Grant(t, fmt.Sprint("refused", limit)))
			lift()
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrUnavailable) {
				t.Fatal(err)
			}
			refusals++
		}
		if _, err := f.Record(t, f.Grant(t, fmt.Sprint("user", size))); err != nil {
			t.Fatal(err)
		}
	}
	if storetest.Check(t, s); refusals < 20 {
		t.Errorf("only %d writes were refused", refusals)
	}
}

// TestSyncFails makes fdatasync fail at every append of a scenario: the log is dead at once and for good, and the next Open does
// not trust the file.
func TestSyncFails(t *testing.T) {
	clock := storetest.NewClock()
	path, cfg := newPath(t), newConfig(t, clock.Now)
	s := create(t, path, cfg)
	syncs := 0
	for i := range appends {
		acknowledged, err := s.Append(t.Context(), storetest.Refused(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		back := breakSync(t, path)
		_, err = s.Append(t.Context(), storetest.Refused("in doubt"))
		if !errors.Is(err, store.ErrInDoubt) {
			t.Fatalf("append %d: error %v, want %v", i, err, store.ErrInDoubt)
		}
		if errors.Is(err, unix.EINVAL) { // else the file was to grow, and that failed first
			syncs++
		}
		<-s.Dead()
		back()
		if _, err := s.Append(t.Context(), storetest.Refused("after that")); !errors.Is(err, store.ErrInDoubt) {
			t.Fatalf("append to a dead log: error %v, want %v", err, store.ErrInDoubt)
		}
		if err := s.Wait(t.Context(), 1<<40); !errors.Is(err, store.ErrInDoubt) {
			t.Fatalf("wait for a dead log: error %v, want %v", err, store.ErrInDoubt)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path + ".suspect"); err != nil {
			t.Fatalf("the marker: %v", err)
		}
		old, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		s = open(t, path, cfg)
		if fresh, err := os.Stat(path); err != nil || os.SameFile(old, fresh) {
			t.Fatalf("the file is the same as before; error %v", err)
		}
		storetest.Check(t, s)
		if size, err := s.Size(t.Context()); err != nil || size != acknowledged+1 {
			t.Fatalf("%d records, %d acknowledged; error %v", size, acknowledged+1, err)
		}
	}
	if syncs < appends/3 {
		t.Errorf("only %d times it was the sync that failed", syncs)
	}
}
