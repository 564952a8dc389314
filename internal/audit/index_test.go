package audit_test

import (
	"fmt"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// indexed returns the facts of the index of n records, and which records have which term.
func indexed(t testing.TB, n uint64) ([]audit.Fact, map[audit.Term][]uint64) {
	t.Helper()
	var x audit.Index
	var facts []audit.Fact
	have := map[audit.Term][]uint64{}
	for i := range n {
		r := &pb.Record{Index: i, Event: &pb.Record_Decided{Decided: &pb.Decided{
			Asked:   &pb.Asked{Login: fmt.Sprint("login", i%3), Host: fmt.Sprintf("host%d.example.com", i*7919%(i/100+1))},
			Refusal: &pb.Refusal{Kind: pb.ErrorKind_ERROR_KIND_DENIED},
		}}}
		for _, term := range audit.Terms(r) {
			have[term] = append(have[term], i)
		}
		more, err := x.Add(r)
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, more...)
	}
	return facts, have
}

// find looks in the pages of a table as a store does: in the newest that is below a key.
func find(t testing.TB, pages map[string][]byte, l audit.Level, n uint64, term audit.Term) audit.Children {
	t.Helper()
	prefix := audit.TablePrefix(l, n)
	below, best := string(audit.PageBelow(prefix, term)), ""
	for key := range pages {
		if len(key) > len(prefix) && key[:len(prefix)] == string(prefix) && key < below && key > best {
			best = key
		}
	}
	if best == "" {
		t.Fatalf("%s%d has no page for the term %x", l, n, term)
	}
	set, err := audit.Look(pages[best], term)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestIndex(t *testing.T) {
	facts, have := indexed(t, audit.ChapterSize+audit.BlockSize+5)
	pages := map[string][]byte{}
	for _, f := range facts {
		if len(f.Value) > 960 || len(f.Value) == 0 || f.Rule != audit.New || !f.Expires.IsZero() || pages[string(f.Key)] != nil {
			t.Fatalf("the fact %q has %d bytes, rule %d, or comes twice", f.Key, len(f.Value), f.Rule)
		}
		pages[string(f.Key)] = f.Value
	}
	for term, records := range have {
		blocks := map[uint64]audit.Children{}
		var chapter audit.Children
		for _, i := range records {
			set := blocks[i/audit.BlockSize]
			set.Add(int(i % audit.BlockSize))
			blocks[i/audit.BlockSize] = set
			if i < audit.ChapterSize {
				chapter.Add(int(i / audit.BlockSize))
			}
		}
		if got := find(t, pages, audit.Chapters, 0, term); got != chapter {
			t.Fatalf("the chapter has %x for the term %x, want %x", got, term, chapter)
		}
		for block := range uint64(audit.ChapterBlocks) + 1 {
			if block%16 != 0 && block != audit.ChapterBlocks-1 {
				continue // some are enough
			}
			if got := find(t, pages, audit.Blocks, block, term); got != blocks[block] {
				t.Fatalf("block %d has %x for the term %x, want %x", block, got, term, blocks[block])
			}
		}
	}
}

// TestIndexResumes shows that an index which was read back goes on as the one that was there all the time.
func TestIndexResumes(t *testing.T) {
	facts, _ := indexed(t, audit.ChapterSize)
	var x audit.Index
	for block := range uint64(audit.ChapterBlocks - 1) {
		var table [][]byte
		prefix := string(audit.TablePrefix(audit.Blocks, block))
		for _, f := range facts {
			if len(f.Key) > len(prefix) && string(f.Key[:len(prefix)]) == prefix {
				table = append(table, f.Value)
			}
		}
		if err := x.Resume(table); err != nil {
			t.Fatal(err)
		}
	}
	var again []audit.Fact
	for x.Next() < audit.ChapterSize {
		i := x.Next()
		more, err := x.Add(&pb.Record{Index: i, Event: &pb.Record_Decided{Decided: &pb.Decided{
			Asked:   &pb.Asked{Login: fmt.Sprint("login", i%3), Host: fmt.Sprintf("host%d.example.com", i*7919%(i/100+1))},
			Refusal: &pb.Refusal{Kind: pb.ErrorKind_ERROR_KIND_DENIED},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, more...)
	}
	want := facts[len(facts)-len(again):]
	for i := range again {
		if string(again[i].Key) != string(want[i].Key) || string(again[i].Value) != string(want[i].Value) {
			t.Fatalf("the fact %q has %x, want %q with %x", again[i].Key, again[i].Value, want[i].Key, want[i].Value)
		}
	}
	if _, err := x.Add(&pb.Record{Index: 7}); err == nil {
		t.Error("a record at another place was taken")
	}
}

func TestChildren(t *testing.T) {
	var s audit.Children
	for _, child := range []int{0, 63, 64, 200, 255} {
		s.Add(child)
	}
	for below, want := range map[int]int{0: -1, 1: 0, 63: 0, 64: 63, 65: 64, 128: 64, 200: 64, 201: 200, 255: 200, 256: 255} {
		if got := s.Below(below); got != want {
			t.Errorf("below %d is %d, want %d", below, got, want)
		}
	}
	if s.Len() != 5 || !s.Has(200) || s.Has(199) {
		t.Errorf("it has %d children", s.Len())
	}
	all := audit.All(audit.BlockSize)
	if all.And(s); all != s {
		t.Errorf("all and some are %x, want %x", all, s)
	}
}

// FuzzIndexPage: a page of whatever bytes is read or refused, and what is found in it was written there.
func FuzzIndexPage(f *testing.F) {
	facts, _ := indexed(f, audit.BlockSize)
	for _, fact := range facts {
		f.Add(fact.Value, uint32(audit.TermOf(audit.FieldLogin, "login1")))
	}
	f.Add([]byte{0, 0, 0, 1, 0}, uint32(1))
	f.Fuzz(func(t *testing.T, page []byte, term uint32) {
		set, err := audit.Look(page, audit.Term(term))
		if err == nil && set.Len() > 0 && len(page) < 6 {
			t.Fatalf("%x has %x", page, set)
		}
		var x audit.Index
		_ = x.Resume([][]byte{page}) // must not panic
	})
}
