package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// readAhead is how many records are read at once where many are looked at.
const readAhead = 32

// Page is what Search found.
type Page struct {
	// Found are records, newest first.
	Found []Found
	// Next is the Before of the next page; nil if there is none. A page that ended for the work it was may be empty and have one.
	Next *uint64
}

// Search returns a page of the records that q asks for, newest first. It finds them by the index (audit.Index) and looks at each
// before it returns it.
func Search(ctx context.Context, s Reader, q Query) (Page, error) {
	page, err := search(ctx, s, q)
	if err != nil {
		return Page{}, fmt.Errorf("list records: %w", err)
	}
	return page, nil
}

func search(ctx context.Context, s Reader, q Query) (Page, error) {
	if q.Limit <= 0 {
		return Page{}, errors.New("no limit given")
	}
	if (q.Issuer == "") != (q.Subject == "") {
		return Page{}, errors.New("an issuer and its subject are given together or not at all")
	}
	from, to, err := bounds(ctx, s, q)
	if err != nil || from >= to {
		return Page{}, err
	}
	f := q.Filter
	if q.Issuer != "" {
		if f.Only != nil && *f.Only != (Caller{q.Issuer, q.Subject}) {
			return Page{}, nil
		}
		f.Only = &Caller{q.Issuer, q.Subject}
	}
	if f.IsZero() {
		found, err := newest(ctx, s, q.Limit, from, to)
		page := Page{Found: found}
		if n := len(found); n == q.Limit && found[n-1].Index > from {
			page.Next = &found[n-1].Index
		}
		return page, err
	}
	size, err := s.Size(ctx)
	if err != nil {
		return Page{}, err
	}
	w := searcher{ctx: ctx, s: s, filter: &f, terms: f.terms(), limit: q.Limit, work: q.Work, stop: q.Stop, size: size, from: from}
	if w.work <= 0 {
		w.work = math.MaxInt
	}
	err = w.run(to)
	return w.page, err
}

// searcher looks for one page.
type searcher struct {
	ctx    context.Context // of this one search
	s      Reader
	filter *Filter
	terms  [][]audit.Term
	limit  int
	work   int // what is left to be done
	// stop says that it is enough; nil for never.
	stop func() bool
	size uint64
	from uint64
	page Page

	// chapter is the table of a chapter that was read last.
	chapter struct {
		set   audit.Children
		n     uint64
		known bool
	}
	// ahead are the records that were read at once: all there are from one index on, up to but without another.
	ahead              []Found
	aheadFrom, aheadTo uint64
}

// run looks through what is before an index.
func (w *searcher) run(before uint64) error {
	for before > w.from {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if w.full() {
			w.page.Next = &before
			return nil
		}
		block, ok, err := w.block(before)
		if err != nil {
			return err
		}
		if !ok { // nothing in the whole chapter
			before = block * audit.BlockSize
			continue
		}
		before = min(before, (block+1)*audit.BlockSize)
		set := audit.All(audit.BlockSize)
		if (block+1)*audit.BlockSize <= w.size {
			if set, err = w.table(audit.Blocks, block, audit.BlockSize); err != nil {
				return err
			}
		}
		if before, err = w.within(block, set, before); err != nil {
			return err
		}
	}
	return nil
}

// full tells whether the page ends here.
func (w *searcher) full() bool {
	return len(w.page.Found) >= w.limit || w.work <= 0 || w.stop != nil && w.stop()
}

// block returns the newest block before an index that may have what is looked for. If its chapter has none, it returns the first
// block of the chapter, and false.
func (w *searcher) block(before uint64) (uint64, bool, error) {
	block := (before - 1) / audit.BlockSize
	n := block / audit.ChapterBlocks
	if len(w.terms) == 0 || (n+1)*audit.ChapterSize > w.size {
		return block, true, nil
	}
	if c := &w.chapter; !c.known || c.n != n {
		set, err := w.table(audit.Chapters, n, audit.ChapterBlocks)
		if err != nil {
			return 0, false, err
		}
		c.set, c.n, c.known = set, n, true
	}
	first := n * audit.ChapterBlocks
	child := w.chapter.set.Below(int(block-first) + 1)
	if child < 0 {
		return first, false, nil
	}
	return first + uint64(child), true, nil
}

// table returns the children of a block or a chapter that have all terms. A table that is not there says nothing: all may.
func (w *searcher) table(level audit.Level, n uint64, children int) (audit.Children, error) {
	all := audit.All(children)
	prefix := audit.TablePrefix(level, n)
	for _, terms := range w.terms {
		var any audit.Children
		for _, t := range terms {
			w.work--
			pages, err := w.s.Facts(w.ctx, prefix, audit.PageBelow(prefix, t), 1)
			if err != nil {
				return all, err
			}
			if len(pages) == 0 {
				return audit.All(children), nil
			}
			set, err := audit.Look(pages[0].Value, t)
			if err != nil {
				return all, fmt.Errorf("fact %q: %w", pages[0].Key, err)
			}
			any.Or(set)
		}
		all.And(any)
	}
	return all, nil
}

// within looks at the records of a block that are in set and before an index, and returns before which to go on.
func (w *searcher) within(block uint64, set audit.Children, before uint64) (uint64, error) {
	first := block * audit.BlockSize
	ahead := uint64(1)
	if set.Len() > readAhead {
		ahead = readAhead
	}
	for {
		child := set.Below(int(before - first))
		if child < 0 || first+uint64(child) < w.from {
			return max(first, w.from), nil
		}
		if w.full() {
			return before, nil
		}
		before = first + uint64(child)
		record, err := w.record(before, ahead)
		if err != nil {
			return 0, err
		}
		w.work--
		if record == nil {
			continue // it was archived
		}
		var r pb.Record
		if err := proto.Unmarshal(record, &r); err != nil {
			return 0, fmt.Errorf("read record %d: %w", before, err)
		}
		fits, err := w.filter.fits(&r)
		if err != nil {
			return 0, fmt.Errorf("record %d: %w", before, err)
		}
		if fits {
			w.page.Found = append(w.page.Found, Found{Index: before, Record: record})
		}
	}
}

// record reads a record, and with it those before it, as many as are read at once. It is nil if it was archived.
func (w *searcher) record(index, ahead uint64) ([]byte, error) {
	if index < w.aheadFrom || index >= w.aheadTo {
		w.aheadFrom, w.aheadTo = index+1-min(ahead, index+1), index+1
		var err error
		if w.ahead, err = between(w.ctx, w.s, w.aheadFrom, w.aheadTo); err != nil {
			return nil, err
		}
	}
	i, ok := slices.BinarySearchFunc(w.ahead, index, func(f Found, index uint64) int { return cmp.Compare(f.Index, index) })
	if !ok {
		return nil, nil
	}
	return w.ahead[i].Record, nil
}
