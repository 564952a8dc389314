package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"go.etcd.io/bbolt"
)

// filled returns the path of a closed log with some records, and these.
func filled(t testing.TB, cfg bolt.Config, clock *storetest.Clock) (path string, records [][]byte) {
	t.Helper()
	path = newPath(t)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	for i := range 160 {
		if _, err := f.Record(t, f.Grant(t, fmt.Sprint("user", i%7))); err != nil {
			t.Fatal(err)
		}
	}
	records = storetest.Records(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, records
}

// TestDamage flips one byte of the file at a time: the log is refused, or it says which record is wrong, or it is whole. It is
// never shorter, and never silently another.
func TestDamage(t *testing.T) {
	t.Parallel()
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, records := filled(t, cfg, clock)
	good, head := read(t, path), read(t, path+".head")
	random := rand.New(rand.NewPCG(1, 2))
	outcomes := map[string]int{}
	var places []int
	for at := 16; at < 80; at++ { // what bbolt keeps in its two meta pages: a flip there would give it an older state
		places = append(places, at, page+at)
	}
	for range 150 {
		places = append(places, random.IntN(len(good)))
	}
	for _, at := range places {
		bad := bytes.Clone(good)
		bad[at] ^= byte(1 + random.IntN(255))
		damaged := newPath(t)
		write(t, damaged, bad)
		write(t, damaged+".head", head)
		outcome, err := inspect(t, damaged, cfg, records)
		if err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		if outcomes[outcome]++; at%page < 80 && at < 2*page && at%page >= 16 && outcome != "refused" {
			t.Errorf("byte %d of a meta page: %s", at, outcome)
		}
	}
	if outcomes["refused"] == 0 || outcomes["found by the verifier"] == 0 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// inspect returns what becomes of a damaged log, or in which way it deceives.
func inspect(t *testing.T, path string, cfg bolt.Config, want [][]byte) (string, error) {
	s, err := bolt.Open(path, cfg)
	if err != nil {
		return "refused", nil
	}
	defer s.Close()
	checkpoint, err := s.Checkpoint(t.Context())
	if err != nil {
		return "unreadable", nil
	}
	got, err := s.Records(t.Context(), 0, len(want)+10)
	if err != nil {
		return "unreadable", nil
	}
	_, err = verify.Log(func(yield func([]byte, error) bool) {
		for _, r := range got {
			if !yield(r, nil) {
				return
			}
		}
	}, checkpoint, cfg.LogKey.Verifier())
	if err != nil {
		return "found by the verifier", nil
	}
	if len(got) != len(want) {
		return "", fmt.Errorf("it verifies with %d records of %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(want[i], got[i]) {
			return "", fmt.Errorf("it verifies with another record %d", i)
		}
	}
	return "whole", nil
}

func TestOpenRefuses(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, _ := filled(t, cfg, clock)
	good, head := read(t, path), read(t, path+".head")
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string) bolt.Config
		want string
	}{
		{"a log that is not there", func(_ *testing.T, _ string) bolt.Config { return cfg }, "hallpassd init"},
		{"the key of another log", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			return newConfig(t, clock.Now)
		}, "but the log key is that of the log"},
		{"a log without key", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			return bolt.Config{}
		}, "no log key"},
		{"a log that another daemon has open", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			write(t, path+".head", head)
			open(t, path, cfg)
			return cfg
		}, "another daemon has it open"},
		{"a log that another daemon has open, in doubt", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			write(t, path+".head", head)
			open(t, path, cfg)
			write(t, path+".suspect", nil)
			return cfg
		}, "another daemon has it open"},
		{"an empty file", func(t *testing.T, path string) bolt.Config {
			write(t, path, nil)
			return cfg
		}, "beginning"},
		{"a file of something else", func(t *testing.T, path string) bolt.Config {
			write(t, path, bytes.Repeat([]byte("log\n"), 10_000))
			return cfg
		}, "not valid"},
		{"a file that was cut off", func(t *testing.T, path string) bolt.Config {
			write(t, path, good[:len(good)/2])
			return cfg
		}, "bytes and should have"},
		{"a file that was cut off, in doubt", func(t *testing.T, path string) bolt.Config {
			write(t, path, good[:len(good)/2])
			write(t, path+".suspect", nil)
			return cfg
		}, "bytes and should have"},
		{"a log of a newer program", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			logfile.Edit(t, path, func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{audit.Format + 1})
			})
			return cfg
		}, "use a newer program"},
		{"a log without its newest record", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			logfile.Edit(t, path, func(tx *bbolt.Tx) error {
				c := tx.Bucket([]byte("records")).Cursor()
				c.Last()
				return c.Delete()
			})
			return cfg
		}, "records are missing"},
		{"a log whose newest record was changed", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			logfile.Edit(t, path, func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("records"))
				k, v := b.Cursor().Last()
				return b.Put(k, bytes.Replace(v, []byte("ticket 4711"), []byte("ticket 4712"), 1))
			})
			return cfg
		}, "not what was hashed"},
		{"a log whose checkpoint is an older one", func(t *testing.T, path string) bolt.Config {
			write(t, path, good)
			old, err := cfg.LogKey.Sign(audit.Checkpoint{LogID: cfg.LogKey.ID(), Size: 3})
			if err != nil {
				t.Fatal(err)
			}
			logfile.Edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("checkpoint"), old) })
			return cfg
		}, "do not lead to the root hash"},
		{"a database of another program", func(t *testing.T, path string) bolt.Config {
			logfile.Edit(t, path, func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucket([]byte("other"))
				return err
			})
			return cfg
		}, "it is no log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			cfg := tt.make(t, path)
			before, _ := os.ReadFile(path)
			s, err := bolt.Open(path, cfg)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want one with %q", err, tt.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// TestRebuildRefuses shows that a damaged log is not taken over into a fresh file.
func TestRebuildRefuses(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, _ := filled(t, cfg, clock)
	logfile.Edit(t, path, func(tx *bbolt.Tx) error {
		b, key := tx.Bucket([]byte("records")), []byte{0, 0, 0, 0, 0, 0, 0, 9}
		return b.Put(key, bytes.Replace(b.Get(key), []byte("deploy"), []byte("myself"), 1))
	})
	write(t, path+".suspect", nil)
	before := read(t, path)
	if _, err := bolt.Open(path, cfg); err == nil || !strings.Contains(err.Error(), "root hash") {
		t.Errorf("error %v, want one about the root hash", err)
	}
	if !bytes.Equal(before, read(t, path)) {
		t.Error("the file was changed")
	}
	if _, err := os.Stat(path + ".suspect"); err != nil {
		t.Errorf("the marker is gone: %v", err)
	}
}

// TestRebuildMendsFacts shows that a fresh file has the facts that follow from the records, not those that were stored.
func TestRebuildMendsFacts(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, records := filled(t, cfg, clock)
	logfile.Edit(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("facts"))
		k, _ := b.Cursor().Seek([]byte("nonce/"))
		return b.Delete(k)
	})
	write(t, path+".suspect", nil)
	s := open(t, path, cfg)
	storetest.Check(t, s)
	if got := len(storetest.Records(t, s)); got != len(records) {
		t.Errorf("%d records, want %d", got, len(records))
	}
}

func TestCreateRefusesWhatExists(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, _ := filled(t, cfg, clock)
	before := read(t, path)
	if _, err := bolt.Create(path, cfg); err == nil || !strings.Contains(err.Error(), "never made over another") {
		t.Errorf("error %v, want a refusal", err)
	}
	if !bytes.Equal(before, read(t, path)) {
		t.Error("the file was changed")
	}
}

// TestAppendAfterClose shows that whoever waits when the log closes gets an answer.
func TestAppendAfterClose(t *testing.T) {
	clock := storetest.NewClock()
	s := create(t, newPath(t), newConfig(t, clock.Now))
	answers := make(chan error)
	for range 100 {
		go func() {
			_, err := s.Append(t.Context(), storetest.Refused("while it closes"))
			answers <- err
		}()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := <-answers; err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("error %v, want none or %v", err, store.ErrUnavailable)
		}
	}
}

// A branch page that leads to itself: bbolt would follow it for ever.
func TestPagesThatLeadInACircle(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	whole, _ := filled(t, cfg, clock)
	good, path := read(t, whole), newPath(t)
	write(t, path+".head", read(t, whole+".head"))
	circles := 0
	for at := 2 * page; at < len(good); at += page {
		number, flags, count := binary.NativeEndian.Uint64(good[at:]), binary.NativeEndian.Uint16(good[at+8:]), int(binary.NativeEndian.Uint16(good[at+10:]))
		if flags != 1 || count == 0 || number != uint64(at/page) {
			continue
		}
		bad := bytes.Clone(good)
		for i := range count {
			binary.NativeEndian.PutUint64(bad[at+16+16*i+8:], number)
		}
		write(t, path, bad)
		c, copyErr := bolt.OpenCopy(path, cfg.LogKey.Verifier())
		if copyErr == nil { // nothing leads to that page
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		circles++
		_, rawErr := bolt.OpenRaw(path)
		_, err := bolt.Open(path, cfg)
		write(t, path+".suspect", nil)
		_, suspectErr := bolt.Open(path, cfg)
		if err := os.Remove(path + ".suspect"); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{copyErr, rawErr, err, suspectErr} {
			if err == nil || !strings.Contains(err.Error(), "the file is damaged: page ") {
				t.Errorf("page %d leads to itself: error %v", number, err)
			}
		}
	}
	if circles == 0 {
		t.Error("no branch page is in use: is this still a log?")
	}
}

// Whoever can write a meta page says which tree bbolt reads: it takes the newer one, wherever it is.
func TestMetaPagesThatLeadElsewhere(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	whole, _ := filled(t, cfg, clock)
	good, path := read(t, whole), newPath(t)
	write(t, path+".head", read(t, whole+".head"))
	meta := func(file []byte, n int) []byte { return file[n*page+16 : n*page+80] }
	number := func(meta []byte, at int) uint64 { return binary.NativeEndian.Uint64(meta[at:]) }
	const root, pages, tx = 16, 40, 48
	newest := 0
	if number(meta(good, 1), tx) > number(meta(good, 0), tx) {
		newest = 1
	}
	end := number(meta(good, newest), pages)
	for _, tt := range []struct {
		name string
		root []byte // a page behind the others
		want string
	}{
		{"a page that leads to itself", func() []byte {
			b := make([]byte, page)
			binary.NativeEndian.PutUint64(b, end)
			binary.NativeEndian.PutUint16(b[8:], 1)  // a branch
			binary.NativeEndian.PutUint16(b[10:], 1) // of one
			binary.NativeEndian.PutUint32(b[16:], 16)
			binary.NativeEndian.PutUint32(b[20:], 1)
			binary.NativeEndian.PutUint64(b[24:], end)
			return b
		}(), "is reached by two ways"},
		{"a page that goes on for ever", func() []byte {
			from := number(meta(good, newest), root) * page
			b := bytes.Clone(good[from : from+page])
			binary.NativeEndian.PutUint64(b, end)
			binary.NativeEndian.PutUint32(b[12:], 1<<20)
			return b
		}(), "more than the largest value needs"},
	} {
		bad := append(bytes.Clone(good[:end*page]), tt.root...)
		m := meta(bad, 1-newest)
		copy(m, meta(bad, newest))
		binary.NativeEndian.PutUint64(m[root:], end)
		binary.NativeEndian.PutUint64(m[pages:], end+1+1<<20)
		binary.NativeEndian.PutUint64(m[tx:], number(m, tx)+2)
		sum := fnv.New64a()
		sum.Write(m[:56])
		binary.NativeEndian.PutUint64(m[56:], sum.Sum64())
		write(t, path, bad)
		if err := os.Truncate(path, int64(end+1+1<<20)*page); err != nil { // a hole
			t.Fatal(err)
		}
		_, copyErr := bolt.OpenCopy(path, cfg.LogKey.Verifier())
		_, rawErr := bolt.OpenRaw(path)
		_, openErr := bolt.Open(path, cfg)
		for _, err := range []error{copyErr, rawErr, openErr} {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
			}
		}
	}
}
