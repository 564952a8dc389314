package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// followers is how many follow the log at once.
const followers = 50

// heavyReaders lets many follow the log, and some export and back it up again and again, while clients ask: certificates are issued all
// the while, every follower sees every record once and in order, and each backup is whole. Readers give way to clients, so that on a
// fast machine an export may take until these have what they want.
func heavyReaders(t *testing.T, a *authority, random *rand.Rand) {
	p := a.start(t)
	l := a.load(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	end := func() { cancel(); reading.Wait() }
	defer end()
	carol := a.signIn(t, "carol").who()
	served := make(chan bool, followers+2) // has a place for each reader, once it got something
	progress := make([]uint64, followers)  // how many records each follower has; its own until it ends
	for i := range followers {
		c := a.dial(t, p)
		reading.Go(func() {
			if err := follow(ctx, c, carol, served, &progress[i]); err != nil {
				t.Errorf("follower %d: %v", i, err)
			}
		})
	}
	var exports, backups int
	dir, exporter, keeper := t.TempDir(), a.dial(t, p), a.dial(t, p)
	reading.Go(func() {
		exports = again(ctx, t, "export", served, func(int) error { return export(ctx, exporter, carol) })
	})
	reading.Go(func() {
		backups = again(ctx, t, "backup", served, func(n int) error { return backup(ctx, keeper, carol, filepath.Join(dir, fmt.Sprint(n))) })
	})
	for range 3 + random.IntN(5) {
		a.busy(t, p, a.seen.counts())
	}
	l.stop()
	timeout := time.After(patience)
	for range followers + 2 {
		select {
		case <-served:
		case <-timeout:
			t.Fatal("somebody is not served")
		}
	}
	end()
	p.stop(t)
	for i := range backups {
		file := filepath.Join(dir, fmt.Sprint(i))
		if out, err := a.audit(file, file+".head"); err != nil {
			t.Errorf("a backup does not verify: %v\n%s", err, out)
		}
	}
	t.Logf("%d followers with at least %d records, %d exports, %d backups", followers, slices.Min(progress), exports, backups)
}

// again does something until the context ends, and returns how often.
func again(ctx context.Context, t *testing.T, what string, served chan<- bool, do func(n int) error) (n int) {
	t.Helper()
	for ctx.Err() == nil {
		err := do(n)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			break
		}
		if n++; n == 1 {
			served <- true
		}
	}
	return n
}

// follow reads every record from the first on, until the context ends.
func follow(ctx context.Context, c *client.Client, who client.SignIn, served chan<- bool, next *uint64) error {
	err := c.FollowRecords(ctx, who, &pb.FollowRecordsRequest{}, func(e *pb.Entry) error {
		record := &pb.Record{}
		if err := proto.Unmarshal(e.GetRecord(), record); err != nil {
			return err
		}
		if record.GetIndex() != *next {
			return fmt.Errorf("record %d came where record %d should: %w", record.GetIndex(), *next, errFound)
		}
		if *next++; *next == 1 {
			served <- true
		}
		return nil
	})
	if ctx.Err() != nil && !errors.Is(err, errFound) {
		return nil
	}
	return err
}

// export reads the whole log in large pages.
func export(ctx context.Context, c *client.Client, who client.SignIn) error {
	for token := ""; ; {
		page, err := c.ListRecords(ctx, who, &pb.ListRecordsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return err
		}
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// backup takes one, and puts its checkpoint beside it.
func backup(ctx context.Context, c *client.Client, who client.SignIn, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	header, err := c.Backup(ctx, who, f, func(uint64, uint64) {})
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.WriteFile(file+".head", []byte(header.GetCheckpoint()), 0o600)
}
