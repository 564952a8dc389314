package replay_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/history"
	"github.com/hallpass-ssh/hallpass/internal/replay"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// BenchmarkReplay replays a copy of a log of the example policy, half of it grants, under a policy that gives more time.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	if err := policy.WriteExample(dir, policy.ExampleParams{}); err != nil {
		b.Fatal(err)
	}
	files, err := policy.ReadDir(dir, false)
	if err != nil {
		b.Fatal(err)
	}
	l := history.New(b)
	l.Load(files)
	const people, each = 50, 80
	var asking sync.WaitGroup
	for i := range people {
		asking.Go(func() {
			asked := history.Asked{Subject: fmt.Sprint("user-", i), Email: fmt.Sprint("user-", i, "@example.com"), Groups: []string{"everybody", "developers", "berlin"}}
			for j := range each {
				asked.Host = []string{staging, prod}[j%2]
				_, _ = l.Ask(asked)
				l.Wait(time.Second)
			}
		})
	}
	asking.Wait()
	l.Close()
	copied, err := bolt.OpenCopy(l.Path, l.Key)
	if err != nil {
		b.Fatal(err)
	}
	defer copied.Close()
	proposed := compile(b, strings.ReplaceAll(string(files.Files["policy.yaml"]), "ttl: 2h", "ttl: 4h"))
	decided := uint64(0)
	for b.Loop() {
		s, err := replay.Run(b.Context(), replay.Config{Log: replay.Copy{Reader: copied}, Proposed: proposed})
		if err != nil {
			b.Fatal(err)
		}
		if decided += s.Decisions; s.Regrants != people*each/2 || s.Compared != people*each {
			b.Fatalf("%d of %d grants differ", s.Regrants, s.Compared)
		}
	}
	rate := float64(decided) / b.Elapsed().Seconds()
	b.ReportMetric(rate, "decisions/s")
	b.ReportMetric(rate/float64(runtime.GOMAXPROCS(0)), "decisions/s/core")
	b.ReportMetric(0, "ns/op")
}
