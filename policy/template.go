package policy

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
)

// template is text with ${...}, each a CEL expression that gives one string. $$ stands for $.
type template struct {
	parts []part
}

// part is either text or an expression.
type part struct {
	text       string
	expression *expression
}

// literal returns the text of a template without expressions.
func (t *template) literal() (string, bool) {
	if len(t.parts) == 1 && t.parts[0].expression == nil { // nearly all: a refusal looks at those of every rule
		return t.parts[0].text, true
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.expression != nil {
			return "", false
		}
		b.WriteString(p.text)
	}
	return b.String(), true
}

// eval fills the template in.
func (t *template) eval(e *evaluation) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.expression == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := e.eval(p.expression)
		if err != nil {
			return "", err
		}
		s, ok := value.(string)
		if !ok {
			return "", fmt.Errorf("the expression gave a %T", value)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// template compiles the text at it; nil if it is a mistake.
func (c *compiler) template(it item, what string) *template {
	text, ok := c.text(it, "an entry of "+what)
	if !ok {
		return nil
	}
	t, value := &template{}, []rune(text)
	fail := func(offset int, message string) *template {
		c.add(it.src.errorAt(places(it)[offset], "%s", message))
		return nil
	}
	for i := 0; i < len(value); {
		switch {
		case value[i] != '$':
			start := i
			for i < len(value) && value[i] != '$' {
				i++
			}
			t.parts = append(t.parts, part{text: string(value[start:i])})
		case i+1 < len(value) && value[i+1] == '$':
			t.parts = append(t.parts, part{text: "$"})
			i += 2
		case i+1 < len(value) && value[i+1] == '{':
			length := braced(value[i+2:])
			if length < 0 {
				return fail(i, "${ has no closing }")
			}
			e := c.compileAt(it, string(value[i+2:i+2+length]), i+2, cel.StringType, inAllow)
			if e == nil {
				return nil
			}
			t.parts = append(t.parts, part{expression: e})
			i += length + 3
		default:
			return fail(i, "a single $: write ${...} for an expression, or $$ for the sign")
		}
	}
	return t
}

// braced returns how many runes stand before the } that closes an expression; -1 if none does. Braces in texts and maps of
// the expression do not close it.
func braced(s []rune) int {
	depth, quote := 0, rune(0)
	for i := 0; i < len(s); i++ {
		switch r := s[i]; {
		case quote != 0 && r == '\\':
			i++
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '"' || r == '\'':
			quote = r
		case r == '{':
			depth++
		case r == '}' && depth == 0:
			return i
		case r == '}':
			depth--
		}
	}
	return -1
}
