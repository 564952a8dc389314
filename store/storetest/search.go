package storetest

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// variety appends n records of people who ask for hosts, of which some are refused, in random order but the same each time.
func (f *Fixture) variety(t testing.TB, s store.Store, n int) {
	t.Helper()
	f.sparse(t, s, n, func(int) bool { return true })
}

// sparse appends n records: of people, as variety does, where asks says so of their number, and else ones that say little, which are
// found by their kind alone and take less time to write and to check.
func (f *Fixture) sparse(t testing.TB, s store.Store, n int, asks func(i int) bool) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	work := make(chan *ca.Attempt) // nil for one that says little
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for a := range work {
				var err error
				if a == nil {
					_, err = s.Append(context.Background(), Refused("no"))
				} else {
					_, err = f.Recorder.Record(context.Background(), a, f.Build(a))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	grant := f.Grant(t, "somebody")
	for i := range n {
		if i != n/3 && !asks(i) {
			work <- nil
			continue
		}
		a := *grant
		a.Caller.Identity.Subject = fmt.Sprint("user", random.IntN(40))
		a.Caller.Identity.Email = a.Caller.Identity.Subject + "@example.com"
		a.Request.Login = []string{"deploy", "readonly", "root"}[random.IntN(3)]
		a.Request.Host = fmt.Sprintf("DB%d.prod.example.com.", random.IntN(20))
		a.Refusal, a.Authority, a.Proven = ca.Errorf([]ca.Kind{ca.Denied, ca.Needs}[random.IntN(2)], "no"), "", false
		if i == n/3 {
			a.Request.Host = "rare.example.com"
		}
		work <- &a
	}
	close(work)
	wg.Wait()
	f.mustRecord(t, f.Grant(t, "user7"))
}

func testSearch(t *testing.T, l *log) {
	l.variety(t, l, 3*audit.BlockSize-20)
	for range 2 { // the index goes on in a block that is not complete
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Store = l.reopen()
		l.Recorder = store.NewRecorder(l.Store)
		for range 30 {
			l.mustRecord(t, l.Grant(t, "user7"))
		}
	}
	holdSearches(t, l)
}

func testChapters(t *testing.T, l *log) {
	// Of most blocks one record of eight is somebody's, so that many values are in few of the blocks; of every eighth block all are.
	l.sparse(t, l, audit.ChapterSize+3*audit.BlockSize+7, func(i int) bool { return i%8 == 0 || i/audit.BlockSize%8 == 0 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Store = l.reopen()
	l.Recorder = store.NewRecorder(l.Store)
	l.mustRecord(t, l.Grant(t, "user7"))
	holdSearches(t, l)
	found, err := store.NewDirectory(l).ByEmail(t.Context(), "user7@example.com")
	if err != nil || len(found) != 1 || found[0].Subject != "user7" {
		t.Errorf("by email: %v, error %v, want user7", found, err)
	}
}

func testDirectory(t *testing.T, l *log) {
	d := store.NewDirectory(l)
	seen := func(subject, email string) {
		t.Helper()
		a := l.Grant(t, subject)
		a.Caller.Identity.Email = email
		l.mustRecord(t, a)
	}
	find := func(email string, want ...string) {
		t.Helper()
		found, err := d.ByEmail(t.Context(), email)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range found {
			if c.Issuer != Issuer {
				t.Errorf("issuer %q", c.Issuer)
			}
			got = append(got, c.Subject)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", email, diff)
		}
	}
	find("alice@example.com")
	seen("alice", "alice@example.com")
	seen("bob", "bob@example.com")
	find("Alice@Example.com", "alice")
	seen("alice", "alice@other.example")
	find("alice@example.com")
	find("alice@other.example", "alice")
	seen("carol", "ALICE@other.example")
	find("alice@other.example", "alice", "carol")
	seen("carol", "")
	find("alice@other.example", "alice")
	find("")
	d = store.NewDirectory(l) // which begins at the beginning, and knows the same
	find("alice@other.example", "alice")
	find("bob@example.com", "bob")
}

// holdSearches holds what Search finds, page by page, against a look at every record.
func holdSearches(t *testing.T, l *log) {
	t.Helper()
	var records []*pb.Record // newest first
	for _, b := range slices.Backward(Records(t, l)) {
		r, err := audit.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	third := func(r *pb.Record) (bool, error) { return r.GetIndex()%3 == 0, nil }
	value := func(f audit.Field, values ...string) store.Filter {
		return store.Filter{Values: map[audit.Field][]string{f: values}}
	}
	before := uint64(len(records) / 2)
	for _, tt := range []struct {
		name  string
		query store.Query
		fits  func(*pb.Record) bool
	}{
		{"a host that one record has", store.Query{Filter: value(audit.FieldHost, "rare.example.com")},
			func(r *pb.Record) bool { return r.GetDecided().GetAsked().GetHost() == "rare.example.com" }},
		{"a host that none has", store.Query{Filter: value(audit.FieldHost, "none.example.com")}, func(*pb.Record) bool { return false }},
		{"a host, however it was written", store.Query{Filter: value(audit.FieldHost, "db3.prod.example.com")},
			func(r *pb.Record) bool { return r.GetDecided().GetAsked().GetHost() == "DB3.prod.example.com." }},
		{"one of two logins", store.Query{Filter: value(audit.FieldLogin, "root", "readonly")},
			func(r *pb.Record) bool {
				l := r.GetDecided().GetAsked().GetLogin()
				return l == "root" || l == "readonly"
			}},
		{"an identity", store.Query{Issuer: Issuer, Subject: "user7"}, func(r *pb.Record) bool { return audit.CallerOf(r).GetSubject() == "user7" }},
		{"a caller of any issuer", store.Query{Filter: store.Filter{Callers: []store.Caller{{Subject: "user7"}, {Subject: "user8"}}}},
			func(r *pb.Record) bool {
				s := audit.CallerOf(r).GetSubject()
				return s == "user7" || s == "user8"
			}},
		{"a caller of another issuer", store.Query{Filter: store.Filter{Callers: []store.Caller{{Issuer: "https://other.example.com", Subject: "user7"}}}}, func(*pb.Record) bool { return false }},
		{"an identity that is none of the callers", store.Query{Issuer: Issuer, Subject: "user7", Filter: store.Filter{Callers: []store.Caller{{Subject: "user8"}}}},
			func(*pb.Record) bool { return false }},
		{"what is granted", store.Query{Filter: value(audit.FieldDecision, "granted")}, func(r *pb.Record) bool { return len(r.GetDecided().GetToBeSigned()) > 0 }},
		{"a kind of event", store.Query{Filter: value(audit.FieldEvent, "policy_loaded", "genesis")},
			func(r *pb.Record) bool { return r.GetPolicyLoaded() != nil || r.GetGenesis() != nil }},
		{"a policy", store.Query{Filter: value(audit.FieldPolicy, hex.EncodeToString(l.Policy.Digest[:]))}, func(r *pb.Record) bool { return audit.PolicyOf(r) != nil }},
		{"a rule, an environment and an address at once", store.Query{Filter: store.Filter{Values: map[audit.Field][]string{
			audit.FieldRule: {"sre-on-prod"}, audit.FieldEnvironment: {"prod"}, audit.FieldSource: {"192.0.2.7"}, audit.FieldLogin: {"root"},
		}}}, func(r *pb.Record) bool { return r.GetDecided().GetAsked().GetLogin() == "root" }},
		{"what only a look can tell", store.Query{Filter: store.Filter{Match: third}}, func(r *pb.Record) bool { return r.GetIndex()%3 == 0 }},
		{"a look at what the index finds", store.Query{Filter: store.Filter{Match: third, Values: map[audit.Field][]string{audit.FieldDecision: {"needs"}}}},
			func(r *pb.Record) bool { return r.GetIndex()%3 == 0 && audit.DecisionOf(r) == "needs" }},
		{"what was before the middle", store.Query{Before: &before, Filter: value(audit.FieldDecision, "denied")},
			func(r *pb.Record) bool { return r.GetIndex() < before && audit.DecisionOf(r) == "denied" }},
		{"no filter", store.Query{}, func(*pb.Record) bool { return true }},
	} {
		var want []uint64
		for _, r := range records {
			if tt.fits(r) {
				want = append(want, r.GetIndex())
			}
		}
		for _, bounds := range []struct{ limit, work int }{{50, 0}, {1000, 100}, {len(records), 0}} {
			tt.query.Limit, tt.query.Work = bounds.limit, bounds.work
			if diff := cmp.Diff(want, allPages(t, l, tt.query)); diff != "" {
				t.Errorf("%s, at most %d for at most %d looks (-want +got):\n%s", tt.name, bounds.limit, bounds.work, diff)
			}
		}
	}
}

// allPages returns the indexes of what all pages hold.
func allPages(t *testing.T, l *log, q store.Query) []uint64 {
	t.Helper()
	var got []uint64
	for {
		page, err := store.Search(t.Context(), l, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Found) > q.Limit {
			t.Errorf("a page of %d records, at most %d were asked for", len(page.Found), q.Limit)
		}
		for _, f := range page.Found {
			got = append(got, f.Index)
		}
		if page.Next == nil {
			return got
		}
		if q.Before != nil && *page.Next >= *q.Before {
			t.Fatalf("the page before %d leads to the one before %d", *q.Before, *page.Next)
		}
		q.Before = page.Next
	}
}
