package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Error is one mistake in a policy, at its place.
type Error struct {
	// File is the path inside the bundle.
	File string
	// Line and Column count from 1; a column is one rune. Both are zero if the mistake is not in a line, such as a missing file.
	Line, Column int
	// Message says what is wrong and what to write instead.
	Message string

	excerpt string // the line and a caret below it, each indented; empty if there is no line
}

// Error prints file:line:column, the message, the line, and a caret below the place.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s%s", e.File, e.Line, e.Column, e.Message, e.excerpt)
}

// Errors are all mistakes of a policy, in the order of the files and lines.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted returns e in the order of places, each mistake once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// A place is a rune of a file, both counted from 1.
type place struct{ line, column int }

// source is a file as lines of runes, which is how YAML and CEL count.
type source struct {
	name  string
	lines [][]rune
}

// lineBreak is what the YAML reader counts as the end of a line.
var lineBreak = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

func newSource(name string, text []byte) *source {
	s := &source{name: name}
	for _, line := range lineBreak.Split(string(text), -1) {
		s.lines = append(s.lines, []rune(line))
	}
	return s
}

func (s *source) errorAt(p place, format string, args ...any) *Error {
	e := &Error{File: s.name, Message: fmt.Sprintf(format, args...)}
	if len(e.Message) > maxMessage { // it cites a text of any length
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "") + "..."
	}
	if p.line > 0 {
		e.Line, e.Column = p.line, max(p.column, 1)
		e.excerpt = s.excerpt(place{e.Line, e.Column})
	}
	return e
}

// maxMessage is how many bytes of a message are kept.
const maxMessage = 1000

// maxExcerpt is how many runes of a line are shown.
const maxExcerpt = 110

// excerpt shows the line of p with a caret. What a terminal would act on is shown as a question mark.
func (s *source) excerpt(p place) string {
	if p.line > len(s.lines) { // an error at the end of the file
		return ""
	}
	line := s.lines[p.line-1]
	column := min(p.column-1, len(line))
	start := max(0, column-maxExcerpt*2/3)
	end := min(len(line), start+maxExcerpt)
	clean := func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}
	blank := func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}
	shown := strings.Map(clean, string(line[start:end]))
	return "\n    " + shown + "\n    " + strings.Map(blank, string(line[start:column])) + "^"
}

// didYouMean returns a hint that names the candidate nearest to name, or nothing if none is near.
func didYouMean(name string, candidates []string) string {
	if len(name) > 100 {
		return ""
	}
	best, distance := "", max(len(name)/3, 1)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := edits(name, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// edits counts the changes of one byte, or of two neighbours that changed places, that turn name into pattern, in which
// "*" stands for any bytes and "?" for any one.
func edits(name, pattern string) int {
	var before []int // the row of two bytes ago
	above := make([]int, len(pattern)+1)
	for j := range pattern {
		above[j+1] = above[j]
		if pattern[j] != '*' {
			above[j+1]++
		}
	}
	for i := range len(name) {
		row := make([]int, len(pattern)+1)
		row[0] = i + 1
		for j := range len(pattern) {
			if pattern[j] == '*' {
				row[j+1] = min(row[j], above[j+1])
				continue
			}
			row[j+1] = above[j]
			if pattern[j] != '?' && pattern[j] != name[i] {
				row[j+1]++
			}
			row[j+1] = min(row[j+1], row[j]+1, above[j+1]+1)
			if i > 0 && j > 0 && name[i] == pattern[j-1] && name[i-1] == pattern[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above = above, row
	}
	return above[len(pattern)]
}
