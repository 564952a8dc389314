package storetest

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
)

// asking lets a rule ask for a review of an attempt.
func asking(a *ca.Attempt, within time.Duration) *ca.Attempt {
	a.Review = &ca.Review{
		Policy: a.Policy, Rules: []ca.ReviewRule{{Name: "break-glass", Message: "Ask the incident lead."}}, Due: a.Now.Add(within).Truncate(time.Second),
	}
	return a
}

// open lists the indexes of the open reviews.
func open(t *testing.T, l *log) []uint64 {
	t.Helper()
	all, err := store.OpenReviews(t.Context(), l, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	var indexes []uint64
	for _, o := range all {
		indexes = append(indexes, o.Index)
	}
	return indexes
}

func testReview(t *testing.T, l *log) {
	plain := l.mustRecord(t, l.Grant(t, "alice"))
	index := l.mustRecord(t, asking(l.Grant(t, "alice"), time.Hour))
	if got := open(t, l); !slices.Equal(got, []uint64{index}) {
		t.Errorf("open: %d, want %d", got, index)
	}
	mark := func(who string, index uint64) (uint64, error) {
		reviewer := l.Grant(t, who).Caller
		return l.Recorder.MarkReviewed(t.Context(), reviewer, "192.0.2.9", index, "asked her, she was on call")
	}
	workload := l.Grant(t, "robot").Caller
	workload.Identity.Kind = ca.Workload
	size := len(Records(t, l))
	for what, refused := range map[string]struct {
		mark func() (uint64, error)
		kind ca.Kind
	}{
		"by the one it is about":          {func() (uint64, error) { return mark("alice", index) }, ca.Denied},
		"of one that asks for none":       {func() (uint64, error) { return mark("carol", plain) }, ca.NotFound},
		"of a record of something else":   {func() (uint64, error) { return mark("carol", 1) }, ca.NotFound},
		"of a record that does not exist": {func() (uint64, error) { return mark("carol", 1000) }, ca.NotFound},
		"by a workload": {func() (uint64, error) {
			return l.Recorder.MarkReviewed(t.Context(), workload, "", index, "looks good")
		}, ca.Denied},
	} {
		if _, err := refused.mark(); ca.KindOf(err) != refused.kind {
			t.Errorf("a mark %s: error %v, want the kind %v", what, err, refused.kind)
		}
	}
	if got := len(Records(t, l)); got != size {
		t.Errorf("marks that were refused left %d records", got-size)
	}

	// Of those who mark at the same time, one does.
	var group sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		group.Go(func() { _, results[i] = mark("carol", index) })
	}
	group.Wait()
	marked := 0
	for _, err := range results {
		again, twice := errors.AsType[*store.ReviewedError](err)
		switch {
		case err == nil:
			marked++
		case !twice || again.Index != index:
			t.Errorf("a second mark: error %v, want one that names the first", err)
		}
	}
	if marked != 1 {
		t.Errorf("%d marks were taken, want 1", marked)
	}
	if got := open(t, l); len(got) != 0 {
		t.Errorf("still open: %d", got)
	}
	raw, err := store.ReviewOf(t.Context(), l, index)
	if err != nil || raw == nil {
		t.Fatalf("the mark is not found: %v", err)
	}
	r, err := audit.Parse(raw)
	if err != nil || r.GetReviewed().GetDecided() != index || r.GetReviewed().GetComment() != "asked her, she was on call" || r.GetReviewed().GetCaller().GetSubject() != "carol" {
		t.Errorf("the mark is %v, error %v", r, err)
	}
	if raw, err := store.ReviewOf(t.Context(), l, plain); raw != nil || err != nil {
		t.Errorf("the mark of a record that asks for none: %x, error %v", raw, err)
	}
	l.Store = l.reopened(t)
}

func testReviewOrder(t *testing.T, l *log) {
	late := l.mustRecord(t, asking(l.Grant(t, "alice"), 3*time.Hour))
	early := l.mustRecord(t, asking(l.Grant(t, "bob"), time.Hour))
	middle := l.mustRecord(t, asking(l.Grant(t, "carol"), 2*time.Hour))
	if got, want := open(t, l), []uint64{early, middle, late}; !slices.Equal(got, want) {
		t.Errorf("open: %d, want %d", got, want)
	}
	page, err := store.OpenReviews(t.Context(), l, nil, 2)
	if err != nil || len(page) != 2 {
		t.Fatalf("a page of two: %v, error %v", page, err)
	}
	if rest, err := store.OpenReviews(t.Context(), l, &page[1], 2); err != nil || len(rest) != 1 || rest[0].Index != late {
		t.Errorf("the page behind it: %v, error %v", rest, err)
	}
	for after, want := range map[time.Duration]uint64{59 * time.Minute: 0, time.Hour: 1, 10 * time.Hour: 3} {
		open, overdue, err := store.CountReviews(t.Context(), l, l.clock.Now().Add(after))
		if open != 3 || overdue != want || err != nil {
			t.Errorf("after %s, %d are open and %d overdue, error %v; want 3 and %d", after, open, overdue, err, want)
		}
	}
}

// refuse refuses an attempt as the core does: it looks up the past until nothing comes between.
func (l *log) refuse(t *testing.T, a *ca.Attempt) int {
	t.Helper()
	a.Refusal, a.Authority, a.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
	for {
		h, err := l.Recorder.History(t.Context(), a, ca.Wants{Refusals: true, FirstUse: true})
		if err != nil || h.FirstUse != nil {
			t.Errorf("history of a refusal: %+v, error %v", h, err)
			return 0
		}
		a.Review = &ca.Review{Policy: a.Policy, History: h}
		_, err = l.Record(t, a)
		if err == nil {
			return 1 + audit.Refusals(h.Refused, a.Now)
		}
		if !errors.Is(err, ca.ErrRefusedMeanwhile) {
			t.Error(err)
			return 0
		}
	}
}

func testRefusalsCount(t *testing.T, l *log) {
	const together = 12
	counts := make([]int, together)
	attempts := make([]*ca.Attempt, together)
	for i := range attempts {
		attempts[i] = l.Grant(t, "mallory")
	}
	var group sync.WaitGroup
	for i, a := range attempts {
		group.Go(func() { counts[i] = l.refuse(t, a) })
	}
	group.Wait()
	slices.Sort(counts)
	for i, n := range counts {
		if n != i+1 {
			t.Fatalf("%d refusals at the same time are counted as %d", together, counts)
		}
	}
	if n := l.refuse(t, l.Grant(t, "alice")); n != 1 {
		t.Errorf("somebody else's refusal is number %d", n)
	}
	for range audit.MaxRefused {
		l.refuse(t, l.Grant(t, "mallory"))
	}
	stale := l.Grant(t, "mallory")
	history, err := l.Recorder.History(t.Context(), stale, ca.Wants{Refusals: true})
	if err != nil {
		t.Fatal(err)
	}
	stale.Review = &ca.Review{Policy: stale.Policy, History: history}
	l.clock.Move(time.Second)
	l.refuse(t, l.Grant(t, "mallory"))
	if _, err := l.Record(t, stale); !errors.Is(err, ca.ErrRefusedMeanwhile) {
		t.Errorf("a grant that was shown without the last refusal: %v", err)
	}
	l.clock.Move(59 * time.Minute)
	if n := l.refuse(t, l.Grant(t, "mallory")); n != audit.MaxRefused+1 {
		t.Errorf("after many refusals, the next is number %d", n)
	}
	l.clock.Move(30 * time.Minute)
	if n := l.refuse(t, l.Grant(t, "mallory")); n != 2 {
		t.Errorf("the second refusal within an hour is number %d", n)
	}
	l.Store = l.reopened(t)
}

func testFirstUse(t *testing.T, l *log) {
	history := func(a *ca.Attempt) ca.History {
		t.Helper()
		h, err := l.Recorder.History(t.Context(), a, ca.Wants{FirstUse: true})
		if err != nil || h.FirstUse == nil || h.Refused != nil {
			t.Fatalf("history %+v, error %v", h, err)
		}
		return h
	}
	a := l.Grant(t, "alice")
	if h := history(a); !*h.FirstUse {
		t.Error("a rule that nobody used was used")
	}
	refused := l.Grant(t, "alice")
	l.refuse(t, refused)
	if h := history(a); !*h.FirstUse {
		t.Error("a refusal is a use of a rule")
	}
	l.mustRecord(t, a)
	if h := history(l.Grant(t, "bob")); *h.FirstUse {
		t.Error("a rule that somebody used was not used")
	}
	if h, err := l.Recorder.History(t.Context(), a, ca.Wants{}); err != nil || h.FirstUse != nil || h.Refused != nil {
		t.Errorf("what nobody wants to know is %+v, error %v", h, err)
	}
}
