package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Config says what to replay.
type Config struct {
	// Log holds the decisions. Required.
	Log Log
	// Proposed is the policy to ask. Required.
	Proposed *policy.Policy
	// Since and Until ask for decisions that were committed from Since on and before Until; zero for no bound.
	Since, Until time.Time
	// Progress, if not nil, is called now and then with how many of all records were read. Never twice at a time.
	Progress func(done, all uint64)
}

// Bounds of what is held in memory, besides a few batches of records.
const (
	maxBlobs    = 20_000
	maxPolicies = 32
)

// run is one replay.
type run struct {
	Config
	loaded   []Loaded
	blobs    *cache[[32]byte, []byte]
	policies *cache[[32]byte, compiled]
}

// compiled is a policy of the past, or why there is none.
type compiled struct {
	policy *policy.Policy
	err    error
}

// Run asks the proposed policy about every recorded decision in the range. Batches of records are replayed on all cores, and
// counted in the order of the log, so that the same log always gives the same summary.
func Run(ctx context.Context, c Config) (*policy.ReplaySummary, error) {
	summary, err := start(ctx, c)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("replay: %w", err)
	}
	summary.Finish()
	return summary, nil
}

func start(ctx context.Context, c Config) (*policy.ReplaySummary, error) {
	from, to, err := c.Log.Range(ctx, c.Since, c.Until)
	if err != nil {
		return nil, err
	}
	r := &run{
		Config: c, blobs: newCache[[32]byte, []byte](maxBlobs), policies: newCache[[32]byte, compiled](maxPolicies),
	}
	if r.loaded, err = c.Log.Loaded(ctx); err != nil {
		return nil, err
	}
	return r.all(ctx, from, to)
}

// part is what came of a batch.
type part struct {
	records int
	summary *policy.ReplaySummary
	err     error
}

// all replays the records from one index up to another.
func (r *run) all(ctx context.Context, from, to uint64) (*policy.ReplaySummary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	parts := make(chan chan part, 2*workers) // in the order of the log
	slots := make(chan struct{}, workers)
	var running sync.WaitGroup
	running.Go(func() {
		defer close(parts)
		err := r.Log.Read(ctx, from, to, func(batch []Entry) error {
			result := make(chan part, 1)
			select {
			case parts <- result:
			case <-ctx.Done():
				return ctx.Err()
			}
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				summary, err := r.batch(ctx, batch)
				result <- part{len(batch), summary, err}
			})
			return nil
		})
		if err != nil {
			result := make(chan part, 1)
			result <- part{err: err}
			select {
			case parts <- result:
			case <-ctx.Done():
			}
		}
	})
	defer running.Wait()
	defer cancel()

	total, done := &policy.ReplaySummary{}, uint64(0)
	for result := range parts {
		p := <-result
		if p.err != nil {
			return nil, p.err
		}
		total.Merge(p.summary)
		if done += uint64(p.records); r.Progress != nil {
			r.Progress(done, to-from)
		}
	}
	return total, ctx.Err()
}

// batch replays some records.
func (r *run) batch(ctx context.Context, entries []Entry) (*policy.ReplaySummary, error) {
	summary := &policy.ReplaySummary{}
	for _, e := range entries {
		if err := r.record(ctx, e, summary); err != nil {
			return nil, err
		}
	}
	return summary, nil
}

// record replays one record and counts what came of it. Records that are about no request count nothing.
func (r *run) record(ctx context.Context, e Entry, summary *policy.ReplaySummary) error {
	record, err := audit.Parse(e.Record)
	if err == nil && record.GetIndex() != e.Index {
		err = fmt.Errorf("it says that it is record %d", record.GetIndex())
	}
	if err != nil {
		return unread(e.Index, err, summary)
	}
	d := record.GetDecided()
	if d == nil {
		return nil
	}
	past := policy.Past{Recorded: audit.Recorded(record)}
	if d.GetPolicy() == nil || d.GetDecision().GetOutcome() == pb.Outcome_OUTCOME_UNSPECIFIED {
		summary.Skip(e.Index, policy.Skip{Reason: policy.SkipNotAsked})
		return nil
	}
	snapshot, err := r.blob(ctx, e.Snapshot, d.GetCaller().GetSnapshot())
	if err != nil {
		return err
	}
	lists, err := r.blob(ctx, e.Lists, d.GetLists())
	if err != nil {
		return err
	}
	if past.Question, err = audit.Question(d, snapshot, lists); errors.Is(err, audit.ErrErased) {
		summary.Skip(e.Index, policy.Skip{Reason: policy.SkipErased})
		return nil
	} else if err != nil {
		return unread(e.Index, err, summary)
	}
	then, err := r.then(ctx, past.Recorded.Policy)
	if err != nil {
		return err
	}
	if past.Policy = then.policy; then.err != nil {
		summary.Skip(e.Index, policy.Skip{Reason: policy.SkipPolicy, Detail: then.err.Error()})
		return nil
	}
	past.Engine = r.engine(e.Index, past.Recorded.Policy.Digest)
	replayed, err := r.Proposed.Replay(ctx, past)
	if err != nil {
		return err
	}
	summary.Add(e.Index, past, replayed)
	return nil
}

// unread counts a record of which no question can be read.
func unread(index uint64, err error, summary *policy.ReplaySummary) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without the index, so that what is wrong with many records is said once
	}
	summary.Skip(index, policy.Skip{Reason: policy.SkipUnread, Detail: err.Error()})
	return nil
}

// blob returns what a record cites, which may have come with it; nil if it cites nothing.
func (r *run) blob(ctx context.Context, given, digest []byte) ([]byte, error) {
	if given != nil || len(digest) != 32 {
		return given, nil
	}
	return r.blobs.get([32]byte(digest), func(digest [32]byte) ([]byte, error) { return r.Log.Blob(ctx, digest) })
}

// then returns the policy that decided, or why it cannot be asked again. Its error is one that another try may not meet.
func (r *run) then(ctx context.Context, ref ca.PolicyRef) (compiled, error) {
	return r.policies.get(ref.Digest, func(digest [32]byte) (compiled, error) {
		bundle, err := r.Log.Bundle(ctx, ref)
		switch kind := ca.KindOf(err); {
		case ctx.Err() != nil:
			return compiled{}, ctx.Err() // says nothing about the policy
		case err != nil && slices.Contains(passing, kind):
			return compiled{}, err
		case err != nil:
			return compiled{err: err}, nil
		}
		p, err := policy.Compile(bundle)
		switch {
		case err != nil:
			err = fmt.Errorf("policy %x does not compile in this version: %w", digest[:6], firstMistake(err))
		case p.Ref().Digest != digest:
			err = fmt.Errorf("policy %x: its files have another digest", digest[:6])
		}
		return compiled{p, err}, nil
	})
}

// passing are the kinds of errors that say nothing about what was asked for.
var passing = []ca.Kind{ca.Unavailable, ca.Unauthenticated, ca.Denied, ca.Exhausted}

// firstMistake shortens the mistakes of a policy to one.
func firstMistake(err error) error {
	if mistakes, ok := errors.AsType[policy.Errors](err); ok && len(mistakes) > 0 {
		first := *mistakes[0]
		return fmt.Errorf("%s:%d:%d: %s", first.File, first.Line, first.Column, first.Message)
	}
	return err
}

// engine returns which one compiled the policy that decided a record; empty if the log does not say.
func (r *run) engine(index uint64, digest [32]byte) string {
	for i := sort.Search(len(r.loaded), func(i int) bool { return r.loaded[i].Index >= index }) - 1; i >= 0; i-- {
		if r.loaded[i].Digest == digest {
			return r.loaded[i].Engine
		}
	}
	return ""
}
