package audit

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// Lists returns the blob that holds the members of fetched lists; nil for none. It has no times, so that the same members are
// the same blob: a list that is fetched every minute and changes once a week adds one to the log each week.
func Lists(lists []ca.FetchedList) []byte {
	if len(lists) == 0 {
		return nil
	}
	out := &pb.FetchedLists{}
	for _, l := range lists {
		one := &pb.FetchedList{Name: Text(l.Name)}
		for _, m := range l.Members {
			one.Members = append(one.Members, Text(m))
		}
		out.Lists = append(out.Lists, one)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		panic("marshal fetched lists: " + err.Error()) // all texts are UTF-8
	}
	return b
}

// fetched is how a record cites fetched lists: the digest of their blob, and when each was fetched.
func fetched(lists []ca.FetchedList) ([]byte, []*pb.FetchedList) {
	blob := Lists(lists)
	if blob == nil {
		return nil, nil
	}
	digest := Digest(blob)
	var times []*pb.FetchedList
	for _, l := range lists {
		times = append(times, &pb.FetchedList{Name: Text(l.Name), FetchedAt: timestamp(l.Fetched)})
	}
	return digest[:], times
}

// checkFetched holds what a record says of fetched lists against its own form.
func checkFetched(d *pb.Decided) error {
	switch n := len(d.GetLists()); {
	case n != 0 && n != 32:
		return errors.New("the digest of its fetched lists is not a SHA-256")
	case (n == 0) != (len(d.GetFetched()) == 0):
		return errors.New("it cites fetched lists without their times, or times without the lists")
	case n != 0 && d.GetPolicy() == nil:
		return errors.New("it cites fetched lists without a policy that saw them")
	}
	before := ""
	for _, l := range d.GetFetched() {
		if l.GetName() <= before || l.GetFetchedAt() == nil || len(l.GetMembers()) > 0 {
			return errors.New("the times of its fetched lists are not sorted by name, or one has no time, or members")
		}
		before = l.GetName()
	}
	return nil
}

// listsOf returns the fetched lists that a record cites, from their blob.
func listsOf(d *pb.Decided, blob []byte) ([]ca.FetchedList, error) {
	if len(d.GetLists()) == 0 {
		return nil, nil
	}
	if blob == nil {
		return nil, errors.New("the fetched lists that it cites are missing")
	}
	if digest := Digest(blob); !bytes.Equal(digest[:], d.GetLists()) {
		return nil, errors.New("the fetched lists are not those that the record cites")
	}
	held := &pb.FetchedLists{}
	if err := proto.Unmarshal(blob, held); err != nil {
		return nil, fmt.Errorf("read fetched lists: %w", err)
	}
	if len(held.GetLists()) != len(d.GetFetched()) {
		return nil, fmt.Errorf("read fetched lists: the blob has %d, the record names %d", len(held.GetLists()), len(d.GetFetched()))
	}
	var out []ca.FetchedList
	for i, l := range held.GetLists() {
		named := d.GetFetched()[i]
		if named.GetName() != l.GetName() {
			return nil, fmt.Errorf("read fetched lists: the blob has %q where the record names %q", l.GetName(), named.GetName())
		}
		out = append(out, ca.FetchedList{
			Name: l.GetName(), Fetched: goTime(named.GetFetchedAt()), Members: append([]string{}, l.GetMembers()...),
		})
	}
	return out, nil
}
