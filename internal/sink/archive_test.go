package sink_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestArchivedRecordsAreNotSent begins a sink on a log of which the old records were archived: it gets what there is, once and in order.
func TestArchivedRecordsAreNotSent(t *testing.T) {
	t.Parallel()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := storetest.NewClock()
	cfg, path := bolt.Config{LogKey: key, Now: clock.Now, Logger: slog.New(slog.DiscardHandler)}, filepath.Join(t.TempDir(), "log.db")
	log, err := bolt.Create(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, log, storetest.NewFixture(t, log, clock.Now), key.ID(), t.TempDir(), &said{}, path, cfg, clock}
	w.grant(300)
	clock.Move(72 * time.Hour)
	w.grant(1)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.MoveToArchive(path, cfg, bolt.Archiving{Before: clock.Now().Add(-48 * time.Hour), File: path + ".old", By: "tester"}); err != nil {
		t.Fatal(err)
	}
	if log, err = bolt.Open(path, cfg); err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.store = log
	c := &collector{}
	w.sendAll(c)
	want := []string{"0", "1", "2"} // the genesis, a CA key and a policy stay
	for i := audit.BlockSize; i < int(w.size()); i++ {
		want = append(want, fmt.Sprint(i))
	}
	if diff := cmp.Diff(want, c.events); diff != "" {
		t.Errorf("what was sent (-want +got):\n%s", diff)
	}
}
