package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

const (
	// batchSize is how many records go from one goroutine to the next at a time.
	batchSize = 64
	// ahead is how many batches may be read before those before them are checked.
	ahead = 64
)

// item is a record on its way: what can be said of it alone.
type item struct {
	raw  []byte
	hash tlog.Hash
	parsed
	facts []Fact
	// evaluated is what Evaluate said.
	evaluated error
	// err is why the record cannot be read, or what is wrong with it whatever the others say.
	err error
}

type batch struct {
	items []item
	// err ends the records.
	err  error
	done chan struct{} // closed when all is known of the items
}

// Check holds a log against its signed checkpoint, each record against those before it, each decision against its policy, and the
// facts as stored against the records. A *RecordError names the first record that is wrong.
func Check(ctx context.Context, s Source) (*Summary, error) {
	c, err := OpenCheckpoint(s.Checkpoint, s.PublicKey)
	if err != nil {
		return nil, err
	}
	older, err := openOlder(s, c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	k := &checker{source: s, checkpoint: c, older: older, summary: Summary{Checkpoint: c}}
	if k.archive, err = openArchive(s); err != nil {
		return nil, err
	}
	k.walk = newWalk(c, s.PublicKey, &k.tree)
	k.identities.init()
	k.projection.init()
	k.archive.stayed.once.seeds = k.projection.once.seeds
	if s.Index != nil {
		k.index = s.Index()
	}
	if s.Hashes != nil {
		k.hashes = newPuller(s.Hashes)
		defer k.hashes.stop()
	}
	for b := range k.read(ctx, &running) {
		select {
		case <-b.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err := k.take(b); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := k.end(); err != nil {
		return nil, err
	}
	k.summary.Certificates, k.summary.Refusals = k.walk.granted, k.walk.refused
	if a := k.archive; a.missing > 0 {
		k.summary.Archived, k.summary.Archive, k.summary.ArchivedBy, k.summary.ArchivedAt = a.missing, a.said, a.index, a.at
	}
	k.summary.Rejoined = k.archive.rejoined
	return &k.summary, nil
}

// openOlder returns the older checkpoints, by size.
func openOlder(s Source, c Checkpoint) (map[uint64][]Checkpoint, error) {
	older := map[uint64][]Checkpoint{}
	for _, signed := range s.Older {
		o, err := OpenCheckpoint(signed, s.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("older checkpoint: %w", err)
		}
		switch {
		case o.Size > c.Size:
			return nil, &RecordError{Index: c.Size, Err: fmt.Errorf("it and those after it are missing: the log has %d records now, but an older checkpoint says that it had %d", c.Size, o.Size)}
		case o.Epoch > c.Epoch:
			return nil, fmt.Errorf("the log is of epoch %d now, but an older checkpoint of epoch %d", c.Epoch, o.Epoch)
		}
		older[o.Size] = append(older[o.Size], o)
	}
	return older, nil
}

// read starts goroutines that read records and say what can be said of each alone. Batches come in order; each is done later.
func (k *checker) read(ctx context.Context, running *sync.WaitGroup) <-chan *batch {
	ordered, work := make(chan *batch, ahead), make(chan *batch, ahead)
	running.Go(func() {
		defer close(ordered)
		defer close(work)
		send := func(b *batch) bool {
			for _, to := range []chan *batch{ordered, work} {
				select {
				case to <- b:
				case <-ctx.Done():
					return false
				}
			}
			return true
		}
		b := &batch{done: make(chan struct{})}
		for record, err := range k.source.Records {
			if err != nil {
				b.err = err
				break
			}
			if b.items = append(b.items, item{raw: record}); len(b.items) == batchSize {
				if !send(b) {
					return
				}
				b = &batch{done: make(chan struct{})}
			}
		}
		send(b)
	})
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for b := range work {
				for i := range b.items {
					if ctx.Err() != nil {
						break
					}
					k.look(&b.items[i])
				}
				close(b.done)
			}
		})
	}
	return ordered
}

// look says what can be said of a record alone.
func (k *checker) look(i *item) {
	if i.raw == nil {
		return // it is not there
	}
	i.hash = tlog.RecordHash(i.raw)
	if i.parsed, i.err = parseRecord(i.raw); i.err != nil {
		return
	}
	if k.source.Derive != nil {
		if i.facts, i.err = k.source.Derive(i.record); i.err != nil {
			return
		}
	}
	if k.source.Evaluate != nil {
		i.evaluated = k.source.Evaluate(i.record)
	}
}

// checker is a check on its way.
type checker struct {
	index      func(*pb.Record) ([]Fact, error) // see Source.Index
	source     Source
	checkpoint Checkpoint
	older      map[uint64][]Checkpoint
	walk       *walk
	tree       treeHash
	hashes     *puller
	projection projection
	archive    *archive
	identities identities
	summary    Summary
}

// take checks the next records.
func (k *checker) take(b *batch) error {
	for i := range b.items {
		place := k.tree.size
		if place == k.checkpoint.Size {
			return &RecordError{Index: place, Err: fmt.Errorf("it was added: there are more records than the %d that were signed", k.checkpoint.Size)}
		}
		if err := k.one(place, &b.items[i]); err != nil {
			if _, ok := errors.AsType[*RecordError](err); ok {
				return err
			}
			return &RecordError{Index: place, Err: err}
		}
		for _, o := range k.older[k.tree.size] {
			if k.tree.root() != o.Root {
				return fmt.Errorf("the first %d records are not those that an older checkpoint is of: some of them were changed, or the log was forked before record %d", o.Size, o.Size)
			}
		}
	}
	if k.source.Progress != nil {
		k.source.Progress(k.tree.size, k.checkpoint.Size)
	}
	if b.err != nil {
		if _, ok := errors.AsType[*RecordError](b.err); ok {
			return b.err
		}
		return fmt.Errorf("read record %d: %w", k.tree.size, b.err)
	}
	return nil
}

// one checks a record at its place.
func (k *checker) one(place uint64, i *item) error {
	if i.raw == nil {
		return k.gap(place)
	}
	if k.hashes != nil {
		// Before all else: a record that is not what was hashed may say anything.
		if err := k.hashes.hash(i.hash, "it is not what was hashed: it, or its hash, was changed"); err != nil {
			return err
		}
	}
	if i.err != nil {
		return i.err
	}
	if place == k.archive.before() && place > 0 {
		if err := k.reach(i.record); err != nil {
			return err
		}
	}
	if err := k.walk.step(place, i.parsed); err != nil {
		return err
	}
	if err := k.evaluated(place, i); err != nil {
		return err
	}
	if err := k.follow(place, i); err != nil {
		return err
	}
	return k.above(i.hash)
}

// follow takes the facts that follow from a record.
func (k *checker) follow(place uint64, i *item) error {
	a := k.archive
	if said := i.record.GetArchived(); said != nil {
		if err := a.met(place, i.raw, said); err != nil {
			return err
		}
	}
	left := place < a.before() && leaves(i.record)
	if left {
		a.rejoined++
	}
	if k.source.Derive == nil {
		return nil
	}
	if place < a.before() && !left {
		a.stayed.put(place, i.record.GetTime().AsTime(), i.facts)
	}
	if place < a.before() && a.missing > 0 {
		return nil // what stood when they left was carried over
	}
	facts, err := together(k.index, i.record, i.facts)
	if err != nil {
		return err
	}
	return k.projection.take(place, i.record.GetTime().AsTime(), facts)
}

// grow takes the hash of a record that is not there.
func (k *checker) grow(leaf tlog.Hash, wrong string) error {
	if k.hashes != nil {
		if err := k.hashes.hash(leaf, wrong); err != nil {
			return err
		}
	}
	return k.above(leaf)
}

// above adds a hash to the tree, and holds those that it completes against the stored ones.
func (k *checker) above(leaf tlog.Hash) error {
	above := k.tree.add(leaf)
	if k.hashes == nil {
		return nil
	}
	for i, h := range above {
		first := k.tree.size - 2<<i // of the subtree
		if err := k.hashes.hash(h, fmt.Sprintf("the hashes of the tree above it were changed, or those of it or of others from record %d on together with the records", first)); err != nil {
			return err
		}
	}
	return nil
}

// together adds to the facts of a record those that follow from it and the records before it.
func together(index func(*pb.Record) ([]Fact, error), r *pb.Record, facts []Fact) ([]Fact, error) {
	if index == nil {
		return facts, nil
	}
	more, err := index(r)
	return append(facts, more...), err
}

// evaluated counts what became of a decision that was made again.
func (k *checker) evaluated(place uint64, i *item) error {
	if erased := i.record.GetIdentityErased(); erased != nil {
		k.identities.erase(place, erased)
	}
	other := k.walk.engine != k.source.Engine
	switch {
	case errors.Is(i.evaluated, ErrErased):
		if i.record.GetDecided() != nil {
			k.summary.Erased++
		}
		return k.identities.cite(place, i.record)
	case errors.Is(i.evaluated, ErrNotAsked):
		k.summary.Faults++
		return nil
	case i.evaluated != nil && other:
		return fmt.Errorf("%w (the policy was compiled by the engine %q, this program has %q: verify with one that has the other)", i.evaluated, k.walk.engine, k.source.Engine)
	case i.evaluated != nil:
		return i.evaluated
	case k.source.Evaluate == nil || i.record.GetDecided().GetDecision() == nil:
		return nil
	}
	k.summary.Evaluated++
	if other {
		k.summary.OtherEngine++
	}
	return nil
}

// end checks what can be checked only once all records are known.
func (k *checker) end() error {
	c := k.checkpoint
	switch {
	case k.tree.size != c.Size:
		return &RecordError{Index: k.tree.size, Err: fmt.Errorf("the end is missing: there are %d records, but %d were signed", k.tree.size, c.Size)}
	case k.walk.epoch != c.Epoch:
		return fmt.Errorf("the records end in epoch %d, the checkpoint is of epoch %d", k.walk.epoch, c.Epoch)
	case k.tree.root() != c.Root:
		return fmt.Errorf("the %d records have the root hash %v, but %v was signed: some record was changed", c.Size, k.tree.root(), c.Root)
	}
	if k.hashes != nil {
		if err := k.hashes.end(); err != nil {
			return err
		}
	}
	if err := k.archive.end(); err != nil {
		return err
	}
	if k.summary.EraserMissing = k.identities.unexplained; !k.source.Continued {
		if err := k.identities.end(); err != nil {
			return err
		}
	}
	if k.source.Stored == nil {
		return nil
	}
	n, err := k.projection.compare(k.source, k.archive)
	k.summary.Facts = n
	return err
}
