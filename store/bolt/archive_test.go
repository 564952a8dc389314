package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

// aged is a log of many days, and the records and facts that it had.
type aged struct {
	path    string
	cfg     bolt.Config
	secret  string // of the log key
	clock   *storetest.Clock
	records [][]byte
	facts   []store.KeyValue
}

// agedDays is how many days an aged log tells of.
const agedDays = 80

// oneAged is written once, and each test has a copy.
var oneAged struct {
	mu       sync.Mutex
	log      *aged
	db, head []byte
}

// newAged is a copy of a log with a bit of everything on each day, about ten records.
func newAged(t testing.TB) *aged {
	t.Helper()
	one := &oneAged
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.log == nil {
		l := writeAged(t)
		one.log, one.db, one.head = l, read(t, l.path), read(t, l.path+".head")
	}
	l := *one.log
	l.path, l.clock = newPath(t), storetest.NewClock()
	l.clock.Move(agedDays * 24 * time.Hour)
	l.cfg.Now = l.clock.Now
	write(t, l.path, one.db)
	write(t, l.path+".head", one.head)
	return &l
}

func writeAged(t testing.TB) *aged {
	t.Helper()
	l := &aged{path: newPath(t), clock: storetest.NewClock()}
	key, secret, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	l.cfg, l.secret = bolt.Config{LogKey: key, Now: l.clock.Now}, secret
	s := create(t, l.path, l.cfg)
	f := storetest.NewFixture(t, s, l.clock.Now)
	admin := ca.Caller{Identity: ca.Identity{Issuer: storetest.Issuer, Subject: "keeper", Kind: ca.Person}}
	var asked []uint64 // decisions that ask for a review; somebody looks at each ten days later
	for day := range agedDays {
		for _, who := range []string{"alice", "bob", "carol", fmt.Sprint("guest", day), "dave"} {
			a := f.Grant(t, who)
			if who == "carol" { // whose groups change
				a.Caller.Identity.Groups = []string{fmt.Sprint("team", day/10)}
			}
			if who == "dave" {
				a.Refusal, a.Authority, a.Proven = ca.Errorf(ca.Denied, "no"), "", false
			}
			if who == "bob" || who == "dave" {
				history, err := f.Recorder.History(t.Context(), a, ca.Wants{FirstUse: true, Refusals: true})
				if err != nil {
					t.Fatal(err)
				}
				a.Review = &ca.Review{Policy: a.Policy, History: history}
			}
			if who == "bob" {
				a.Review.Rules, a.Review.Due = []ca.ReviewRule{{Name: "look"}}, l.clock.Now().AddDate(0, 0, 7)
			}
			index, err := f.Record(t, a)
			if who == "bob" {
				asked = append(asked, index)
			}
			if err == nil && who == "bob" {
				err = f.Recorder.SignatureFailed(t.Context(), index, "default", errors.New("no agent"))
			}
			if err == nil && who == "alice" {
				err = f.Recorder.SignInBound(t.Context(), a.Caller, [32]byte{byte(day)})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if day >= 10 {
			if _, err := f.Recorder.MarkReviewed(t.Context(), admin, "192.0.2.1", asked[day-10], "talked to them"); err != nil {
				t.Fatal(err)
			}
		}
		err := f.Recorder.CountStrangers(t.Context(), l.clock.Now().Add(-time.Minute), l.clock.Now(), map[string]uint64{"no token": 3})
		switch {
		case err != nil:
		case day%10 == 3:
			f.Policy.Digest[0]++
			err = f.Recorder.LoadPolicy(t.Context(), store.PolicyLoad{Policy: f.Policy, Source: "p", Cause: "reload", Engine: "cel", Blobs: [][]byte{fmt.Append(nil, day)}})
		case day == 20:
			_, _, err = f.Recorder.EraseIdentity(t.Context(), admin, storetest.Issuer, "guest12", "asked for")
		}
		if err = errors.Join(err, f.Recorder.BackupTaken(t.Context(), admin, "192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		l.clock.Move(24 * time.Hour)
	}
	for _, index := range asked[70:] {
		if _, err := f.Recorder.MarkReviewed(t.Context(), admin, "192.0.2.1", index, "talked to them"); err != nil {
			t.Fatal(err)
		}
	}
	l.records = storetest.Records(t, s)
	l.facts = facts(t, s)
	mustClose(t, s)
	return l
}

// facts are those of a log that are no page of the index, and tell of no archive.
func facts(t testing.TB, s store.Reader) []store.KeyValue {
	t.Helper()
	all, err := s.Facts(t.Context(), nil, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.KeyValue
	for _, f := range all {
		if !bytes.HasPrefix(f.Key, []byte(audit.ArchivedPrefix)) && !bytes.HasPrefix(f.Key, []byte("nonce/")) {
			out = append(out, f)
		}
	}
	return out
}

// archive moves what is older than some days into a file.
func (l *aged) archive(t testing.TB, days int, name string) (string, *bolt.Archive) {
	t.Helper()
	file := filepath.Join(filepath.Dir(l.path), name)
	done, err := bolt.MoveToArchive(l.path, l.cfg, l.archiving(days, file))
	if err != nil {
		t.Fatal(err)
	}
	return file, done
}

func (l *aged) archiving(days int, file string) bolt.Archiving {
	return bolt.Archiving{Before: l.clock.Now().AddDate(0, 0, -days), File: file, Reason: "old", By: "tester (uid 0)"}
}

// check verifies a file as `hallpass audit verify` does, with archives.
func (l *aged) check(t testing.TB, path string, archives ...string) (*verify.Summary, error) {
	t.Helper()
	raw, err := bolt.OpenRaw(path)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	var others []*bolt.Raw
	for _, name := range archives {
		other, err := bolt.OpenRaw(name)
		if err != nil {
			return nil, err
		}
		defer other.Close()
		others = append(others, other)
	}
	s := verify.Source{
		PublicKey: l.cfg.LogKey.Verifier(), Records: merged(raw, others), Hashes: values(raw.Hashes()), Leaf: raw.Leaf, Blob: raw.Blob,
		InIndex: audit.InIndex,
		Stored: func(yield func(verify.Fact, error) bool) {
			for f, err := range raw.Facts() {
				if !yield(verify.Fact{Key: f.Key, Value: f.Value, Expires: f.Expires, Record: f.Record}, err) {
					return
				}
			}
		},
		Derive: func(r *pb.Record) ([]verify.Fact, error) {
			facts, err := audit.Facts(r)
			return derived(facts), err
		},
		Index: func() func(*pb.Record) ([]verify.Fact, error) { return indexed(&audit.Index{}) },
		Resume: func(before uint64) (func(*pb.Record) ([]verify.Fact, error), error) {
			x, err := raw.Resume(before)
			return indexed(x), err
		},
	}
	if s.Checkpoint, err = raw.Checkpoint(); err == nil {
		s.Archived, err = raw.Archived()
	}
	if err != nil {
		return nil, err
	}
	return verify.Check(t.Context(), s)
}

func values(rows iter.Seq2[bolt.Row, error]) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for row, err := range rows {
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

func merged(raw *bolt.Raw, others []*bolt.Raw) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		next := uint64(0)
		for row, err := range raw.Records() {
			for at := binary.BigEndian.Uint64(row.Key); next < at; next++ {
				var record []byte
				for _, o := range others {
					if found, err := o.Record(next); err == nil && found != nil {
						record = found
					}
				}
				if !yield(record, nil) {
					return
				}
			}
			if next++; !yield(row.Value, err) {
				return
			}
		}
	}
}

func derived(facts []audit.Fact) []verify.Fact {
	var out []verify.Fact
	for _, f := range facts {
		out = append(out, verify.Fact{Key: f.Key, Value: f.Value, Expires: f.Expires, Rule: verify.Rule(f.Rule)})
	}
	return out
}

func indexed(x *audit.Index) func(*pb.Record) ([]verify.Fact, error) {
	return func(r *pb.Record) ([]verify.Fact, error) {
		facts, err := x.Add(r)
		return derived(facts), err
	}
}

func (l *aged) mustCheck(t testing.TB, missing uint64, path string, archives ...string) {
	t.Helper()
	summary, err := l.check(t, path, archives...)
	if err != nil {
		t.Errorf("verify %s with %v: %v", path, archives, err)
	} else if summary.Archived != missing {
		t.Errorf("verify %s with %v: %d records are vouched for by their hashes, want %d", path, archives, summary.Archived, missing)
	}
}

// TestArchive moves old records away twice. What left is in the archives as it was; what stays is in the log; the facts are those that
// were, also when they are made anew, and the log goes on.
func TestArchive(t *testing.T) {
	t.Parallel()
	l := newAged(t)
	one, first := l.archive(t, 50, "one.db")
	if first.GetBefore() != 256 || first.GetFrom() != 0 || first.GetRecords() < 200 || first.Index != uint64(len(l.records)) {
		t.Fatalf("archived %v by record %d", first.Archived, first.Index)
	}
	l.mustCheck(t, 0, one)
	l.mustCheck(t, first.GetRecords(), l.path)
	l.mustCheck(t, 0, l.path, one)
	l.same(t, first.GetBefore())

	two, second := l.archive(t, 5, "two.db")
	if second.GetFrom() != 256 || second.GetBefore() != 512 {
		t.Fatalf("archived %v", second.Archived)
	}
	gone := first.GetRecords() + second.GetRecords()
	l.mustCheck(t, gone, l.path)
	l.mustCheck(t, 0, two, one)
	l.mustCheck(t, 0, l.path, one, two)
	l.mustCheck(t, first.GetRecords(), l.path, two)
	if _, err := l.check(t, two); err == nil || !strings.Contains(err.Error(), "it is missing, and no record says that it was archived") {
		t.Errorf("the second archive alone: %v", err)
	}
	l.same(t, second.GetBefore())
	inArchives(t, l, two, one)

	if _, _, err := bolt.Compact(l.path, l.cfg); err != nil {
		t.Fatal(err)
	}
	l.mustCheck(t, gone, l.path)
	l.same(t, second.GetBefore())
	l.restored(t, gone)
	l.suspected(t, gone)
	l.erases(t)
	l.mustCheck(t, gone, l.path)
	l.later(t, gone, one, two)
}

// later archives once more when the records that tell of the archives before are old themselves: the archive explains what it has not.
func (l *aged) later(t *testing.T, gone uint64, one, two string) {
	t.Helper()
	s := open(t, l.path, l.cfg)
	for range 300 {
		if _, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil {
			t.Fatal(err)
		}
	}
	l.clock.Move(10 * 24 * time.Hour)
	if _, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	three, third := l.archive(t, 5, "three.db")
	if third.GetFrom() != 512 || third.GetBefore() <= uint64(len(l.records)) || third.Epoch != 1 {
		t.Fatalf("archived %v in epoch %d", third.Archived, third.Epoch)
	}
	l.mustCheck(t, gone, three)
	l.mustCheck(t, 0, three, one, two)
	l.mustCheck(t, gone+third.GetRecords(), l.path)
	l.mustCheck(t, 0, l.path, one, two, three)
}

// erases erases somebody of whom all records were archived.
func (l *aged) erases(t *testing.T) {
	t.Helper()
	s := open(t, l.path, l.cfg)
	defer mustClose(t, s)
	admin := ca.Caller{Identity: ca.Identity{Issuer: storetest.Issuer, Subject: "keeper", Kind: ca.Person}}
	value, err := s.Fact(t.Context(), audit.SnapshotFact(storetest.Issuer, "guest3"))
	if err != nil {
		t.Fatal(err)
	}
	if erased, _, err := store.NewRecorder(s).EraseIdentity(t.Context(), admin, storetest.Issuer, "guest3", "asked for"); err != nil || erased != 1 {
		t.Errorf("%d snapshots were erased, error %v; want 1", erased, err)
	}
	if _, err := s.Blob(t.Context(), [32]byte(value)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the snapshot: %v", err)
	}
}

// inArchives finds each record in one of the archives, and in no other.
func inArchives(t *testing.T, l *aged, two, one string) {
	t.Helper()
	for name, from := range map[string]uint64{one: 0, two: 256} {
		c, err := bolt.OpenCopy(name, l.cfg.LogKey.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range uint64(256) {
			got, err := store.Record(t.Context(), c, from+i)
			if err != nil || !bytes.Equal(got, l.records[from+i]) {
				t.Fatalf("record %d in %s: %x, %v", from+i, name, got, err)
			}
		}
		_, err = store.Record(t.Context(), c, 4)
		if _, archived := errors.AsType[*store.ArchivedError](err); archived != (from > 0) {
			t.Errorf("record 4 in %s: %v", name, err)
		}
	}
}

// same compares the log with what it was.
func (l *aged) same(t testing.TB, before uint64) {
	t.Helper()
	s := open(t, l.path, l.cfg)
	defer mustClose(t, s)
	if diff := cmp.Diff(l.facts, facts(t, s)); diff != "" {
		t.Errorf("the facts that there were (-) are not those that there are (+):\n%s", diff)
	}
	for i, want := range l.records {
		got, err := store.Record(t.Context(), s, uint64(i))
		r, parseErr := audit.Parse(want)
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		var archived *store.ArchivedError
		switch left := uint64(i) < before && audit.Leaves(r); {
		case left && (!errors.As(err, &archived) || !errors.Is(err, store.ErrNotFound)):
			t.Fatalf("record %d, which left: %v", i, err)
		case !left && (err != nil || !bytes.Equal(got, want)):
			t.Fatalf("record %d, which stays: %x, %v", i, got, err)
		}
	}
	l.lists(t, s, before)
}

// lists finds in the log what a query finds in all records and did not leave.
func (l *aged) lists(t testing.TB, s store.Reader, before uint64) {
	t.Helper()
	for name, q := range map[string]store.Query{
		"everything":         {Limit: 7},
		"all at once":        {Limit: 10_000},
		"those of alice":     {Limit: 9, Issuer: storetest.Issuer, Subject: "alice"},
		"what was loaded":    {Limit: 3, Filter: store.Filter{Values: map[audit.Field][]string{audit.FieldEvent: {"policy_loaded"}}}},
		"a while in the gap": {Limit: 5, Since: l.clock.Now().AddDate(0, 0, -78), Until: l.clock.Now().AddDate(0, 0, -58)},
	} {
		var want, got []uint64
		for i := range l.records {
			r, err := audit.Parse(l.records[len(l.records)-1-i])
			if err != nil {
				t.Fatal(err)
			}
			at := r.GetTime().AsTime()
			if c := audit.CallerOf(r); r.GetIndex() < before && audit.Leaves(r) || q.Subject != "" && c.GetSubject() != q.Subject ||
				q.Filter.Values != nil && r.GetPolicyLoaded() == nil || !q.Since.IsZero() && (at.Before(q.Since) || !at.Before(q.Until)) {
				continue
			}
			want = append(want, r.GetIndex())
		}
		q.Before = new(uint64)
		*q.Before = uint64(len(l.records))
		for {
			page, err := store.Search(t.Context(), s, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range page.Found {
				got = append(got, f.Index)
			}
			if q.Before = page.Next; q.Before == nil {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// restored takes a backup of the log, loses the log, and goes on from the backup.
func (l *aged) restored(t *testing.T, gone uint64) {
	t.Helper()
	s := open(t, l.path, l.cfg)
	copied := backup(t, s)
	mustClose(t, s)
	c, err := bolt.OpenCopy(copied, l.cfg.LogKey.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Whole(t.Context()), c.Close()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(l.path); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Restore(l.path, l.cfg, bolt.Restoring{From: copied, By: "tester"}); err != nil {
		t.Fatal(err)
	}
	l.mustCheck(t, gone, l.path)
}

// suspected opens the log as after a commit that was in doubt.
func (l *aged) suspected(t *testing.T, gone uint64) {
	t.Helper()
	write(t, l.path+".suspect", nil)
	s := open(t, l.path, l.cfg)
	if _, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
	l.mustCheck(t, gone, l.path)
}

// TestArchiveRefuses shows what is not archived, and that nothing changed then.
func TestArchiveRefuses(t *testing.T) {
	t.Parallel()
	l := newAged(t)
	dir := filepath.Dir(l.path)
	note, other := filepath.Join(dir, "note"), newAgedOther(t)
	write(t, note, []byte("a note"))
	good := read(t, l.path)
	for _, tt := range []struct {
		name   string
		change func(*bolt.Archiving)
		want   string
	}{
		{"what is of today", func(a *bolt.Archiving) { a.Before = l.clock.Now().Add(-23 * time.Hour) }, "is less than a day before"},
		{"what there is not", func(a *bolt.Archiving) { a.Before = l.clock.Now().AddDate(-1, 0, 0) }, "nothing to archive"},
		{"over a note", func(a *bolt.Archiving) { a.File = note }, "never written over another file"},
		{"over another log", func(a *bolt.Archiving) { a.File = other }, "never written over another file"},
		{"over itself", func(a *bolt.Archiving) { a.File = l.path }, "never written over another file"},
		{"what may not go", func(a *bolt.Archiving) {
			a.Allow = func(_ store.Reader, before uint64) error { return fmt.Errorf("not %d", before) }
		}, "not 512"},
		{"nobody", func(a *bolt.Archiving) { a.By = "" }, "who did it"},
	} {
		a := l.archiving(10, filepath.Join(dir, "x.db"))
		tt.change(&a)
		if _, err := bolt.MoveToArchive(l.path, l.cfg, a); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	if !bytes.Equal(read(t, note), []byte("a note")) || !bytes.Equal(read(t, l.path), good) {
		t.Error("a file was changed")
	}
	s := open(t, l.path, l.cfg)
	if _, err := bolt.MoveToArchive(l.path, l.cfg, l.archiving(10, filepath.Join(dir, "y.db"))); err == nil || !strings.Contains(err.Error(), "another daemon has it open: stop it first") {
		t.Errorf("of a running daemon: %v", err)
	}
	mustClose(t, s)
	// What an attempt left that came as far as its archive is used.
	l.archive(t, 10, "x.db")
	if _, err := bolt.MoveToArchive(l.path, l.cfg, l.archiving(5, filepath.Join(dir, "x.db"))); err == nil || !strings.Contains(err.Error(), "nothing to archive") {
		t.Errorf("once more: %v", err)
	}
	// A decision that waits for somebody to look at it stays at hand.
	s = open(t, l.path, l.cfg)
	a := storetest.NewFixture(t, s, l.clock.Now).Grant(t, "bob")
	a.Review = &ca.Review{Policy: a.Policy, Rules: []ca.ReviewRule{{Name: "look"}}, Due: l.clock.Now()}
	a.Refusal, a.Authority, a.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
	if _, err := store.NewRecorder(s).Record(t.Context(), a, nil); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if _, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil {
			t.Fatal(err)
		}
	}
	l.clock.Move(30 * 24 * time.Hour)
	if _, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if _, err := bolt.MoveToArchive(l.path, l.cfg, l.archiving(2, filepath.Join(dir, "z.db"))); err == nil || !strings.Contains(err.Error(), "nobody looked at it yet") {
		t.Errorf("of a decision that waits for its review: %v", err)
	}
}

// newAgedOther is the file of another log.
func newAgedOther(t *testing.T) string {
	t.Helper()
	path, clock := newPath(t), storetest.NewClock()
	mustClose(t, create(t, path, newConfig(t, clock.Now)))
	return path
}

// TestArchiveChanged changes an archived log, and archives, in every way that must be noticed.
func TestArchiveChanged(t *testing.T) {
	t.Parallel()
	l := newAged(t)
	one, done := l.archive(t, 10, "one.db")
	good, archive := read(t, l.path), read(t, one)
	var stayed uint64
	for i := range l.records {
		if r, err := audit.Parse(l.records[i]); err == nil && r.GetIdentityErased() != nil {
			stayed = r.GetIndex()
			break
		}
	}
	in := func(bucket string, change func(*bbolt.Bucket) error) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return change(tx.Bucket([]byte(bucket))) }
	}
	remove := func(index uint64) func(*bbolt.Tx) error {
		return in("records", func(b *bbolt.Bucket) error { return b.Delete(key(index)) })
	}
	flip := func(k []byte) func(b *bbolt.Bucket) error {
		return func(b *bbolt.Bucket) error {
			v := bytes.Clone(b.Get(k))
			if len(v) == 0 {
				return fmt.Errorf("nothing under %x", k)
			}
			v[len(v)-1] ^= 1
			return b.Put(k, v)
		}
	}
	for _, tt := range []struct {
		name    string
		change  func(*bbolt.Tx) error // of the log
		archive func(*bbolt.Tx) error // of the archive
		alone   string                // what a check without the archive says
		want    string                // what one with it says
	}{
		{"a record that no archive covers is missing", remove(done.GetBefore() + 3), nil, fmt.Sprintf("record %d: it is missing", done.GetBefore()+3), fmt.Sprintf("record %d: it is missing", done.GetBefore()+3)},
		{"one that never left is missing", remove(stayed), nil, "some are missing that never left", ""},
		{"the record of the archive is missing", remove(done.Index), nil, "record 3: it is missing", fmt.Sprintf("record %d", done.Index)},
		{"the record of the archive was changed", in("records", flip(key(done.Index))), nil, "record", "record"},
		{"what it carried over was changed", in("blobs", flip(done.GetCarried()[0])), nil, "is missing or was changed", "is missing or was changed"},
		{"what it carried over is missing", in("blobs", func(b *bbolt.Bucket) error { return b.Delete(done.GetCarried()[0]) }), nil, "is missing or was changed", "is missing or was changed"},
		{"a hash of what left was changed", in("hashes", flip(key(0))), nil, "record 0", "record 0"},
		{"the index of what left was changed", in("index", func(b *bbolt.Bucket) error {
			k, _ := b.Cursor().First()
			return flip(k)(b)
		}), nil, "the index of the records that it archived was changed", "is not stored as it should be"},
		{"the fact that tells of the archive is missing", in("facts", func(b *bbolt.Bucket) error { return b.Delete(audit.ArchivedFact(done.GetBefore())) }), nil, "it is missing", "archived/"},
		{"a carried fact is missing", in("facts", func(b *bbolt.Bucket) error { return b.Delete(audit.SnapshotFact(storetest.Issuer, "guest3")) }), nil, "snap/", "snap/"},
		{"a record of the archive was changed", nil, in("records", flip(key(20))), "", "record 20"},
	} {
		changed, other := newPath(t), newPath(t)
		write(t, changed, good)
		write(t, other, archive)
		for path, change := range map[string]func(*bbolt.Tx) error{changed: tt.change, other: tt.archive} {
			if change != nil {
				logfile.Edit(t, path, change)
			}
		}
		if _, err := l.check(t, changed); tt.alone != "" && (err == nil || !strings.Contains(err.Error(), tt.alone)) {
			t.Errorf("%s: without the archive: %v, want %q", tt.name, err, tt.alone)
		} else if tt.alone == "" && err != nil {
			t.Errorf("%s: without the archive: %v", tt.name, err)
		}
		_, err := l.check(t, changed, other)
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: with the archive: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// TestArchiveAfterCrash archives once more in each state that a crash can leave.
func TestArchiveAfterCrash(t *testing.T) {
	t.Parallel()
	l := newAged(t)
	before, head := read(t, l.path), read(t, l.path+".head")
	one, done := l.archive(t, 50, "one.db")
	archive, after := read(t, one), read(t, l.path)
	for _, tt := range []struct {
		name  string
		files map[string][]byte
	}{
		{"while the archive was written", map[string][]byte{"log.db": before, "one.db.new": archive[:len(archive)/2]}},
		{"when the archive was there", map[string][]byte{"log.db": before, "one.db": archive}},
		{"when it had two names", map[string][]byte{"log.db": before, "one.db": archive, "one.db.new": archive}},
		{"while the log was written", map[string][]byte{"log.db": before, "one.db": archive, "log.db.new": after[:len(after)/2]}},
		{"before the log was replaced", map[string][]byte{"log.db": before, "one.db": archive, "log.db.new": after}},
	} {
		dir := t.TempDir()
		again := *l
		again.path = filepath.Join(dir, "log.db")
		write(t, again.path+".head", head)
		for name, text := range tt.files {
			write(t, filepath.Join(dir, name), text)
		}
		s := open(t, again.path, l.cfg)
		mustClose(t, s)
		file, now := again.archive(t, 50, "one.db")
		if now.GetBefore() != done.GetBefore() || now.GetRecords() != done.GetRecords() {
			t.Errorf("%s: archived %v, want %v", tt.name, now.Archived, done.Archived)
		}
		again.mustCheck(t, 0, file)
		again.mustCheck(t, done.GetRecords(), again.path)
		for _, left := range []string{file + ".new", again.path + ".new"} {
			if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s is left, %v", tt.name, left, err)
			}
		}
	}
	// With the new log and the old head it is done.
	again := *l
	again.path = filepath.Join(t.TempDir(), "log.db")
	write(t, again.path, after)
	write(t, again.path+".head", head)
	again.same(t, done.GetBefore())
	again.mustCheck(t, done.GetRecords(), again.path)
}

// TestArchiveForged has the log key sign a record of an archive that carried over something else than what stood. It is found as soon
// as the archive is at hand.
func TestArchiveForged(t *testing.T) {
	t.Parallel()
	l := newAged(t)
	one, done := l.archive(t, 10, "one.db")
	for _, tt := range []struct {
		name  string
		forge func([]*pb.CarriedFact) []*pb.CarriedFact
		want  string
	}{
		{"with another value", func(f []*pb.CarriedFact) []*pb.CarriedFact {
			f[0].Value = append(bytes.Clone(f[0].GetValue()), 1)
			return f
		}, "is not carried over as it was"},
		{"without one", func(f []*pb.CarriedFact) []*pb.CarriedFact { return f[1:] }, "is not carried over as it was"},
		{"with one more", func(f []*pb.CarriedFact) []*pb.CarriedFact { return append(f, &pb.CarriedFact{Key: []byte("zzz")}) }, "which did not stand"},
		{"with one that is gone", func(f []*pb.CarriedFact) []*pb.CarriedFact {
			return append(f, &pb.CarriedFact{Key: []byte("zzz"), Gone: true})
		}, "which did not stand"},
	} {
		forged := newPath(t)
		write(t, forged, read(t, l.path))
		forge(t, l, forged, done, tt.forge)
		if _, err := l.check(t, forged, one); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// forge has the newest record, which tells of an archive, carry over other facts, and the log key sign that.
func forge(t *testing.T, l *aged, path string, done *bolt.Archive, change func([]*pb.CarriedFact) []*pb.CarriedFact) {
	t.Helper()
	logfile.Edit(t, path, func(tx *bbolt.Tx) error {
		blobs, hashes := tx.Bucket([]byte("blobs")), tx.Bucket([]byte("hashes"))
		facts, err := audit.Carried(blobs.Get(done.GetCarried()[0]), nil)
		if err != nil {
			return err
		}
		blob, err := proto.Marshal(&pb.CarriedFacts{Facts: change(facts)})
		if err != nil {
			return err
		}
		digest := audit.Digest(blob)
		r, err := audit.Parse(tx.Bucket([]byte("records")).Get(key(done.Index)))
		if err != nil {
			return err
		}
		r.GetArchived().Carried = [][]byte{digest[:]}
		record, err := audit.Marshal(&audit.Event{Event: r.GetEvent()}, r.GetIndex(), r.GetTime().AsTime(), r.GetEpoch())
		if err != nil {
			return err
		}
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, i := range indexes {
				out = append(out, tlog.Hash(hashes.Get(key(uint64(i)))))
			}
			return out, nil
		})
		added, err := tlog.StoredHashesForRecordHash(int64(done.Index), tlog.RecordHash(record), reader)
		if err != nil {
			return err
		}
		for i, h := range added {
			if err := hashes.Put(key(uint64(tlog.StoredHashIndex(0, int64(done.Index))+int64(i))), h[:]); err != nil {
				return err
			}
		}
		root, err := tlog.TreeHash(int64(done.Index)+1, reader)
		if err != nil {
			return err
		}
		signed, err := l.cfg.LogKey.Sign(audit.Checkpoint{LogID: l.cfg.LogKey.ID(), Size: done.Index + 1, Root: root})
		return errors.Join(err, blobs.Put(digest[:], blob), tx.Bucket([]byte("records")).Put(key(done.Index), record),
			tx.Bucket([]byte("meta")).Put([]byte("checkpoint"), signed))
	})
}
