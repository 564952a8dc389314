package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// RuleSource is a rule as it is written.
type RuleSource struct {
	// File is the path inside the bundle, Line the line of it on which Text begins.
	File string `json:"file"`
	Line int    `json:"line"`
	// Text is the lines of the rule, with the comments right above it and inside.
	Text string `json:"text"`
}

// RuleSource returns a rule exactly as it stands in its file; false if the policy has no such rule.
func (p *Policy) RuleSource(name string) (RuleSource, bool) {
	r := p.deny[name]
	if r == nil {
		r = p.allow[name]
	}
	if r == nil {
		return RuleSource{}, false
	}
	var read reader
	text := p.file(r.file)
	root, ok := read.document(r.file, text)
	if !ok {
		return RuleSource{}, false // it did compile
	}
	lines := root.src.lines
	first, end := ruleLines(root.node, r)
	if first == 0 {
		return RuleSource{}, false
	}
	if end == 0 {
		end = len(lines) + 1
	}
	first = withComments(lines, first)
	last := max(end-1, first)
	for last > r.line && notOfRule(lines, last, indent(lines[r.line-1])) {
		last--
	}
	out := RuleSource{File: r.file, Line: first}
	for _, line := range lines[first-1 : last] {
		out.Text += string(line) + "\n"
	}
	return out, true
}

// file returns the bytes of a file of the policy.
func (p *Policy) file(name string) []byte {
	for i, line := range strings.Split(strings.TrimSuffix(string(p.blobs[0]), "\n"), "\n") {
		if _, path, _ := strings.Cut(line, "  "); path == name {
			return p.blobs[i+1]
		}
	}
	return nil
}

// ruleLines returns the line on which a rule begins and that of whatever follows it; zero for the end of the file.
func ruleLines(root *yaml.Node, r *rule) (first, end int) {
	var all []*yaml.Node // as they are written
	var visit func(*yaml.Node)
	inside := map[*yaml.Node]int{} // how many nodes a node has inside
	visit = func(n *yaml.Node) {
		all = append(all, n)
		before := len(all)
		for _, child := range n.Content {
			visit(child)
		}
		inside[n] = len(all) - before
	}
	visit(root)
	for i, n := range all {
		if n.Kind != yaml.MappingNode || n.Line != r.line || !isNamed(n, r.name) {
			continue
		}
		if next := i + inside[n] + 1; next < len(all) {
			return n.Line, all[next].Line
		}
		return n.Line, 0
	}
	return 0, 0
}

// isNamed says whether a mapping has this name.
func isNamed(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "name" && n.Content[i+1].Value == name {
			return true
		}
	}
	return false
}

// withComments moves the beginning of a rule up over its dash, if that stands alone, and over the comments right above.
func withComments(lines [][]rune, first int) int {
	for first > 1 {
		above := strings.TrimSpace(string(lines[first-2]))
		if above != "-" && !strings.HasPrefix(above, "#") {
			break
		}
		first--
	}
	return first
}

// notOfRule says whether a line at the end of a rule belongs to what follows: it is empty, a dash alone, or a comment or a bracket
// that stands no deeper than the rule.
func notOfRule(lines [][]rune, line, depth int) bool {
	text := strings.TrimSpace(string(lines[line-1]))
	switch {
	case text == "", text == "-":
		return true
	case strings.HasPrefix(text, "#"), strings.HasPrefix(text, "]"): // a list of rules may be in brackets
		return indent(lines[line-1]) <= depth
	}
	return false
}

// indent is how many blanks a line begins with.
func indent(line []rune) int {
	return max(slices.IndexFunc(line, func(r rune) bool { return r != ' ' }), 0)
}
