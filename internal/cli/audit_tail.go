package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

const (
	// tailRetry is how soon a daemon that went away is looked for, at first and at most.
	tailRetry    = time.Second
	tailRetryMax = 30 * time.Second
	// tailLasted is how long a connection must have lasted for its end not to be a refusal of the sign-in.
	tailLasted = 10 * time.Second
)

func (a *app) auditTailCommand() *cobra.Command {
	var last uint32
	follow := true
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the newest records, and then each one as it is committed",
		Long: `Show the newest records, and then each one as it is committed, until interrupted. If the CA goes away it waits for it, and goes
on at the record after the last one that it showed: none is left out, none comes twice. If the log was restored from a backup
meanwhile, which lost some of what was shown, it says so and goes on at the first record that is another now. With -o json, one line
a record.`,
		Example: "  hallpass audit tail -n 20\n  hallpass audit tail --follow=false",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !follow {
				return a.auditLast(cmd.Context(), last)
			}
			return a.auditTail(cmd.Context(), last)
		},
	}
	cmd.Flags().Uint32VarP(&last, "last", "n", 10, "begin with this many records; 0 for all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", true, "go on with each record as it is committed")
	return cmd
}

// tail shows records in their order.
type tail struct {
	app   *app
	table *recordTable
	read  reading
}

func (a *app) newTail() *tail { return &tail{app: a, table: a.newRecordTable()} }

// begun says whether a record was shown.
func (t *tail) begun() bool { return len(t.read.epochs) > 0 }

// pass is told how many records that come next were archived.
func (t *tail) pass(archived uint64) { t.read.next += archived }

func (t *tail) show(e *pb.Entry) error {
	record, err := newRecordJSON(e)
	if err != nil {
		return err
	}
	index, err := strconv.ParseUint(record.Index, 10, 64)
	if err != nil {
		return err
	}
	if t.begun() && index != t.read.next {
		return fmt.Errorf("the CA sent record %d where record %d must follow", index, t.read.next)
	}
	if t.begun() && record.Epoch != t.read.last() && record.Event != "restored" {
		return fmt.Errorf("the CA sent record %d of epoch %d where one of epoch %d must follow", index, record.Epoch, t.read.last())
	}
	t.read = t.read.and(index, record.Epoch)
	if t.app.json() {
		return t.app.printJSONLine(record)
	}
	return t.table.write(record)
}

// auditLast shows the newest records, the oldest of them first.
func (a *app) auditLast(ctx context.Context, n uint32) error {
	p, err := a.openPager(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	var newest []*pb.Entry
	if err := p.each(ctx, &pb.ListRecordsRequest{}, int(n), func(e *pb.Entry) error {
		newest = append(newest, e)
		return nil
	}); err != nil {
		return err
	}
	t := a.newTail()
	for _, e := range slices.Backward(newest) {
		t.read = reading{} // records between may have been archived
		if err := t.show(e); err != nil {
			return err
		}
	}
	return nil
}

// auditTail goes on where it was when the ID token expires, and when the daemon comes back.
func (a *app) auditTail(ctx context.Context, last uint32) error {
	t := a.newTail()
	if !a.json() {
		if err := t.table.header(); err != nil {
			return err
		}
	}
	wait, lost := tailRetry, false
	for {
		began, progress := time.Now(), false
		err := t.follow(ctx, last, func() { progress, lost, wait = true, false, tailRetry })
		lasted := progress || time.Since(began) > tailLasted
		switch _, broken := errors.AsType[*shownError](err); {
		case ctx.Err() != nil || broken:
			return err
		case lasted && ca.KindOf(err) == ca.Unauthenticated: // the token expired; the next is fresh, or there is none
			continue
		case !t.begun() && !lasted || ca.KindOf(err) != ca.Unavailable && ca.KindOf(err) != ca.Exhausted:
			return err
		case !lost:
			a.note("%v; waiting for it to come back", err)
			lost = true
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)): // so that many who wait do not come at once
		case <-ctx.Done():
		}
		wait = min(2*wait, tailRetryMax)
	}
}

// shownError is one of showing a record, as far as following goes.
type shownError struct{ err error }

func (e *shownError) Error() string { return e.err.Error() }

func (e *shownError) Unwrap() error { return e.err }

// follow shows the newest records, so many of them, or those after what was shown before, and tells of each.
func (t *tail) follow(ctx context.Context, last uint32, shown func()) error {
	conn, who, err := t.app.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	from := &pb.FollowRecordsRequest{Last: last}
	if t.begun() {
		if err := t.findPlace(ctx, conn, who); err != nil {
			return err
		}
		from = &pb.FollowRecordsRequest{From: t.read.next}
	}
	return conn.Follow(ctx, who, from, func(r *pb.FollowRecordsResponse) error {
		t.pass(r.GetArchived())
		if err := t.show(r.GetEntry()); err != nil {
			return &shownError{err}
		}
		shown()
		return nil
	})
}

// findPlace goes back to where the log parts from what was shown, if it was restored while nobody followed.
func (t *tail) findPlace(ctx context.Context, conn *client.Client, who client.SignIn) error {
	p, err := t.read.parted(ctx, conn, who)
	if p == nil || err != nil {
		return err
	}
	t.app.note("the CA restored its log from a backup on %s, as the key of the log says: what was shown from record %d on is lost, and other records follow from there",
		p.restore.Time.Format(time.RFC3339), p.at.next)
	t.read = p.at
	return nil
}
