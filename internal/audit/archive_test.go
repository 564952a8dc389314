package audit_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestArchivedIsHeldToItsForm(t *testing.T) {
	t.Parallel()
	good := func() *pb.Archived {
		return &pb.Archived{
			Before: 512, From: 256, Records: 200, Until: timestamppb.New(time.Unix(1, 0)), Root: make([]byte, 32), Index: make([]byte, 32),
			Carried: [][]byte{make([]byte, 32)}, FactsVersion: audit.FactsVersion, By: "root (uid 0)",
		}
	}
	read := func(a *pb.Archived) error {
		b, err := audit.Marshal(audit.Archived(a), 600, time.Unix(2, 0), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = audit.Parse(b)
		return err
	}
	if err := read(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*pb.Archived){
		"nothing":                     func(a *pb.Archived) { a.Before = 0 },
		"half a block":                func(a *pb.Archived) { a.Before = 300 },
		"from half a block":           func(a *pb.Archived) { a.From = 100 },
		"backwards":                   func(a *pb.Archived) { a.From = 512 },
		"itself":                      func(a *pb.Archived) { a.Before = 768 },
		"no records":                  func(a *pb.Archived) { a.Records = 0 },
		"more records than there are": func(a *pb.Archived) { a.Records = 257 },
		"without time":                func(a *pb.Archived) { a.Until = nil },
		"without root hash":           func(a *pb.Archived) { a.Root = nil },
		"without index":               func(a *pb.Archived) { a.Index = nil },
		"half a digest":               func(a *pb.Archived) { a.Carried[0] = a.Carried[0][:16] },
		"by nobody":                   func(a *pb.Archived) { a.By = "" },
	} {
		a := good()
		change(a)
		if err := read(a); err == nil || !strings.Contains(err.Error(), "it archives") && !strings.Contains(err.Error(), "carries over") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

// FuzzPlace holds the quick reading of a place against the whole one.
func FuzzPlace(f *testing.F) {
	for _, r := range []*pb.Record{{}, {Index: 7, Version: 1}, {Index: 1 << 60, Event: &pb.Record_PolicyRefused{PolicyRefused: &pb.PolicyRefused{Message: "m"}}}} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x10})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &pb.Record{}
		whole := proto.Unmarshal(b, r)
		place, err := audit.Place(b)
		if whole == nil && (err != nil || place != r.GetIndex()) {
			t.Errorf("the place of %x is %d, read as %d, %v", b, r.GetIndex(), place, err)
		}
	})
}

func TestCarriedFactsComeBack(t *testing.T) {
	t.Parallel()
	var c audit.Carrier
	var want, got []*pb.CarriedFact
	var blobs [][]byte
	take := func(blob []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if blob != nil {
			blobs = append(blobs, blob)
		}
	}
	for i := range 3000 { // about 6 MB
		f := &pb.CarriedFact{Key: []byte{'k', byte(i >> 8), byte(i)}, Value: bytes.Repeat([]byte("v"), 2000), Expires: uint64(i)}
		want = append(want, f)
		take(c.Add(f))
	}
	take(c.End())
	take(c.End())
	if len(blobs) != 2 {
		t.Errorf("%d blobs, want 2", len(blobs))
	}
	var last []byte
	for _, blob := range blobs {
		facts, err := audit.Carried(blob, last)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, facts...)
		last = facts[len(facts)-1].GetKey()
	}
	if !slices.EqualFunc(want, got, func(a, b *pb.CarriedFact) bool { return proto.Equal(a, b) }) {
		t.Errorf("%d facts were read, not the %d that were put", len(got), len(want))
	}
	for name, facts := range map[string][]*pb.CarriedFact{
		"out of order":        {{Key: []byte("b")}, {Key: []byte("a")}},
		"twice":               {{Key: []byte("a")}, {Key: []byte("a")}},
		"a page of the index": {{Key: []byte("index/b/1")}},
		"without a key":       {{}},
	} {
		blob, err := proto.Marshal(&pb.CarriedFacts{Facts: facts})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Carried(blob, nil); err == nil || !strings.Contains(err.Error(), "out of place") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if _, err := audit.Carried([]byte{0xf8, 0x3f, 1}, nil); err == nil || !strings.Contains(err.Error(), "use a newer one") {
		t.Errorf("a field from the future: %v", err)
	}
}

func TestTheIndexOfArchivedRecords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		key    []byte
		before uint64
		want   bool
	}{
		{audit.TablePrefix(audit.Blocks, 0), 256, true},
		{audit.TablePrefix(audit.Blocks, 1), 256, false},
		{audit.TablePrefix(audit.Blocks, 63), audit.ChapterSize, true},
		{audit.TablePrefix(audit.Chapters, 0), audit.ChapterSize, true},
		{audit.TablePrefix(audit.Chapters, 0), audit.ChapterSize - 256, false},
		{[]byte("policy"), 256, false},
		{[]byte(audit.Blocks), 256, false},
	} {
		if got := audit.InIndex(tt.key, tt.before); got != tt.want {
			t.Errorf("%q before %d: %v", tt.key, tt.before, got)
		}
	}
}
