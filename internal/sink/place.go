package sink

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// place is where a record is. A log that was restored goes on at an index that it had before, in a later epoch: what is there now is
// another event than what was there.
type place struct {
	epoch uint32
	index uint64
}

// id is the event.id of the record there.
func (p place) id(logID string) string { return logID + "/" + p.text("/") }

// text is both numbers, with something between.
func (p place) text(separator string) string {
	return fmt.Sprintf("%d%s%d", p.epoch, separator, p.index)
}

// after says whether a record comes after another.
func (p place) after(q place) bool { return p.compare(q) > 0 }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.index, q.index))
}

// placeOf is the reverse of id; false for what is no event of the log.
func placeOf(id, logID string) (place, bool) {
	text, ok := strings.CutPrefix(id, logID+"/")
	p, plain := parsePlace(text, "/")
	return p, ok && plain
}

// parsePlace is the reverse of text.
func parsePlace(s, separator string) (place, bool) {
	first, second, _ := strings.Cut(s, separator)
	epoch, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return place{}, false
	}
	index, err := strconv.ParseUint(second, 10, 64)
	p := place{uint32(epoch), index}
	return p, err == nil && p.text(separator) == s
}
