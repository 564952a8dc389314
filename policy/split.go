package policy

import (
	"slices"
	"strings"
	"unicode"
)

// span is a part of a text, in runes.
type span struct{ start, end int }

// splitAnd returns the parts of a condition between those && that stand outside brackets and texts, without the space around
// them. Where || or ?: binds all of it together, the whole is one part.
func splitAnd(text []rune) []span {
	whole := []span{trimmed(text, span{0, len(text)})}
	var parts []span
	start, depth := 0, 0
	for i := 0; i < len(text); {
		if n := skipped(text[i:]); n > 0 {
			i += n
			continue
		}
		switch r := text[i]; {
		case strings.ContainsRune("([{", r):
			depth++
		case strings.ContainsRune(")]}", r):
			depth--
		case depth > 0:
		case r == '|', r == '?' && (i == 0 || text[i-1] != '.'): // but a.?b is a selection
			return whole
		case r == '&' && i+1 < len(text) && text[i+1] == '&':
			parts = append(parts, trimmed(text, span{start, i}))
			start = i + 2
			i++
		}
		i++
	}
	return append(parts, trimmed(text, span{start, len(text)}))
}

// skipped returns how many runes the comment or the text takes that s begins with; none if it begins with neither. A quote
// after a prefix such as r begins the same text, but for what a backslash means.
func skipped(s []rune) int {
	if begins(s, "//") {
		return untilIndex(s, "\n", 2, false)
	}
	n := 0
	for n < min(2, len(s)) && strings.ContainsRune("rRbB", s[n]) {
		n++
	}
	raw := slices.ContainsFunc(s[:n], func(r rune) bool { return r == 'r' || r == 'R' })
	for _, quote := range []string{`"""`, `'''`, `"`, `'`} {
		if begins(s[n:], quote) {
			return untilIndex(s, quote, n+len(quote), !raw)
		}
	}
	return 0
}

// untilIndex returns the offset behind the next end at or after from, or the length of s.
func untilIndex(s []rune, end string, from int, escapes bool) int {
	for i := from; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case begins(s[i:], end):
			return i + len(end)
		}
	}
	return len(s)
}

func begins(s []rune, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}

func trimmed(text []rune, s span) span {
	for s.start < s.end && unicode.IsSpace(text[s.start]) {
		s.start++
	}
	for s.end > s.start && unicode.IsSpace(text[s.end-1]) {
		s.end--
	}
	return s
}
