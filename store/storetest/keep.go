package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/protobuf/proto"
)

// admin is whoever keeps the log.
func admin() ca.Caller {
	return ca.Caller{Identity: ca.Identity{Issuer: Issuer, Subject: "keeper", Kind: ca.Person, Email: "keeper@example.com"}}
}

// snapshotOf returns the identity snapshot that the record at index cites, nil if it was erased.
func snapshotOf(t *testing.T, l *log, index uint64) (digest [32]byte, blob []byte) {
	t.Helper()
	r, err := audit.Parse(Records(t, l)[index])
	if err != nil {
		t.Fatal(err)
	}
	digest = [32]byte(audit.CallerOf(r).GetSnapshot())
	blob, err = l.Blob(t.Context(), digest)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return digest, blob
}

func salt(t *testing.T, blob []byte) []byte {
	t.Helper()
	s := &pb.IdentitySnapshot{}
	if err := proto.Unmarshal(blob, s); err != nil {
		t.Fatal(err)
	}
	return s.GetSalt()
}

func testErase(t *testing.T, l *log) {
	first := l.mustRecord(t, l.Grant(t, "alice"))
	other := l.Grant(t, "alice")
	other.Caller.Identity.Groups = []string{"ops"}
	second := l.mustRecord(t, other)
	bob := l.mustRecord(t, l.Grant(t, "bob"))
	_, before := snapshotOf(t, l, first)

	n, index, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "alice", "she asked for it")
	if err != nil || n != 2 {
		t.Fatalf("erased %d, error %v; want 2", n, err)
	}
	for _, i := range []uint64{first, second} {
		if _, blob := snapshotOf(t, l, i); blob != nil {
			t.Errorf("the snapshot of record %d is still there", i)
		}
	}
	if _, blob := snapshotOf(t, l, bob); blob == nil {
		t.Error("the snapshot of somebody else is gone")
	}
	r, err := audit.Parse(Records(t, l)[index])
	if err != nil {
		t.Fatal(err)
	}
	e := r.GetIdentityErased()
	if e.GetSubject() != "alice" || e.GetCaller().GetSubject() != "keeper" || e.GetReason() != "she asked for it" || len(e.GetSnapshots()) != 2 {
		t.Errorf("record %v", e)
	}
	Check(t, l)

	if n, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "alice", "again"); n != 0 || err != nil {
		t.Errorf("erased %d again, error %v", n, err)
	}
	if _, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "nobody", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want %v", err, store.ErrNotFound)
	}
	if _, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), "https://other.example.com", "bob", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the same subject of another issuer: error %v, want %v", err, store.ErrNotFound)
	}
	if n, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "keeper", "myself"); err == nil {
		t.Errorf("an admin erased %d snapshots of their own", n)
	}
	directory := store.NewDirectory(l)
	if found, err := directory.ByEmail(t.Context(), "bob@example.com"); err != nil || len(found) != 1 || found[0].Subject != "bob" {
		t.Errorf("by the email of somebody else: %v, error %v", found, err)
	}
	if found, err := directory.ByEmail(t.Context(), "alice@example.com"); err != nil || len(found) != 0 {
		t.Errorf("by the email that was erased: %v, error %v", found, err)
	}
	known, err := store.Identities(t.Context(), l, nil, 100)
	left := slices.DeleteFunc(known, func(i store.Identity) bool { return i.Snapshot == nil })
	if err != nil || len(known) != 3 || len(left) != 2 {
		t.Errorf("identities: %d, %d of them with a snapshot, error %v; want 3 and 2", len(known), len(left), err)
	}

	again := l.mustRecord(t, l.Grant(t, "alice"))
	_, after := snapshotOf(t, l, again)
	if after == nil || bytes.Equal(salt(t, before), salt(t, after)) {
		t.Error("the identity came back with the salt of what was erased")
	}
	l.Store = l.reopened(t)
	Check(t, l)
}

// reopened closes the log and opens it again.
func (l *log) reopened(t *testing.T) store.Store {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.reopen()
}

func testEraseMeanwhile(t *testing.T, l *log) {
	index := l.mustRecord(t, l.Grant(t, "alice"))
	digest, blob := snapshotOf(t, l, index)
	if _, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "alice", "she asked for it"); err != nil {
		t.Fatal(err)
	}
	// Whoever looked the snapshot up before the erasure cites it after.
	a := l.Grant(t, "alice")
	a.Refusal, a.Authority, a.Proven = ca.Errorf(ca.Denied, "no"), "", false
	index, err := l.Append(t.Context(), store.Entry{
		Build: func(slot store.Slot) ([]byte, error) { return slot.Marshal(audit.Decided(a, digest, nil)) },
		Blobs: [][]byte{blob},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, blob := snapshotOf(t, l, index); blob != nil {
		t.Error("what was erased is stored again")
	}
	// Its fact names a snapshot that is gone, so that the next one has another salt.
	next := l.mustRecord(t, l.Grant(t, "alice"))
	if _, after := snapshotOf(t, l, next); after == nil || bytes.Equal(salt(t, after), salt(t, blob)) {
		t.Error("the identity came back with the salt of what was erased")
	}
	Check(t, l)
}

func testEraseRace(t *testing.T, l *log) {
	l.mustRecord(t, l.Grant(t, "alice"))
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() {
			for j := range 15 {
				a := l.Grant(t, "alice")
				a.Caller.Identity.Groups = []string{fmt.Sprint("group", i, j)}
				if _, err := l.Record(t, a); err != nil {
					t.Errorf("ask while identities are erased: %v", err)
				}
			}
		})
	}
	for range 10 {
		if _, _, err := l.Recorder.EraseIdentity(t.Context(), admin(), Issuer, "alice", "she asked for it"); err != nil {
			t.Error(err)
		}
	}
	asking.Wait()
	Check(t, l)
	// No salt of what was erased lives on.
	gone, live := map[string]bool{}, map[string]bool{}
	for i, text := range Records(t, l) {
		r, err := audit.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, digest := range r.GetIdentityErased().GetSnapshots() {
			gone[string(digest)] = true
		}
		if audit.CallerOf(r).GetSubject() == "alice" {
			if digest, blob := snapshotOf(t, l, uint64(i)); blob != nil {
				live[string(digest[:])] = true
			}
		}
	}
	if len(gone) == 0 {
		t.Error("nothing was erased")
	}
	for digest := range live {
		if gone[digest] {
			t.Errorf("the snapshot %x was erased and is there", digest)
		}
	}
}
