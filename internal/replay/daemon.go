package replay

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Daemon is a log that a daemon reads out to auditors.
type Daemon struct {
	// Dial connects anew, with a token that still holds.
	Dial func(ctx context.Context) (*client.Client, client.SignIn, error)
}

var _ Log = Daemon{}

// with calls f with a connection.
func (d Daemon) with(ctx context.Context, f func(*client.Client, client.SignIn) error) error {
	conn, who, err := d.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn, who)
}

// Range implements Log.
func (d Daemon) Range(ctx context.Context, since, until time.Time) (from, to uint64, err error) {
	err = d.with(ctx, func(conn *client.Client, who client.SignIn) error {
		if to, err = behind(ctx, conn, who, until); err != nil || since.IsZero() {
			return err
		}
		from, err = behind(ctx, conn, who, since)
		from = min(from, to)
		return err
	})
	return from, to, err
}

// behind returns the index behind the last record that was committed before t; behind the newest for no time.
func behind(ctx context.Context, conn *client.Client, who client.SignIn, t time.Time) (uint64, error) {
	page := &pb.ListRecordsRequest{PageSize: 1}
	if !t.IsZero() {
		page.Until = timestamppb.New(t)
	}
	answer, err := conn.ListRecords(ctx, who, page)
	if err != nil || len(answer.GetEntries()) == 0 {
		return 0, err
	}
	index, err := indexOf(answer.GetEntries()[0])
	return index + 1, err
}

// indexOf reads no more of a record than its place: what the record says is for whoever it is read for.
func indexOf(e *pb.Entry) (uint64, error) {
	r := &pb.Record{}
	if err := proto.Unmarshal(e.GetRecord(), r); err != nil {
		return 0, fmt.Errorf("read record: %w", err)
	}
	return r.GetIndex(), nil
}

// errEnough ends a stream that would wait for more records.
var errEnough = errors.New("enough")

// Read implements Log. When the token of the caller runs out on the way, it goes on with the next one.
func (d Daemon) Read(ctx context.Context, from, to uint64, each func([]Entry) error) error {
	for next := from; next < to; {
		began := next
		err := d.with(ctx, func(conn *client.Client, who client.SignIn) (err error) {
			next, err = follow(ctx, conn, who, next, to, each)
			return err
		})
		switch {
		case errors.Is(err, errEnough):
		case ca.KindOf(err) == ca.Unauthenticated && next > began && ctx.Err() == nil:
		case err == nil:
			return fmt.Errorf("the daemon ended its records before %d", next)
		default:
			return err
		}
	}
	return nil
}

// follow reads up to the record before to, and returns the index that comes next.
func follow(ctx context.Context, conn *client.Client, who client.SignIn, next, to uint64, each func([]Entry) error) (uint64, error) {
	var batch []Entry
	at := next
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		full := batch
		batch, next = nil, at
		return each(full)
	}
	err := conn.Follow(ctx, who, &pb.FollowRecordsRequest{From: next}, func(r *pb.FollowRecordsResponse) error {
		e := r.GetEntry()
		if at += r.GetArchived(); at >= to {
			if err := flush(); err != nil {
				return err
			}
			next = to
			return errEnough
		}
		batch = append(batch, Entry{Index: at, Record: e.GetRecord(), Snapshot: e.GetSnapshot(), Lists: e.GetLists()})
		at++
		if at < to && len(batch) < copyBatch {
			return nil
		}
		if err := flush(); err != nil || at < to {
			return err
		}
		return errEnough
	})
	if ca.KindOf(err) == ca.Unauthenticated {
		if flushErr := flush(); flushErr != nil {
			return next, flushErr
		}
	}
	return next, err
}

// Loaded implements Log.
func (d Daemon) Loaded(ctx context.Context) ([]Loaded, error) {
	var out []Loaded
	err := d.with(ctx, func(conn *client.Client, who client.SignIn) error {
		for page := (&pb.ListRevisionsRequest{PageSize: 1000}); ; {
			answer, err := conn.ListRevisions(ctx, who, page)
			if err != nil {
				return err
			}
			for _, r := range answer.GetRevisions() {
				out = append(out, loadedOf(r.GetIndex(), r.GetLoaded()))
			}
			if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
				return nil
			}
		}
	})
	return oldestFirst(out), err
}

// Archive implements Log.
func (d Daemon) Archive(ctx context.Context) (archived *pb.Archived, err error) {
	err = d.with(ctx, func(conn *client.Client, who client.SignIn) error {
		record, err := conn.NewestArchive(ctx, who)
		if record == nil || err != nil {
			return err
		}
		r := &pb.Record{}
		if err := proto.Unmarshal(record, r); err != nil {
			return fmt.Errorf("read record: %w", err)
		}
		archived = r.GetArchived()
		return nil
	})
	return archived, err
}

// Bundle implements Log.
func (d Daemon) Bundle(ctx context.Context, ref ca.PolicyRef) (*policy.Bundle, error) {
	b := &policy.Bundle{Source: fmt.Sprintf("policy %x", ref.Digest[:6]), Revision: ref.Revision, Dirty: ref.Dirty}
	err := d.with(ctx, func(conn *client.Client, who client.SignIn) error {
		var err error
		_, b.Files, err = conn.GetRevision(ctx, who, hex.EncodeToString(ref.Digest[:]))
		return err
	})
	return b, err
}

// Blob implements Log: the daemon sends each with its record, unless it was erased.
func (d Daemon) Blob(context.Context, [32]byte) ([]byte, error) { return nil, nil }

func loadedOf(index uint64, e *pb.PolicyLoaded) Loaded {
	out := Loaded{Index: index, Engine: e.GetEngine()}
	copy(out.Digest[:], e.GetPolicy().GetDigest())
	return out
}

func oldestFirst(all []Loaded) []Loaded {
	slices.Reverse(all)
	return all
}
