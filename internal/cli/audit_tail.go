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
on at the record after the last one that it showed: none is left out, none comes twice. With -o json, one line a record.`,
		Example: "  hallpass audit tail -n 20\n  hallpass audit tail --follow=false",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !follow {
				return a.auditLast(cmd.Context(), last)
			}
			return a.auditTail(cmd.Context(), &pb.FollowRecordsRequest{Last: last})
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
	next  *uint64 // the index of the record that must come; nil before the first
}

func (a *app) newTail() *tail { return &tail{app: a, table: a.newRecordTable()} }

// pass is told how many records that come next were archived.
func (t *tail) pass(archived uint64) {
	if t.next != nil {
		*t.next += archived
	}
}

func (t *tail) show(e *pb.Entry) error {
	record, err := newRecordJSON(e)
	if err != nil {
		return err
	}
	index, err := strconv.ParseUint(record.Index, 10, 64)
	if err != nil {
		return err
	}
	if t.next != nil && index != *t.next {
		return fmt.Errorf("the CA sent record %d where record %d must follow", index, *t.next)
	}
	if t.app.json() {
		err = t.app.printJSONLine(record)
	} else {
		err = t.table.write(record)
	}
	index++
	t.next = &index
	return err
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
		t.next = nil // records between may have been archived
		if err := t.show(e); err != nil {
			return err
		}
	}
	return nil
}

// auditTail goes on where it was when the ID token expires, and when the daemon comes back.
func (a *app) auditTail(ctx context.Context, from *pb.FollowRecordsRequest) error {
	t := a.newTail()
	if !a.json() {
		if err := t.table.header(); err != nil {
			return err
		}
	}
	wait, lost := tailRetry, false
	for {
		began, progress := time.Now(), false
		err := a.follow(ctx, from, func(r *pb.FollowRecordsResponse) error {
			t.pass(r.GetArchived())
			if err := t.show(r.GetEntry()); err != nil {
				return &shownError{err}
			}
			progress, lost, wait = true, false, tailRetry
			from.From, from.Last = *t.next, 0
			return nil
		})
		lasted := progress || time.Since(began) > tailLasted
		switch _, broken := errors.AsType[*shownError](err); {
		case ctx.Err() != nil || broken:
			return err
		case lasted && ca.KindOf(err) == ca.Unauthenticated: // the token expired; the next is fresh, or there is none
			continue
		case t.next == nil && !lasted || ca.KindOf(err) != ca.Unavailable && ca.KindOf(err) != ca.Exhausted:
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

func (a *app) follow(ctx context.Context, from *pb.FollowRecordsRequest, each func(*pb.FollowRecordsResponse) error) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Follow(ctx, who, from, each)
}
