package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

const page = 4096

// A commit is what one commit did to the file.
type commit struct {
	name          string
	before, after []byte
	size          uint64 // of the log, after it
	head          []byte // the newest that may lie beside the file until the commit is durable
}

// commits plays a scenario that goes through everything a commit can be, and returns what each commit did to the file.
func commits(t *testing.T, cfg bolt.Config, clock *storetest.Clock) []commit {
	t.Helper()
	path := newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	grant := func(subject string) error {
		_, err := f.Record(t, f.Grant(t, subject))
		return err
	}
	var done []commit
	step := func(name string, do func() error) {
		t.Helper()
		before := read(t, path)
		head, err := s.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		size, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, commit{name, before, read(t, path), size, head})
	}
	step("a first grant", func() error { return grant("alice") })
	step("a refusal", func() error {
		a := f.Grant(t, "bob")
		a.Refusal, a.Authority, a.Proven = ca.Errorf(ca.Denied, "no"), "", false
		_, err := f.Record(t, a)
		return err
	})
	step("a policy with large files", func() error {
		f.Policy.Digest[0]++
		return f.Recorder.LoadPolicy(t.Context(), store.PolicyLoad{
			Policy: f.Policy, Source: "p", Cause: "reload", Engine: "cel", Blobs: [][]byte{bytes.Repeat([]byte("x"), 100_000)},
		})
	})
	clock.Move(24 * time.Hour)
	step("a grant that forgets what expired", func() error { return grant("alice") })
	for i := range 40 {
		if err := grant(fmt.Sprint("user", i)); err != nil {
			t.Fatal(err)
		}
	}
	step("a grant in a log of several levels", func() error { return grant("alice") })
	for size, err := s.Size(t.Context()); size < audit.BlockSize-1; size, err = s.Size(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), storetest.Refused("fills the block")); err != nil { // which is checked sooner than a grant
			t.Fatal(err)
		}
	}
	step("a grant that completes a block of the index", func() error { return grant("alice") })
	return done
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// points calls at with the file as it is after each write of the commit, and in the middle of each: bbolt makes the file longer,
// writes the pages in their order, and then one of the first two, its meta pages. Of a meta page what counts is in one sector. When
// the power is lost before the first sync, the disk has any of the pages, or parts of them.
func (c commit) points(at func(name string, file []byte, committed bool)) {
	random := rand.New(rand.NewPCG(c.size, 0))
	for n := range subsets {
		at(fmt.Sprintf("with some of the pages written (%d)", n), c.some(random), false)
	}
	file := make([]byte, len(c.after))
	copy(file, c.before)
	at("before the first write", file, false)
	for _, meta := range []bool{false, true} {
		for i := 0; i < len(c.after); i += page {
			if meta != (i < 2*page) || bytes.Equal(file[i:i+page], c.after[i:i+page]) {
				continue
			}
			copy(file[i:i+page/2], c.after[i:])
			at(fmt.Sprintf("in the write of page %d", i/page), file, meta)
			copy(file[i:i+page], c.after[i:])
			at(fmt.Sprintf("after the write of page %d", i/page), file, meta)
		}
	}
}

// subsets is how many of them are tried.
const subsets = 6

// some is the file with some of the pages that the commit writes before its first sync.
func (c commit) some(random *rand.Rand) []byte {
	file := make([]byte, len(c.after))
	copy(file, c.before)
	for i := 2 * page; i < len(c.after); i += page / 8 {
		if random.IntN(2) == 0 {
			copy(file[i:i+page/8], c.after[i:])
		}
	}
	return file
}

// TestCrashAtEachWrite opens the file as a crash leaves it at each point of each commit: every record that was acknowledged is
// there, the new one is there or not, the log verifies, its facts are those of its records, and it goes on without a serial used
// twice. With the marker of a commit in doubt, the log is rebuilt first, and all this holds too.
func TestCrashAtEachWrite(t *testing.T) {
	t.Parallel()
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	points := 0
	for _, c := range commits(t, cfg, clock) {
		c.points(func(name string, file []byte, committed bool) {
			points++
			for _, suspect := range []bool{false, true} {
				path := newPath(t)
				write(t, path, file)
				write(t, path+".head", c.head)
				if suspect {
					write(t, path+".suspect", nil)
				}
				want := c.size - 1
				if committed {
					want = c.size
				}
				if !survives(t, path, cfg, want) {
					t.Fatalf("a crash %s of %s, in doubt: %v", name, c.name, suspect)
				}
				if _, err := os.Stat(path + ".suspect"); !os.IsNotExist(err) {
					t.Fatalf("the marker is still there: %v", err)
				}
			}
		})
	}
	if points < 50 {
		t.Errorf("only %d points were tried", points)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// survives says whether the log opens with this many records and goes on.
func survives(t *testing.T, path string, cfg bolt.Config, want uint64) bool {
	t.Helper()
	s, err := bolt.Open(path, cfg)
	if err != nil {
		t.Error(err)
		return false
	}
	defer s.Close()
	storetest.Check(t, s)
	if size, err := s.Size(t.Context()); err != nil || size != want {
		t.Errorf("%d records, want %d; error %v", size, want, err)
	}
	a := storetest.Refused("goes on")
	if index, err := s.Append(t.Context(), a); err != nil || index != want {
		t.Errorf("the next record is %d, want %d; error %v", index, want, err)
	}
	storetest.Check(t, s)
	return !t.Failed()
}

// TestReadsOnlyWhatIsDurable shows that a commit which is written but not synced is not read: the file has it, the log did not
// hear of its sync.
func TestReadsOnlyWhatIsDurable(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	c := commits(t, cfg, clock)[0]
	path := newPath(t)
	write(t, path, c.before)
	write(t, path+".head", c.head)
	s := open(t, path, cfg)
	if got := len(storetest.Records(t, s)); uint64(got) != c.size-1 {
		t.Fatalf("%d records before the commit, want %d", got, c.size-1)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(c.after, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if records, err := s.Records(ctx, c.size-1, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %d records that are not durable, error %v", len(records), err)
	}
}
