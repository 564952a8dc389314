package bolt_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// benchRecords is how many records the log has that is searched. HALLPASS_BENCH_RECORDS sets another number: docs/benchmarks.md
// has the figures of a million.
const benchRecords = 100_000

// BenchmarkSearch measures pages of 50 in a large log: of somebody with many records, with few, with one; and of a condition that only
// a look at each record can tell. The log is written as the daemon does, but for the sync of each commit.
func BenchmarkSearch(b *testing.B) {
	n := benchRecords
	if text := os.Getenv("HALLPASS_BENCH_RECORDS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	path := newPath(b)
	s := create(b, path, newConfig(b, time.Now))
	fill(b, s, n)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	value := func(f audit.Field, value string) store.Filter {
		return store.Filter{Values: map[audit.Field][]string{f: {value}}}
	}
	half := uint64(n / 2)
	for _, q := range []struct {
		name  string
		query store.Query
	}{
		{"the newest", store.Query{}},
		{"a busy person", store.Query{Issuer: storetest.Issuer, Subject: "user7"}},
		{"somebody seen once", store.Query{Issuer: storetest.Issuer, Subject: "once"}},
		{"somebody never seen", store.Query{Issuer: storetest.Issuer, Subject: "never"}},
		{"a host", store.Query{Filter: value(audit.FieldHost, "db77.prod.example.com")}},
		{"refusals before the middle", store.Query{Before: &half, Filter: value(audit.FieldDecision, "denied")}},
		{"refusals of a person on a host", store.Query{Issuer: storetest.Issuer, Subject: "user7", Filter: store.Filter{Values: map[audit.Field][]string{
			audit.FieldDecision: {"denied"}, audit.FieldHost: {"db7.prod.example.com"},
		}}}},
	} {
		b.Run(q.name, func(b *testing.B) {
			q.query.Limit = 50
			found := 0
			for b.Loop() {
				page, err := store.Search(b.Context(), s, q.query)
				if err != nil {
					b.Fatal(err)
				}
				found = len(page.Found)
			}
			b.ReportMetric(float64(found), "records")
			b.ReportMetric(float64(info.Size())/float64(n), "B/record-on-disk")
		})
	}
}

// fill writes n records: of a thousand people who ask for a thousand hosts, one in ten refused.
func fill(b *testing.B, s *bolt.Store, n int) {
	b.Helper()
	f := storetest.NewFixture(b, s, time.Now)
	template := f.Grant(b, "user")
	template.Caller.Token.AuthTime = template.Now
	work := make(chan int)
	var wg sync.WaitGroup
	for range 512 {
		wg.Go(func() {
			for i := range work {
				a := *template
				a.Caller.Identity.Subject = fmt.Sprint("user", i*7919%1000)
				if i == n/3 {
					a.Caller.Identity.Subject = "once"
				}
				a.Caller.Identity.Email = a.Caller.Identity.Subject + "@example.com"
				a.Request.Host = fmt.Sprintf("db%d.prod.example.com", i*104729/3%1000)
				number := fmt.Appendf(nil, "%016d", i)
				copy(a.Request.Nonce[:], number)
				copy(a.Request.Digest[:], number)
				copy(a.Caller.Token.Digest[:], number)
				a.Request.ClientTime = time.Now().Add(-14*time.Minute - 59*time.Second) // so that nonces are forgotten as they are in hours
				if i%10 == 0 {
					a.Refusal, a.Authority, a.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
				}
				if _, err := f.Recorder.Record(context.Background(), &a, f.Build(&a)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}
