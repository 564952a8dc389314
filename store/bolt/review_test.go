package bolt_test

import (
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// TestRebuildKeepsTheQueue shows that open reviews, and those that are not any more, follow from the records.
func TestRebuildKeepsTheQueue(t *testing.T) {
	clock := storetest.NewClock()
	path, cfg := newPath(t), newConfig(t, clock.Now)
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	var asked []uint64
	for _, who := range []string{"alice", "bob"} {
		a := f.Grant(t, who)
		a.Review = &ca.Review{Policy: a.Policy, Rules: []ca.ReviewRule{{Name: "look"}}, Due: a.Now.Add(time.Hour)}
		index, err := f.Record(t, a)
		if err != nil {
			t.Fatal(err)
		}
		asked = append(asked, index)
	}
	if _, err := f.Recorder.MarkReviewed(t.Context(), f.Grant(t, "carol").Caller, "", asked[0], "all is well"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	write(t, path+".suspect", nil)
	s = open(t, path, cfg)
	storetest.Check(t, s)
	left, err := store.OpenReviews(t.Context(), s, nil, 10)
	if err != nil || len(left) != 1 || left[0].Index != asked[1] {
		t.Errorf("open are %v, error %v; want record %d", left, err, asked[1])
	}
}
