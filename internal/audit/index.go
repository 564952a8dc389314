package audit

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// The index finds records by their terms. It is written in blocks, so that it costs each record little and no key is at a random
// place: once a block of records is complete, one table says which terms its records have, and once a chapter of blocks is
// complete, another says the same of its blocks. A reader asks the chapters, then the blocks of those that have the term, then
// reads the records; what is in no complete block yet it looks through.
//
// A table is the terms in ascending order, each with the set of the children that have it, cut into pages that are facts:
//
//	key                                        value
//	index/b/<block, 8 bytes><term, 4 bytes>    page: the terms from this one on, with the set of records in the block
//	index/c/<chapter, 8 bytes><term, 4 bytes>  page: the same, with the set of blocks in the chapter
//
// The first page of a table has the term 0 in its key, so that looking for any term finds a page if there is a table. In a page, a
// term is followed by the number of children, a byte, and by each of them, a byte; or by a 0 and a bitmap of 32 bytes, least
// significant bit first.
const (
	// BlockSize is how many records are in a block.
	BlockSize = 256
	// ChapterBlocks is how many blocks are in a chapter, and ChapterSize how many records.
	ChapterBlocks = 64
	ChapterSize   = BlockSize * ChapterBlocks

	// maxPage is the size of a page in bytes: small, because a reader wants one term of it.
	maxPage = 960
	// maxListed is the most children that are listed; more are a bitmap.
	maxListed  = BlockSize/8 - 1
	bitmapSize = BlockSize / 8
	termSize   = 4
)

// IndexPrefix is what the keys of the index begin with.
const IndexPrefix = "index/"

// Level is a kind of table in the index.
type Level string

// The levels.
const (
	Blocks   Level = IndexPrefix + "b/"
	Chapters Level = IndexPrefix + "c/"
)

// TablePrefix is what the keys of the pages of a table begin with.
func TablePrefix(l Level, n uint64) []byte { return append([]byte(l), number(n)...) }

// PageBelow is the key below which the newest page is the one that a term would be in.
func PageBelow(prefix []byte, t Term) []byte {
	return append(binary.BigEndian.AppendUint32(slices.Clone(prefix), uint32(t)), 0)
}

// Children is a set of the children of a table, by their number.
type Children [BlockSize / 64]uint64

// Add adds a child.
func (s *Children) Add(child int) { s[child/64] |= 1 << (child % 64) }

// Has tells whether a child is in the set.
func (s *Children) Has(child int) bool { return s[child/64]&(1<<(child%64)) != 0 }

// And keeps those that are in the other set too.
func (s *Children) And(o Children) {
	for i := range s {
		s[i] &= o[i]
	}
}

// Or adds those that are in the other set.
func (s *Children) Or(o Children) {
	for i := range s {
		s[i] |= o[i]
	}
}

// Below returns the greatest child in the set that is less than n, or -1.
func (s *Children) Below(n int) int {
	for i := len(s) - 1; i >= 0; i-- {
		word := s[i]
		if n < (i+1)*64 {
			if n <= i*64 {
				continue
			}
			word &= 1<<(n-i*64) - 1
		}
		if word != 0 {
			return i*64 + bits.Len64(word) - 1
		}
	}
	return -1
}

// Len is how many children are in the set.
func (s *Children) Len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// All is the set of the first n children.
func All(n int) Children {
	var s Children
	for i := range n {
		s.Add(i)
	}
	return s
}

// row is a term of a table with its children.
type row struct {
	term Term
	set  Children
}

// pages cuts a table into facts.
func pages(l Level, n uint64, table []row) []Fact {
	var facts []Fact
	prefix := TablePrefix(l, n)
	var page, entry []byte
	first := Term(0)
	flush := func() {
		facts = append(facts, Fact{Key: binary.BigEndian.AppendUint32(slices.Clone(prefix), uint32(first)), Value: page, Rule: New})
		page = nil
	}
	for _, r := range table {
		entry = r.append(entry[:0])
		if len(page) > 0 && len(page)+len(entry) > maxPage {
			flush()
			first = r.term
		}
		page = append(page, entry...)
	}
	flush()
	return facts
}

func (r *row) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(r.term))
	n := r.set.Len()
	if n > maxListed {
		b = append(b, 0)
		for _, word := range r.set {
			b = binary.LittleEndian.AppendUint64(b, word)
		}
		return b
	}
	b = append(b, byte(n))
	for i, word := range r.set {
		for ; word != 0; word &= word - 1 {
			b = append(b, byte(i*64+bits.TrailingZeros64(word)))
		}
	}
	return b
}

// errPage says that a page of the index cannot be read.
var errPage = errors.New("a page of the index is damaged")

// cutRow takes the first row from a page.
func cutRow(page []byte) (row, []byte, error) {
	if len(page) <= termSize {
		return row{}, nil, errPage
	}
	r := row{term: Term(binary.BigEndian.Uint32(page))}
	n := int(page[termSize])
	page = page[termSize+1:]
	if n == 0 {
		if len(page) < bitmapSize {
			return r, nil, errPage
		}
		for i := range r.set {
			r.set[i] = binary.LittleEndian.Uint64(page[8*i:])
		}
		return r, page[bitmapSize:], nil
	}
	if len(page) < n {
		return r, nil, errPage
	}
	for _, child := range page[:n] {
		r.set.Add(int(child))
	}
	return r, page[n:], nil
}

// Look returns the children that a page of the index has for a term.
func Look(page []byte, t Term) (Children, error) {
	for len(page) > 0 {
		r, rest, err := cutRow(page)
		if err != nil || r.term == t {
			return r.set, err
		}
		if r.term > t {
			break
		}
		page = rest
	}
	return Children{}, nil
}

// Index makes the index of a log from its records in their order. The zero value begins at record 0.
type Index struct {
	next uint64
	// block are the terms of the block that is not complete, each with the record in the lowest byte.
	block []uint64
	// chapter are the terms of the complete blocks of the chapter that is not complete.
	chapter map[Term]uint64
}

// Next is the index of the record that Add wants.
func (x *Index) Next() uint64 { return x.next }

// Begin goes to the beginning of a chapter.
func (x *Index) Begin(chapter uint64) { *x = Index{next: chapter * ChapterSize} }

// Resume takes over the pages of the table of the next block, instead of its records.
func (x *Index) Resume(table [][]byte) error {
	if x.next%BlockSize != 0 {
		return fmt.Errorf("the index is at record %d, where no block begins", x.next)
	}
	block := x.next / BlockSize
	for _, page := range table {
		for len(page) > 0 {
			r, rest, err := cutRow(page)
			if err != nil {
				return fmt.Errorf("block %d: %w", block, err)
			}
			x.inBlock(r.term, block)
			page = rest
		}
	}
	x.next += BlockSize
	if x.next%ChapterSize == 0 {
		x.chapter = nil
	}
	return nil
}

// Add takes the next record, that Parse returned, and gives the facts that follow once a block or a chapter is complete.
func (x *Index) Add(r *pb.Record) ([]Fact, error) {
	if r.GetIndex() != x.next {
		return nil, fmt.Errorf("the index is at record %d and got record %d", x.next, r.GetIndex())
	}
	for _, t := range Terms(r) {
		x.block = append(x.block, uint64(t)<<8|x.next%BlockSize)
	}
	x.next++
	if x.next%BlockSize != 0 {
		return nil, nil
	}
	facts := x.endBlock(x.next/BlockSize - 1)
	if x.next%ChapterSize == 0 {
		facts = append(facts, x.endChapter(x.next/ChapterSize-1)...)
	}
	return facts, nil
}

func (x *Index) inBlock(t Term, block uint64) {
	if x.chapter == nil {
		x.chapter = map[Term]uint64{}
	}
	x.chapter[t] |= 1 << (block % ChapterBlocks)
}

func (x *Index) endBlock(block uint64) []Fact {
	slices.Sort(x.block)
	var table []row
	for _, posting := range x.block {
		t := Term(posting >> 8)
		if len(table) == 0 || table[len(table)-1].term != t {
			table = append(table, row{term: t})
			x.inBlock(t, block)
		}
		table[len(table)-1].set.Add(int(posting & 0xff))
	}
	x.block = x.block[:0]
	return pages(Blocks, block, table)
}

func (x *Index) endChapter(chapter uint64) []Fact {
	table := make([]row, 0, len(x.chapter))
	for t, blocks := range x.chapter {
		table = append(table, row{term: t, set: Children{blocks}})
	}
	slices.SortFunc(table, func(a, b row) int { return cmp.Compare(a.term, b.term) })
	x.chapter = nil
	return pages(Chapters, chapter, table)
}
