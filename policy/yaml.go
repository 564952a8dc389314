package policy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// reader collects mistakes, so that one run reports them all.
type reader struct {
	errs Errors
}

// maxErrors is where a file is no policy with mistakes but something else.
const maxErrors = 1000

func (r *reader) add(e *Error) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, e)
	}
}

// item is a value of a file, at its place.
type item struct {
	src  *source
	node *yaml.Node
}

func (it item) place() place { return place{it.node.Line, it.node.Column} }

func (r *reader) errorf(it item, format string, args ...any) {
	r.add(it.src.errorAt(it.place(), format, args...))
}

// document parses the one YAML document of a file. Nodes hold the structure; aliases are not followed, and anything that
// would need them is refused by the readers below, so that a file means no more than its size.
func (r *reader) document(name string, text []byte) (item, bool) {
	src := newSource(name, text)
	fail := func(p place, format string, args ...any) (item, bool) {
		r.add(src.errorAt(p, format, args...))
		return item{}, false
	}
	if line := slices.IndexFunc(bytes.Split(text, []byte("\n")), func(l []byte) bool { return !utf8.Valid(l) }); line >= 0 {
		return fail(place{line + 1, 1}, "the line is not UTF-8")
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return fail(place{}, "read YAML: %v", err)
	}
	var first, second yaml.Node
	switch err := loader.Load(&first); {
	case errors.Is(err, io.EOF):
		return fail(place{1, 1}, "the file is empty")
	case err != nil:
		return fail(yamlPlace(err), "%s", yamlMessage(err))
	}
	switch err := loader.Load(&second); {
	case err == nil:
		return fail(place{max(second.Line, 1), second.Column}, "a second document: a policy file is one YAML document")
	case !errors.Is(err, io.EOF):
		return fail(yamlPlace(err), "%s", yamlMessage(err))
	}
	if first.Kind != yaml.DocumentNode || len(first.Content) != 1 {
		return fail(place{1, 1}, "the file is empty")
	}
	return item{src, first.Content[0]}, true
}

// yamlPlace returns where the YAML library saw a mistake; the first line if it does not say.
func yamlPlace(err error) place {
	if e, ok := errors.AsType[*yaml.LoadError](err); ok && e.Mark.Line > 0 {
		return place{e.Mark.Line, max(e.Mark.Column, 1)}
	}
	return place{1, 1}
}

func yamlMessage(err error) string {
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		return "not YAML: " + e.Message
	}
	return "not YAML: " + err.Error()
}

// field is a key of a mapping that is known, and what reads its value.
type field struct {
	key  string
	read func(item)
	// later is set for a key that is reserved for what is to come: it is refused under this name.
	later string
}

// plain refuses what policies do without: aliases, anchors, tags, merge keys.
func (r *reader) plain(it item) bool {
	switch n := it.node; {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.errorf(it, "anchors and aliases are not supported: write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		r.errorf(it, "the tag %s is not supported: remove it", n.Tag)
	default:
		return true
	}
	return false
}

// pairs calls visit with each key and value of a mapping; a key that comes twice is a mistake.
func (r *reader) pairs(it item, what string, visit func(key string, keyItem, value item)) bool {
	if !r.plain(it) {
		return false
	}
	if it.node.Kind != yaml.MappingNode {
		r.errorf(it, "%s must be a mapping of keys to values, not %s", what, kindOf(it.node))
		return false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(it.node.Content); i += 2 {
		key, value := item{it.src, it.node.Content[i]}, item{it.src, it.node.Content[i+1]}
		if !r.plain(key) {
			continue
		}
		if key.node.Kind != yaml.ScalarNode || key.node.Tag == "!!merge" {
			r.errorf(key, "a key must be plain text, not %s", kindOf(key.node))
			continue
		}
		name := key.node.Value
		if line, twice := lines[name]; twice {
			r.errorf(key, "the key %q comes twice: it is also in line %d", name, line)
			continue
		}
		lines[name] = key.node.Line
		visit(name, key, value)
	}
	return true
}

// mapping reads a mapping of known keys; any other is a mistake. It says whether it is a mapping.
func (r *reader) mapping(it item, what string, fields []field) bool {
	return r.pairs(it, what, func(name string, key, value item) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name })
		switch {
		case i < 0:
			known := make([]string, 0, len(fields))
			for _, f := range fields {
				if f.later == "" {
					known = append(known, f.key)
				}
			}
			r.errorf(key, "%s has no key %q%s", what, name, didYouMean(name, known))
		case fields[i].later != "":
			r.errorf(key, "%s is not supported yet", fields[i].later)
		default:
			fields[i].read(value)
		}
	})
}

// list calls read with each entry of a list.
func (r *reader) list(it item, what string, read func(item)) {
	if !r.plain(it) {
		return
	}
	if it.node.Kind != yaml.SequenceNode {
		r.errorf(it, "%s must be a list, not %s", what, kindOf(it.node))
		return
	}
	for _, n := range it.node.Content {
		read(item{it.src, n})
	}
}

// scalar returns the value of it if its tag is one of tags.
func (r *reader) scalar(it item, what, kind string, tags ...string) (string, bool) {
	if !r.plain(it) {
		return "", false
	}
	if it.node.Kind != yaml.ScalarNode || !slices.Contains(tags, it.node.Tag) {
		r.errorf(it, "%s must be %s, not %s", what, kind, kindOf(it.node))
		return "", false
	}
	return it.node.Value, true
}

func (r *reader) text(it item, what string) (string, bool) {
	s, ok := r.scalar(it, what, "text", "!!str")
	if ok && s == "" {
		r.errorf(it, "%s is empty", what)
		return "", false
	}
	return s, ok
}

func (r *reader) boolean(it item, what string) bool {
	s, _ := r.scalar(it, what, "true or false", "!!bool")
	return s == "true" || s == "True" || s == "TRUE"
}

func (r *reader) integer(it item, what string) (int64, bool) {
	s, ok := r.scalar(it, what, "a whole number", "!!int")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		r.errorf(it, "%s must be a decimal whole number of 64 bits, not %s", what, s)
	}
	return n, err == nil
}

// duration reads whole seconds, more than none.
func (r *reader) duration(it item, what string) time.Duration {
	s, ok := r.scalar(it, what, "a duration such as 90m or 2h", "!!str")
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d%time.Second != 0 {
		r.errorf(it, "%s must be a duration of whole seconds such as 90m or 2h, not %q", what, s)
		return 0
	}
	return d
}

// date reads a day and returns the instant it ends, UTC.
func (r *reader) date(it item, what string) time.Time {
	s, ok := r.scalar(it, what, "a date such as 2027-06-30", "!!timestamp", "!!str")
	if !ok {
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, s)
	if err != nil {
		r.errorf(it, "%s must be a date such as 2027-06-30, not %q", what, s)
		return time.Time{}
	}
	return day.AddDate(0, 0, 1)
}

// kindOf says what a value is, in words.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	case "!!merge":
		return "a merge key"
	}
	return "text"
}
