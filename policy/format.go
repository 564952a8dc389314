package policy

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Format returns a file of a policy, or of its tests, in the one layout: keys in the order of the documentation, two blanks of
// indentation, lists below their key without any, an empty line between sections, none at the ends of lines. Expressions, texts
// and whatever stands in brackets keep their form, and comments stay with the key that they precede.
//
// What a file means never changes: a file of which that cannot be shown is an error, and so is one that is not YAML.
func Format(name string, text []byte) ([]byte, error) {
	var r reader
	root, ok := r.document(name, text)
	if !ok {
		return nil, r.errs.sorted()
	}
	out := layout(root)
	again, ok := r.document(name, []byte(out))
	if !ok || !sameMeaning(root.node, again.node) || !slices.Equal(comments(string(text)), comments(out)) || layout(again) != out {
		return nil, Errors{root.src.errorAt(root.place(),
			"the file cannot be formatted without changing what it means: write its values in a plainer form, and comments on lines of their own")}
	}
	return []byte(out), nil
}

// layout formats a document once.
func layout(root item) string {
	f := &formatter{}
	for _, line := range root.src.lines {
		f.lines = append(f.lines, string(line))
	}
	header, first := f.header(root.node)
	body := f.block(root.node, first, len(f.lines)+1, 0, "")
	return strings.Trim(strings.Join(slices.Concat(header, body.head, body.lines), "\n"), "\n") + "\n"
}

// Format formats the files of a policy and of its tests. Files that do not belong to it are left out.
func (p *Policy) Format(b *Bundle) (map[string][]byte, error) {
	read, err := p.reread()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		if !strings.HasSuffix(name, testSuffix) && !slices.Contains(read.used, name) {
			continue
		}
		if out[name], err = Format(name, b.Files[name]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// formatter moves lines. It makes none, so that what it does not understand stays as it is.
type formatter struct {
	lines []string
}

// line returns a line by its number, which begins with 1, without space at its end.
func (f *formatter) line(n int) string { return strings.TrimRight(f.lines[n-1], " \t") }

// chunk is a key or an entry of a list, with its value.
type chunk struct {
	spaced bool     // an empty line stands before it
	head   []string // comments above it
	lines  []string
	rank   int
}

// header returns the lines that belong to the file and not to its first key: those above the last empty one. It also returns
// the number of the line behind them.
func (f *formatter) header(root *yaml.Node) ([]string, int) {
	first := 1
	for n := 1; n < root.Line; n++ {
		if s := f.line(n); s == "" || strings.HasPrefix(s, "---") || strings.HasPrefix(s, "%") {
			first = n + 1
		}
	}
	var header []string
	for n := 1; n < first; n++ {
		header = append(header, f.line(n))
	}
	return squeezed(header), first
}

// block lays out the mapping or the list n, which takes the lines from one up to another, at an indentation.
func (f *formatter) block(n *yaml.Node, from, to, indent int, at string) chunk {
	starts := f.starts(n)
	if starts == nil {
		return f.verbatim(n, from, to, indent)
	}
	column := starts[0].column
	footer := f.above(to, starts[len(starts)-1].line, column)
	chunks := make([]chunk, len(starts))
	for i, start := range starts {
		head, end := from, footer
		if i > 0 {
			head = f.above(start.line, starts[i-1].line, column)
		}
		if i+1 < len(starts) {
			end = f.above(starts[i+1].line, start.line, column)
		}
		c := f.entry(n, i, end, indent, at)
		comments := f.shifted(head, start.line, indent, -1)
		c.spaced = len(comments) > 0 && comments[0] == ""
		c.head = append(squeezed(comments), c.head...)
		chunks[i] = c
	}
	slices.SortStableFunc(chunks, func(a, b chunk) int { return cmp.Compare(a.rank, b.rank) })
	out := joined(chunks, at == "")
	if rest := f.shifted(footer, to, indent, -1); len(rest) > 0 {
		if rest[0] == "" {
			out.lines = append(out.lines, "")
		}
		out.lines = append(out.lines, squeezed(rest)...)
	}
	return out
}

// joined puts chunks below one another. Sections of a file that take more than a line are set off.
func joined(chunks []chunk, sections bool) chunk {
	out := chunk{head: chunks[0].head, lines: slices.Clone(chunks[0].lines)}
	for i, c := range chunks[1:] {
		long := len(c.head)+len(c.lines) > 1 || len(chunks[i].lines) > 1
		if c.spaced || sections && long {
			out.lines = append(out.lines, "")
		}
		out.lines = append(append(out.lines, c.head...), c.lines...)
	}
	return out
}

// starts returns where the keys or entries of a block begin; nil unless each begins a line of its own.
func (f *formatter) starts(n *yaml.Node) []place {
	var out []place
	step := 1
	if n.Kind == yaml.MappingNode {
		step = 2
	} else if n.Kind != yaml.SequenceNode {
		return nil
	}
	if n.Style&yaml.FlowStyle != 0 {
		return nil
	}
	for i := 0; i < len(n.Content); i += step {
		at, marks := place{n.Content[i].Line, n.Column}, " "
		if n.Kind == yaml.SequenceNode {
			marks = " -"
		}
		line := []rune(f.lines[at.line-1])
		switch {
		case n.Column > len(line), len(out) > 0 && out[len(out)-1].line >= at.line:
			return nil
		case step == 1 && (line[n.Column-1] != '-' || strings.Trim(string(line[n.Column-1:n.Content[i].Column-1]), " ") != "-"):
			return nil
		case step == 2 && (n.Content[i].Column != n.Column || n.Content[i].Kind != yaml.ScalarNode || line[n.Column-1] == '?'):
			return nil
		case strings.Trim(string(line[:n.Column-1]), marks) != "" && (i > 0 || strings.Trim(string(line[:n.Column-1]), " -") != ""):
			return nil
		}
		out = append(out, at)
	}
	return out
}

// above returns the first of the lines right above n, and below after, that are empty or comments no deeper than the column.
func (f *formatter) above(n, after, column int) int {
	for n-1 > after {
		s := f.line(n - 1)
		text := strings.TrimLeft(s, " ")
		if text != "" && (text[0] != '#' || len(s)-len(text) >= column) {
			break
		}
		n--
	}
	return n
}

// entry lays out the i-th key or entry of a block, which ends before a line.
func (f *formatter) entry(n *yaml.Node, i, end, indent int, at string) chunk {
	if n.Kind == yaml.SequenceNode {
		item := n.Content[i]
		c := f.block(item, item.Line, end, indent+2, at+"/-")
		c.lines[0] = strings.Repeat(" ", indent) + "- " + strings.TrimLeft(c.lines[0], " ")
		for j, comment := range c.head { // of what is the first key now
			c.head[j] = strings.Repeat(" ", indent) + strings.TrimLeft(comment, " ")
		}
		return c
	}
	key, value := n.Content[2*i], n.Content[2*i+1]
	below := at + "/" + key.Value
	if _, named := keyOrders[at+"/*"]; named {
		below = at + "/*"
	}
	c := chunk{rank: keyRank(at, key.Value)}
	first := strings.Repeat(" ", indent) + strings.TrimRight(string([]rune(f.lines[key.Line-1])[key.Column-1:]), " \t")
	if value.Line > key.Line && f.starts(value) != nil {
		inner := indent + 2
		if value.Kind == yaml.SequenceNode {
			inner = indent
		}
		v := f.block(value, key.Line+1, end, inner, below)
		c.lines = slices.Concat([]string{first}, v.head, v.lines)
		return c
	}
	c.lines = append([]string{first}, f.shifted(key.Line+1, end, indent, key.Column-1)...)
	return c
}

// verbatim takes the lines of a value as they are, but for their indentation.
func (f *formatter) verbatim(n *yaml.Node, from, to, indent int) chunk {
	var c chunk
	first := strings.TrimRight(string([]rune(f.lines[n.Line-1])[n.Column-1:]), " \t")
	c.head = f.shifted(from, n.Line, indent, -1)
	c.lines = append([]string{strings.Repeat(" ", indent) + first}, f.shifted(n.Line+1, to, indent, n.Column-1)...)
	return c
}

// shifted returns the lines from one up to another, moved from an old indentation to a new one; an old one of -1 stands for
// whatever each has. Empty lines at the end are left out.
func (f *formatter) shifted(from, to, indent, old int) []string {
	var out []string
	for n := from; n < to; n++ {
		s := f.line(n)
		text := strings.TrimLeft(s, " ")
		switch {
		case text == "":
		case old < 0:
			s = strings.Repeat(" ", indent) + text
		default:
			s = strings.Repeat(" ", max(0, len(s)-len(text)+indent-old)) + text
		}
		out = append(out, s)
	}
	if old >= 0 {
		for len(out) > 0 && out[len(out)-1] == "" {
			out = out[:len(out)-1]
		}
	}
	return out
}

// squeezed leaves out empty lines at the beginning and makes one of several.
func squeezed(lines []string) []string {
	var out []string
	for _, s := range lines {
		if s != "" || len(out) > 0 && out[len(out)-1] != "" {
			out = append(out, s)
		}
	}
	return out
}

// sameMeaning says whether two values are the same but for the order of keys.
func sameMeaning(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Tag != b.Tag || a.Value != b.Value || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind != yaml.MappingNode {
		return slices.EqualFunc(a.Content, b.Content, sameMeaning)
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(b.Content); i += 2 {
		values[b.Content[i].Value] = b.Content[i+1]
	}
	for i := 0; i+1 < len(a.Content); i += 2 {
		other := values[a.Content[i].Value]
		if other == nil || !sameMeaning(a.Content[i+1], other) {
			return false
		}
	}
	return len(values) == len(a.Content)/2 // no key twice
}

var commentText = regexp.MustCompile(`(?m)(?:^|[ \t])#(.*)$`)

// comments lists what looks like a comment, sorted.
func comments(text string) []string {
	var out []string
	for _, m := range commentText.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.TrimSpace(m[1]))
	}
	slices.Sort(out)
	return out
}
