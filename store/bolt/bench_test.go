package bolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// BenchmarkAppend records grants. Its floor, measured in the same run, is what two syncs of a file cost, which is what bbolt
// needs for a commit: with one caller an append takes one commit, with many callers they share it.
func BenchmarkAppend(b *testing.B) {
	b.Run("floor: two page writes and syncs", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(64 * page); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 10*page)
		for b.Loop() {
			for range 2 {
				if _, err := f.WriteAt(buf, 0); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := create(b, newPath(b), newConfig(b, time.Now))
			f := storetest.NewFixture(b, s, time.Now)
			work := make(chan int)
			done := make(chan error, callers)
			for range callers {
				go func() {
					for i := range work {
						a := f.Grant(b, fmt.Sprint("user", i%100))
						if _, err := f.Record(b, a); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			i := 0
			for b.Loop() {
				work <- i
				i++
			}
			close(work)
			for range callers {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkRead measures what the core looks up for each request.
func BenchmarkRead(b *testing.B) {
	s := create(b, newPath(b), newConfig(b, time.Now))
	f := storetest.NewFixture(b, s, time.Now)
	a := f.Grant(b, "alice")
	if _, err := f.Record(b, a); err != nil {
		b.Fatal(err)
	}
	b.Run("earlier", func(b *testing.B) {
		for b.Loop() {
			if earlier, err := f.Recorder.Earlier(b.Context(), a.Caller, a.Request); err != nil || earlier == nil {
				b.Fatal(earlier, err)
			}
		}
	})
	b.Run("bound keys", func(b *testing.B) {
		for b.Loop() {
			if keys, err := f.Recorder.BoundKeys(b.Context(), a.Caller); err != nil || len(keys) != 1 {
				b.Fatal(keys, err)
			}
		}
	})
	b.Run("proofs", func(b *testing.B) {
		for range 2000 {
			if _, err := f.Record(b, f.Grant(b, "alice")); err != nil {
				b.Fatal(err)
			}
		}
		for b.Loop() {
			p, err := store.ProveRecord(b.Context(), s, 1500)
			if err == nil {
				_, err = store.ProveConsistency(b.Context(), s, 1400, p.Size)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
