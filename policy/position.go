package policy

import (
	"unicode"

	"go.yaml.in/yaml/v4"
)

// places returns where in the file each rune of a scalar's value stands, and one place more for its end, so that a
// mistake inside an expression is shown where the author wrote it. It walks the source beside the value: what YAML folds,
// escapes and indents is what the two differ in (YAML 1.2.2, 6.5, 7.3, 8.1).
func places(it item) []place {
	w := &walker{lines: it.src.lines, at: it.place(), style: it.node.Style}
	switch {
	case w.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		w.at = place{w.at.line + 1, 1} // the text begins below the indicator
		w.skipBlank()
	case w.style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		w.at.column++
	}
	value := []rune(it.node.Value)
	out := make([]place, 0, len(value)+1)
	for _, v := range value {
		out = append(out, w.next(v))
	}
	return append(out, w.at)
}

type walker struct {
	lines [][]rune
	at    place
	style yaml.Style
}

// rune returns the rune at the place; a newline at the end of a line, 0 at the end of the file.
func (w *walker) rune() rune {
	if w.at.line > len(w.lines) {
		return 0
	}
	line := w.lines[w.at.line-1]
	if w.at.column > len(line) {
		return '\n'
	}
	return line[w.at.column-1]
}

// next returns the place of v, the next rune of the value, and steps past it.
func (w *walker) next(v rune) place {
	if unicode.IsSpace(v) && w.lineEnds() {
		here := w.at
		w.skipBlank() // a line break was folded to v, or kept
		return here
	}
	here, r := w.at, w.rune()
	switch {
	case r == '\n' || r == 0: // the value goes on where the source does not: a second kept line break
	case r == '\\' && w.style&yaml.DoubleQuotedStyle != 0:
		w.at.column += escapeLen(w.lines[w.at.line-1][w.at.column-1:])
	case r == '\'' && w.style&yaml.SingleQuotedStyle != 0:
		w.at.column += 2
	case r == v:
		w.at.column++
	}
	return here
}

// lineEnds says that nothing but space is left on the line.
func (w *walker) lineEnds() bool {
	if w.at.line > len(w.lines) {
		return false
	}
	line := w.lines[w.at.line-1]
	for _, r := range line[min(w.at.column-1, len(line)):] {
		if !unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// skipBlank steps over space and line breaks.
func (w *walker) skipBlank() {
	for r := w.rune(); r != 0 && unicode.IsSpace(r); r = w.rune() {
		if r == '\n' {
			w.at = place{w.at.line + 1, 1}
		} else {
			w.at.column++
		}
	}
}

// escapeLen returns how many runes the escape at the start of s takes (YAML 1.2.2, 5.7).
func escapeLen(s []rune) int {
	if len(s) < 2 {
		return 1
	}
	switch s[1] {
	case 'x':
		return 4
	case 'u':
		return 6
	case 'U':
		return 10
	}
	return 2
}
