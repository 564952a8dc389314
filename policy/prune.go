package policy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// AllowRule is an allow rule as it stands in a file.
type AllowRule struct {
	Name  string
	Owner string
	File  string
	Line  int
	// Logins are those that it grants, but for expressions.
	Logins []string

	list   *yaml.Node // the rules of the file
	place  int        // of the rule in it
	logins *yaml.Node
	end    int // the line behind the list
	key    int // the line of the key of the list
}

// AllowRules returns the allow rules in the files of a policy, in the order of the files and lines.
func (p *Policy) AllowRules() ([]AllowRule, error) {
	read, err := p.reread()
	if err != nil {
		return nil, err
	}
	var rules []AllowRule
	for _, name := range slices.Sorted(slices.Values(read.used)) {
		var r reader
		root, ok := r.document(name, read.bundle.Files[name])
		if !ok {
			return nil, r.errs.sorted()
		}
		rules = append(rules, allowRulesOf(name, root)...)
	}
	return rules, nil
}

// allowRulesOf looks at a file that compiled.
func allowRulesOf(name string, root item) []AllowRule {
	var rules []AllowRule
	content := root.node.Content
	for i := 0; i+1 < len(content); i += 2 {
		if content[i].Value != "allow" {
			continue
		}
		end := len(root.src.lines) + 1
		if i+2 < len(content) {
			end = content[i+2].Line
		}
		for place, node := range content[i+1].Content {
			rule := AllowRule{File: name, Line: node.Line, list: content[i+1], place: place, end: end, key: content[i].Line}
			for j := 0; j+1 < len(node.Content); j += 2 {
				switch value := node.Content[j+1]; node.Content[j].Value {
				case "name":
					rule.Name = value.Value
				case "owner":
					rule.Owner = value.Value
				case "grant":
					rule.logins = valueOf(value, "logins")
				}
			}
			if rule.logins != nil {
				for _, login := range rule.logins.Content {
					if !strings.Contains(login.Value, "$") {
						rule.Logins = append(rule.Logins, login.Value)
					}
				}
			}
			rules = append(rules, rule)
		}
	}
	return rules
}

// valueOf returns the value of a key in a mapping, or nil.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// Edit is what becomes of a file: of each line that changes, counting from 1, its new text, nil if it goes. Line breaks are no part
// of lines.
type Edit struct {
	File  string
	Text  []byte
	Lines map[int]*string
}

// Result is the file after the edit.
func (e *Edit) Result() []byte {
	var out bytes.Buffer
	for i, line := range bytes.SplitAfter(e.Text, []byte("\n")) {
		switch text, changed := e.Lines[i+1]; {
		case !changed:
			out.Write(line)
		case text != nil:
			out.WriteString(*text + string(line[len(bytes.TrimRight(line, "\r\n")):]))
		}
	}
	return out.Bytes()
}

// Pruning says what is to be removed from the allow rules of a policy: rules by name, and logins by the names of their rules.
type Pruning struct {
	Rules  []string
	Logins map[string][]string
}

// Prune removes rules, with the comments that stand right above them, and logins from rules. All other lines stay as they are. What
// is written in a form that it does not cut is left, and named. The policy that results compiles, and has what was not to be
// removed.
func (p *Policy) Prune(b *Bundle, what Pruning) (edits []*Edit, left []string, err error) {
	rules, err := p.AllowRules()
	if err != nil {
		return nil, nil, err
	}
	byFile := map[string]*Edit{}
	for _, rule := range rules {
		e := byFile[rule.File]
		if e == nil {
			e = &Edit{File: rule.File, Text: b.Files[rule.File], Lines: map[int]*string{}}
			byFile[rule.File] = e
		}
		lines := plainLines(e.Text)
		if slices.Contains(what.Rules, rule.Name) {
			if lines == nil || !rule.cut(lines, e.Lines) {
				left = append(left, "the rule "+rule.Name)
			}
			continue
		}
		for _, login := range what.Logins[rule.Name] {
			if lines == nil || !rule.cutLogin(lines, e.Lines, login) {
				left = append(left, "the login "+login+" of the rule "+rule.Name)
			}
		}
	}
	after := &Bundle{Files: maps.Clone(b.Files), Source: b.Source}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		if e := byFile[name]; len(e.Lines) > 0 {
			emptyLists(e, rules)
			after.Files[name] = e.Result()
			edits = append(edits, e)
		}
	}
	if len(edits) == 0 {
		return nil, left, nil
	}
	return edits, left, checkPruned(after, rules, what, left)
}

// plainLines returns the lines of a file; nil if YAML and others would count them differently.
func plainLines(text []byte) []string {
	if bytes.ContainsAny(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), "\r\u0085\u2028\u2029") {
		return nil
	}
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}

// cut marks the lines of a rule as gone. It cuts what begins with a dash of its own.
func (r *AllowRule) cut(lines []string, gone map[int]*string) bool {
	if r.list.Style&yaml.FlowStyle != 0 {
		return false
	}
	start := r.Line
	indent, ok := dash(lines[start-1])
	if !ok {
		return false
	}
	next := r.end
	if r.place+1 < len(r.list.Content) {
		next = r.list.Content[r.place+1].Line
	}
	end := next - 1 // the last line of the rule
	for end > start && outside(lines[end-1], indent) {
		end--
	}
	first := start
	for first > 1 && first-1 > r.key && isComment(lines[first-2]) && indentOf(lines[first-2]) == indent && !marked(gone, first-1) {
		first--
	}
	for end+1 < next && strings.TrimSpace(lines[end]) == "" && first > 1 && strings.TrimSpace(lines[first-2]) == "" {
		end++ // of the empty lines above and below one set is enough
	}
	for n := first; n <= end; n++ {
		gone[n] = nil
	}
	return true
}

func marked(gone map[int]*string, line int) bool {
	_, ok := gone[line]
	return ok
}

// dash tells whether a line begins an entry of a list, and how far it is indented.
func dash(line string) (int, bool) {
	indent := indentOf(line)
	rest := line[indent:]
	return indent, strings.HasPrefix(rest, "- ")
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func isComment(line string) bool { return strings.HasPrefix(strings.TrimLeft(line, " "), "#") }

// outside tells whether a line below a rule is none of it: an empty one, or a comment no further in than its dash.
func outside(line string, indent int) bool {
	return strings.TrimSpace(line) == "" || isComment(line) && indentOf(line) <= indent
}

// cutLogin takes a login from a list that is written in one line, or with a line for each.
func (r *AllowRule) cutLogin(lines []string, edited map[int]*string, login string) bool {
	i := slices.IndexFunc(r.logins.Content, func(n *yaml.Node) bool { return n.Value == login })
	node := r.logins.Content[i]
	if r.logins.Style&yaml.FlowStyle == 0 {
		if _, ok := dash(lines[node.Line-1]); !ok {
			return false
		}
		edited[node.Line] = nil
		return true
	}
	line := lines[node.Line-1]
	if text := edited[node.Line]; text != nil {
		line = *text
	}
	// The columns of nodes are those of the line as it was, so the login is looked for as a word of its own between the brackets.
	open := strings.LastIndex(line[:min(r.logins.Column, len(line))], "[")
	if node.Line != r.logins.Line || open < 0 || !utf8.ValidString(line) {
		return false
	}
	shut := strings.Index(line[open:], "]")
	if shut < 0 {
		return false
	}
	entries := strings.Split(line[open+1:open+shut], ",")
	kept := slices.DeleteFunc(slices.Clone(entries), func(e string) bool { return strings.Trim(strings.TrimSpace(e), `"'`) == login })
	if len(kept) != len(entries)-1 {
		return false
	}
	kept[0] = strings.TrimLeft(kept[0], " ")
	text := line[:open+1] + strings.Join(kept, ",") + line[open+shut:]
	edited[node.Line] = &text
	return true
}

// emptyLists writes down that a list has no rules left.
func emptyLists(e *Edit, rules []AllowRule) {
	lists := map[int]bool{} // by the line of the key: whether a rule is left
	for _, r := range rules {
		if r.File == e.File {
			text, changed := e.Lines[r.Line]
			lists[r.key] = lists[r.key] || !changed || text != nil
		}
	}
	lines := plainLines(e.Text)
	for key, full := range lists {
		if !full {
			text := strings.Replace(lines[key-1], "allow:", "allow: []", 1)
			e.Lines[key] = &text
		}
	}
}

// checkPruned compiles what results, and holds its rules against those that were to stay.
func checkPruned(b *Bundle, before []AllowRule, what Pruning, left []string) error {
	p, err := Compile(b)
	if err != nil {
		return fmt.Errorf("what is left without the unused rules is no policy: %w", err)
	}
	rules, err := p.AllowRules()
	if err != nil {
		return err
	}
	words := func(rules []AllowRule, removed bool) []string {
		var out []string
		for _, r := range rules {
			if removed && slices.Contains(what.Rules, r.Name) && !slices.Contains(left, "the rule "+r.Name) {
				continue
			}
			for _, l := range r.Logins {
				if !removed || !slices.Contains(what.Logins[r.Name], l) || slices.Contains(left, "the login "+l+" of the rule "+r.Name) {
					out = append(out, r.Name+" "+l)
				}
			}
		}
		return out
	}
	if want, got := words(before, true), words(rules, false); !slices.Equal(want, got) {
		return fmt.Errorf("removing the unused rules would change others: the policy would grant %q, and should grant %q", got, want)
	}
	return nil
}
