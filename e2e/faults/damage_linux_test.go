package faults_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"go.etcd.io/bbolt"
)

const page = 4096

// history is a log as it is and as it was, and that of another CA.
type history struct {
	now, then, other  []byte
	nowHead, thenHead []byte
	contents          map[string]string // of now
}

// withHistory makes an authority that has issued a while.
func withHistory(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	a, b := newAuthority(t, filepath.Join(t.TempDir(), "ca")), newAuthority(t, filepath.Join(t.TempDir(), "other"))
	h := &history{}
	for _, next := range []struct {
		of         *authority
		file, head *[]byte
	}{{a, &h.then, &h.thenHead}, {b, &h.other, new([]byte)}, {a, &h.now, &h.nowHead}} {
		p := next.of.start(t)
		l := next.of.load(t, p)
		next.of.busy(t, p, next.of.seen.counts())
		l.stop()
		p.stop(t)
		*next.file, *next.head = readFile(t, next.of.log()), readFile(t, next.of.log()+".head")
	}
	h.contents = logfile.Contents(t, a.log())
	a.old = h
	return a
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A damage is what may become of the file of a log. It returns what it is then; the file at path is good, and may be edited.
type damage struct {
	name string
	do   func(t *testing.T, h *history, path string, random *rand.Rand) []byte
	// refused says that no daemon goes on from it.
	refused bool
}

var damages = []damage{
	{name: "a byte is another", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		bad[used(h.now, random)] ^= byte(1 + random.IntN(255))
		return bad
	}},
	{name: "a bit is another", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		return bad
	}},
	{name: "a page is empty", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		clear(pageOf(bad, used(h.now, random)/page))
		return bad
	}},
	{name: "a sector is of another page", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		at := used(h.now, random) / 512 * 512
		copy(bad[at:at+512], h.now[random.IntN(len(bad)/512)*512:])
		return bad
	}},
	{name: "two pages are exchanged", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		one, other := used(h.now, random)/page, used(h.now, random)/page
		copy(pageOf(bad, one), pageOf(h.now, other))
		copy(pageOf(bad, other), pageOf(h.now, one))
		return bad
	}},
	{name: "a page is as it was earlier", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		bad := bytes.Clone(h.now)
		n := random.IntN(min(len(h.now), len(h.then)) / page)
		copy(pageOf(bad, n), pageOf(h.then, n))
		return bad
	}},
	{name: "the file is cut off", do: func(_ *testing.T, h *history, _ string, random *rand.Rand) []byte {
		return h.now[:random.IntN(len(h.now))]
	}},
	{name: "the newest records are missing", refused: true, do: func(t *testing.T, _ *history, path string, random *rand.Rand) []byte {
		return edit(t, path, func(tx *bbolt.Tx) error {
			c := tx.Bucket([]byte("records")).Cursor()
			for range 1 + random.IntN(20) {
				c.Last()
				if err := c.Delete(); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{name: "two records are exchanged", do: func(t *testing.T, _ *history, path string, random *rand.Rand) []byte {
		return edit(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("records"))
			one, other := someRecord(b, random), someRecord(b, random)
			x, y := bytes.Clone(b.Get(one)), bytes.Clone(b.Get(other))
			if err := b.Put(one, y); err != nil {
				return err
			}
			return b.Put(other, x)
		})
	}},
	{name: "a record says something else", do: func(t *testing.T, _ *history, path string, random *rand.Rand) []byte {
		return edit(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("records"))
			key := someRecord(b, random)
			record := bytes.Clone(b.Get(key))
			record[random.IntN(len(record))] ^= byte(1 + random.IntN(255))
			return b.Put(key, record)
		})
	}},
	{name: "a record is missing", do: func(t *testing.T, _ *history, path string, random *rand.Rand) []byte {
		return edit(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("records"))
			return b.Delete(someRecord(b, random))
		})
	}},
	{name: "a fact is missing", do: func(t *testing.T, _ *history, path string, random *rand.Rand) []byte {
		return edit(t, path, func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("facts"))
			c := b.Cursor()
			k, _ := c.First()
			for range random.IntN(b.Stats().KeyN) {
				k, _ = c.Next()
			}
			return b.Delete(k)
		})
	}},
	{name: "it is rolled back", refused: true, do: func(_ *testing.T, h *history, _ string, _ *rand.Rand) []byte { return h.then }},
	{name: "it is that of another CA", refused: true, do: func(_ *testing.T, h *history, _ string, _ *rand.Rand) []byte { return h.other }},
}

func pageOf(file []byte, n int) []byte { return file[n*page : (n+1)*page] }

// used is the place of a byte that is not 0: much of the file is empty.
func used(file []byte, random *rand.Rand) int {
	for {
		if at := random.IntN(len(file)); file[at] != 0 {
			return at
		}
	}
}

func someRecord(b *bbolt.Bucket, random *rand.Rand) []byte {
	return binary.BigEndian.AppendUint64(nil, random.Uint64N(uint64(b.Stats().KeyN)))
}

// edit changes the log in the file, and returns the file.
func edit(t *testing.T, path string, change func(*bbolt.Tx) error) []byte {
	t.Helper()
	logfile.Edit(t, path, change)
	return readFile(t, path)
}

// damaged damages the file. Either `hallpass audit verify` says so, with the head that the file had, or what the log holds is the same
// as before, to the byte; a daemon that starts on it all the same goes on from a log of which that is known.
func damaged(t *testing.T, a *authority, random *rand.Rand) {
	h, d := a.old, damages[random.IntN(len(damages))]
	defer func() {
		writeFile(t, a.log(), h.now)
		writeFile(t, a.log()+".head", h.nowHead)
	}()
	bad := d.do(t, h, a.log(), random)
	copied := filepath.Join(t.TempDir(), "damaged.db")
	writeFile(t, copied, bad)
	head := filepath.Join(t.TempDir(), "head")
	writeFile(t, head, h.nowHead)
	out, verifyErr := a.audit(copied, head)
	outcome := "found"
	switch {
	case verifyErr != nil && (!bytes.Contains(out, []byte("hallpass: ")) || bytes.Contains(out, []byte("goroutine "))):
		t.Errorf("%s: it fails without a word: %v\n%s", d.name, verifyErr, out)
	case verifyErr != nil:
	case maps.Equal(h.contents, logfile.Contents(t, copied)):
		outcome = "harmless, where nothing leads to"
	default:
		t.Errorf("%s, and that is accepted:\n%s", d.name, out)
	}
	writeFile(t, a.log(), bad)
	p := a.launch(t)
	if p.listening() != "" {
		p.kill(t)
		if d.refused {
			t.Errorf("%s, and a daemon goes on from it", d.name)
		}
		t.Logf("%s: %s", d.name, outcome)
		return
	}
	t.Logf("%s: %s, and no daemon starts", d.name, outcome)
	if p.wait(t) != 1 {
		t.Errorf("%s: the daemon ended with %v, want 1", d.name, p.cmd.ProcessState)
	}
	p.says(t, "open log")
}

// putBack puts an older file in the place of the log, as somebody does who restores a backup by hand: it is refused; if the older head
// comes with it, whoever has a newer checkpoint finds out. Then it is restored as it should be, with the loss accepted: no serial
// comes twice.
func putBack(t *testing.T, a *authority, random *rand.Rand) {
	work := func() (file, head []byte) {
		p := a.start(t)
		l := a.load(t, p)
		a.busy(t, p, a.seen.counts())
		l.stop()
		p.stop(t)
		return readFile(t, a.log()), readFile(t, a.log()+".head")
	}
	then, thenHead := work()
	size := recordsIn(t, thenHead)
	_, nowHead := work()
	dir := t.TempDir()
	backup, newest := filepath.Join(dir, "backup.db"), filepath.Join(dir, "newest")
	writeFile(t, backup, then)
	writeFile(t, newest, nowHead)

	writeFile(t, a.log(), then)
	p := a.launch(t)
	if code := p.wait(t); code != 1 {
		t.Errorf("the daemon with an older log ended with %d, want 1", code)
	}
	p.says(t, "are missing")
	if out, err := a.audit(a.log(), newest); err == nil || !bytes.Contains(out, []byte("missing")) {
		t.Errorf("an older log is whole, although a newer checkpoint of it is known: %v\n%s", err, out)
	}

	restore := []string{"restore", "--dir", a.dir, "--from", backup, "--reason", "the disk was lost"}
	if out, err := exec.Command(hallpassd, restore...).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("are missing")) {
		t.Errorf("records are lost without a question: %v\n%s", err, out)
	}
	if out, err := exec.Command(hallpassd, append(restore, "--accept-loss")...).CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	a.seen.forget(size)
	a.past = nil // what was lost is known to the old checkpoints
	work()
	a.again(t, random)
}

// recordsIn is how many records a checkpoint is of.
func recordsIn(t *testing.T, signed []byte) uint64 {
	t.Helper()
	c, err := audit.ReadCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	return c.Size
}
