package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
)

func testTime(t *testing.T, l *log) {
	at := func(index uint64) time.Time {
		records, err := l.Records(t.Context(), index, 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.Parse(records[0])
		if err != nil {
			t.Fatal(err)
		}
		return r.GetTime().AsTime()
	}
	last := l.clock.Now()
	l.clock.Move(-time.Minute)
	index, err := l.Append(t.Context(), Refused("a minute back"))
	if err != nil || at(index) != last {
		t.Errorf("a minute back: error %v, want the time of the record before", err)
	}
	l.clock.Move(-4*time.Minute - time.Second)
	if _, err := l.Append(t.Context(), Refused("too far back")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("more than five minutes back: error %v, want %v", err, store.ErrUnavailable)
	}
	l.clock.Move(24 * time.Hour)
	index, err = l.Append(t.Context(), Refused("a day ahead"))
	if err != nil || at(index) != l.clock.Now() {
		t.Errorf("a day ahead: error %v, want the time of the clock", err)
	}
	l.clock.Move(-24 * time.Hour)
	if _, err := l.Append(t.Context(), Refused("a day back")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a day back: error %v, want %v", err, store.ErrUnavailable)
	}
	l.clock.Move(24*time.Hour + 1500*time.Nanosecond)
	index, err = l.Append(t.Context(), Refused("right again"))
	if err != nil || at(index) != l.clock.Now().Truncate(time.Microsecond) {
		t.Errorf("right again: error %v, time %s", err, at(index))
	}
}

func testCancelled(t *testing.T, l *log) {
	before := len(Records(t, l))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, Refused("nobody waits")); !errors.Is(err, context.Canceled) {
		t.Errorf("append: error %v, want %v", err, context.Canceled)
	}
	if err := l.Wait(ctx, 1<<40); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: error %v, want %v", err, context.Canceled)
	}
	if _, err := l.Size(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("size: error %v, want %v", err, context.Canceled)
	}
	if after := len(Records(t, l)); after != before {
		t.Errorf("%d records more", after-before)
	}
}

func testFollow(t *testing.T, l *log) {
	const n = 100
	start := uint64(len(Records(t, l)))
	followed := make(chan error, 1)
	go func() {
		next := start
		for next < start+n {
			if err := l.Wait(context.Background(), next); err != nil {
				followed <- err
				return
			}
			records, err := l.Records(context.Background(), next, 7)
			if err != nil {
				followed <- err
				return
			}
			if len(records) == 0 {
				followed <- fmt.Errorf("there is no record %d, although Wait returned", next)
				return
			}
			for _, record := range records {
				if r, err := audit.Parse(record); err != nil || r.GetIndex() != next {
					followed <- fmt.Errorf("record %d is %v, error %w", next, r, err)
					return
				}
				next++
			}
		}
		followed <- nil
	}()
	for i := range n {
		if _, err := l.Append(t.Context(), Refused(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
}

func testReopen(t *testing.T, l *log) {
	a := l.Grant(t, "alice")
	index := l.mustRecord(t, a)
	before := Records(t, l)
	checkpoint, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), Refused("closed")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("append to a closed log: error %v, want %v", err, store.ErrUnavailable)
		}
		l.Store = l.reopen()
		l.Recorder = store.NewRecorder(l.Store)
		if diff := cmp.Diff(before, Records(t, l)); diff != "" {
			t.Errorf("records (-closed +opened):\n%s", diff)
		}
	}
	again, err := l.Checkpoint(t.Context())
	if err != nil || string(again) != string(checkpoint) {
		t.Errorf("checkpoint after opening: %q, error %v, want %q", again, err, checkpoint)
	}
	if earlier, err := l.Recorder.Earlier(t.Context(), a.Caller, a.Request); err != nil || earlier == nil || earlier.Index != index {
		t.Errorf("earlier: %v, error %v, want record %d", earlier, err, index)
	}
	if next := l.mustRecord(t, l.Grant(t, "alice")); next != uint64(len(before)) {
		t.Errorf("the next record is %d, want %d", next, len(before))
	}
}

func testList(t *testing.T, l *log) {
	start := l.clock.Now()
	var alice, all []uint64 // newest first
	for i := range 60 {
		l.clock.Move(time.Minute)
		subject := "bob"
		if i%3 == 0 {
			subject = "alice"
		}
		index := l.mustRecord(t, l.Grant(t, subject))
		all = append([]uint64{index}, all...)
		if subject == "alice" {
			alice = append([]uint64{index}, alice...)
		}
	}
	minute := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	first := all[len(all)-1]
	for _, tt := range []struct {
		name  string
		query store.Query
		want  []uint64
	}{
		{"the newest", store.Query{Limit: 5}, all[:5]},
		{"the page after", store.Query{Limit: 5, Before: &all[4]}, all[5:10]},
		{"the newest of an identity", store.Query{Limit: 5, Issuer: Issuer, Subject: "alice"}, alice[:5]},
		{"its next page", store.Query{Limit: 5, Issuer: Issuer, Subject: "alice", Before: &alice[4]}, alice[5:10]},
		{"an identity of another issuer", store.Query{Limit: 5, Issuer: "https://other.example.com", Subject: "alice"}, nil},
		{"since the beginning of minute 58", store.Query{Limit: 50, Since: minute(58)}, all[:3]},
		{"until minute 3, which is left out", store.Query{Limit: 2, Until: minute(3)}, []uint64{first + 1, first}},
		{"between two times", store.Query{Limit: 50, Since: minute(10), Until: minute(13)}, all[48:51]},
		{"an identity between two times", store.Query{Limit: 50, Since: minute(10), Until: minute(20), Issuer: Issuer, Subject: "alice"}, alice[13:17]},
		{"a time in which nothing was", store.Query{Limit: 50, Since: minute(10).Add(time.Second), Until: minute(11)}, nil},
		{"after the end", store.Query{Limit: 50, Since: minute(61)}, nil},
		{"before the beginning", store.Query{Limit: 50, Until: start}, nil},
		{"times in the wrong order", store.Query{Limit: 50, Since: minute(20), Until: minute(10)}, nil},
	} {
		found, err := store.List(t.Context(), l, tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		var got []uint64
		for _, f := range found {
			got = append(got, f.Index)
			if r, err := audit.Parse(f.Record); err != nil || r.GetIndex() != f.Index {
				t.Errorf("%s: record %d is %v, error %v", tt.name, f.Index, r, err)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	for name, q := range map[string]store.Query{"no limit": {}, "half an identity": {Limit: 1, Subject: "alice"}} {
		if _, err := store.List(t.Context(), l, q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func testFacts(t *testing.T, l *log) {
	var want []string
	for i := range 5 {
		l.mustRecord(t, l.Grant(t, "alice"))
		l.load(t, policy(fmt.Sprint("policy ", i)))
		want = append([]string{string(audit.RevisionFact(uint64(len(Records(t, l)) - 1)))}, want...)
		l.Policy = policy(fmt.Sprint("policy ", i))
	}
	first, err := l.Facts(t.Context(), []byte(audit.RevisionPrefix), nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, string(first[len(first)-1].Key)) // that of the policy with which the test began
	prefix := []byte(audit.RevisionPrefix)
	list := func(before []byte, n int) []string {
		t.Helper()
		facts, err := l.Facts(t.Context(), prefix, before, n)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, f := range facts {
			keys = append(keys, string(f.Key))
		}
		return keys
	}
	for _, tt := range []struct {
		name   string
		before []byte
		n      int
		want   []string
	}{
		{"all", nil, 10, want},
		{"the last two", nil, 2, want[:2]},
		{"those below one", []byte(want[1]), 10, want[2:]},
		{"those below the first", []byte(want[5]), 10, nil},
		{"those below the prefix", prefix, 10, nil},
		{"those below a key that is beyond the prefix", []byte("zzz"), 10, want},
	} {
		if diff := cmp.Diff(tt.want, list(tt.before, tt.n)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func testBlobs(t *testing.T, l *log) {
	blob := []byte("the same twice")
	for range 2 {
		entry := Refused("with a blob")
		entry.Blobs = [][]byte{blob, blob, {}}
		if _, err := l.Append(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]byte{blob, {}} {
		if got, err := l.Blob(t.Context(), audit.Digest(want)); err != nil || string(got) != string(want) {
			t.Errorf("blob: %q, error %v, want %q", got, err, want)
		}
	}
	if _, err := l.Blob(t.Context(), audit.Digest([]byte("never stored"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a blob that is not there: error %v, want %v", err, store.ErrNotFound)
	}
	failing := Refused("")
	failing.Build = func(store.Slot) ([]byte, error) { return nil, errors.New("no") }
	failing.Blobs = [][]byte{[]byte("of an entry that failed")}
	if _, err := l.Append(t.Context(), failing); err == nil {
		t.Error("appended")
	}
	if _, err := l.Blob(t.Context(), audit.Digest(failing.Blobs[0])); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the blob of an entry that failed: error %v, want %v", err, store.ErrNotFound)
	}
}
