package policy

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// screen is how many lines the rules of an explanation take at most, the first rule apart.
const screen = 30

// Text prints the explanation for people, on one screen: the answer, the rules with their conditions, what is missing, what to
// type. Lines are at most width runes long where words allow, which are never broken; a width below 40 is 40. What a terminal would
// act on is shown as a question mark.
func (x Explanation) Text(width int) string {
	p := &page{width: max(width, 40)}
	answer := map[string]string{"allow": "yes", "needs": "not yet"}[x.Outcome]
	if answer == "" {
		answer = "no"
	}
	place := ""
	if x.Environment != "" {
		place = " in " + x.Environment
	}
	p.line(4, fmt.Sprintf("%s: %s, %s@%s%s, %s", answer, clip(x.Identity), clip(x.Login), clip(x.Host), place, showTime(x.Time)))
	p.line(4, "  "+x.Message)
	more := x.MoreRules
	for i, r := range x.Rules {
		text := r.text(p.width)
		if i > 0 && len(p.lines)+len(text) > screen {
			more += len(x.Rules) - i
			break
		}
		p.lines = append(append(p.lines, ""), text...)
	}
	if more > 0 {
		p.lines = append(p.lines, "")
		p.line(0, fmt.Sprintf("(%d more rules for the login, further away)", more))
	}
	p.lines = append(p.lines, "")
	for _, missing := range x.Missing {
		p.line(9, "missing  "+missing)
	}
	if len(x.Review) > 0 {
		p.line(9, "review   by the rules "+strings.Join(x.Review, ", "))
	}
	p.line(9, "next     "+x.Next)
	return strings.Join(p.lines, "\n") + "\n"
}

// text prints a rule.
func (r ExplainedRule) text(width int) []string {
	p := &page{width: width}
	head := fmt.Sprintf("%s rule %s, %s:%d", r.Kind, r.Name, r.File, r.Line)
	if r.Owner != "" {
		head += ", of " + clip(r.Owner)
	}
	p.line(4, head)
	for _, c := range r.Conditions {
		line := fmt.Sprintf("  %-6s  %s", c.Result, c.Text)
		var notes []string
		if c.Error != "" {
			notes = append(notes, c.Error)
		}
		for _, v := range c.Values {
			notes = append(notes, v.Name+" = "+v.Value)
		}
		if len(notes) == 0 {
			p.line(10, line)
			continue
		}
		note := strings.Join(notes, "; ")
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(note)+4 <= width {
			p.line(10, line+"    "+note)
			continue
		}
		p.line(10, line)
		p.line(14, "            "+note)
	}
	return p.lines
}

// page collects lines of a width.
type page struct {
	width int
	lines []string
}

// line adds text, broken between words; what goes on in another line is indented. Spaces inside are kept.
func (p *page) line(indent int, text string) {
	words := strings.Split(strings.Map(printable, text), " ")
	current := words[0]
	for _, word := range words[1:] {
		if strings.TrimSpace(current) != "" && utf8.RuneCountInString(current)+1+utf8.RuneCountInString(word) > p.width {
			p.lines = append(p.lines, strings.TrimRight(current, " "))
			current = strings.Repeat(" ", indent) + word
			continue
		}
		current += " " + word
	}
	p.lines = append(p.lines, strings.TrimRight(current, " "))
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
