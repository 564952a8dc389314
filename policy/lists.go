package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"go.yaml.in/yaml/v4"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Bounds of lists.
const (
	maxLists   = 100
	maxMembers = 10_000
	maxMember  = 256 // bytes
	// Bounds of max_age. A list that may be very old is better kept in a file, one that may not be old at all cannot be fetched.
	minListAge = 10 * time.Second
	maxListAge = 30 * 24 * time.Hour
)

// Fetch is a list whose members are kept elsewhere: where, and how to read them.
type Fetch struct {
	// Name is that of the list in the policy.
	Name string
	// URL answers with JSON; https, or http on a loopback address.
	URL string
	// MaxAge is how old the members may be when a rule sees them.
	MaxAge time.Duration
	// Field is the field of the answer that has the list, or several with dots between; empty if the answer is the list.
	Field string
	// Member is the field of an entry that names the member; empty if the entry is its name.
	Member string
}

// Fetches returns the lists that have to be fetched for the policy, by name.
func (p *Policy) Fetches() []Fetch {
	var out []Fetch
	for _, l := range p.lists {
		if l.fetch != nil {
			out = append(out, *l.fetch)
		}
	}
	return out
}

// Members reads an answer. It returns the members sorted, each once. An answer that is not of the form, is too large, or holds
// an entry that cannot be a member is an error as a whole: half a list must not pass for one.
func (f Fetch) Members(answer []byte) ([]string, error) {
	if !utf8.Valid(answer) {
		return nil, errors.New("the answer is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(answer))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, errors.New("the answer is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the answer has more than one JSON value")
	}
	return members(value, f.Field, f.Member)
}

// members picks the members out of a value of encoding/json.
func members(value any, field, member string) ([]string, error) {
	if field != "" {
		for part := range strings.SplitSeq(field, ".") {
			object, _ := value.(map[string]any)
			var ok bool
			if value, ok = object[part]; !ok {
				return nil, fmt.Errorf("there is no field %s", field)
			}
		}
	}
	entries, ok := value.([]any)
	switch {
	case !ok && field == "":
		return nil, errors.New("it is no list: field says which part of it is one")
	case !ok:
		return nil, fmt.Errorf("the field %s is no list", field)
	case len(entries) > maxMembers:
		return nil, fmt.Errorf("it has more than %d entries", maxMembers)
	}
	out := make([]string, 0, len(entries))
	for i, entry := range entries {
		if member != "" {
			object, ok := entry.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("entry %d is no object with a field %s", i+1, member)
			}
			if entry, ok = object[member]; !ok {
				return nil, fmt.Errorf("entry %d has no field %s", i+1, member)
			}
		}
		s, ok := entry.(string)
		if !ok {
			return nil, fmt.Errorf("entry %d is no text", i+1)
		}
		if problem := unfitMember(s); problem != "" {
			return nil, fmt.Errorf("entry %d %s", i+1, problem)
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// unfitMember says what keeps a text from being a member.
func unfitMember(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxMember:
		return fmt.Sprintf("has more than %d bytes", maxMember)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has characters that cannot be printed"
	case strings.TrimSpace(s) != s:
		return "begins or ends with a space"
	}
	return ""
}

// list is a named list of texts.
type list struct {
	name string
	// value is what expressions see of a list that stands in the policy.
	value ref.Val
	// fetch says where any other comes from.
	fetch *Fetch
}

// members are those that stand in the policy, sorted.
func (l list) members() []string {
	if r, ok := l.value.(roster); ok {
		return r.sorted
	}
	return nil
}

// roster is a list that finds a text without looking at all of them.
type roster struct {
	traits.Lister
	sorted []string
}

func newRoster(sorted []string) roster {
	return roster{types.NewStringList(types.DefaultTypeAdapter, sorted), sorted}
}

// Contains implements the operator in.
func (r roster) Contains(v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return r.Lister.Contains(v)
	}
	_, found := slices.BinarySearch(r.sorted, string(s))
	return types.Bool(found)
}

// bind puts the list into vars. A fetched list that is not at hand, or too old, is there as a failure: a deny rule that asks for it
// refuses, an allow rule does not apply.
func (l list) bind(vars map[string]any, q ca.Question) {
	name := "lists." + l.name
	if l.fetch == nil {
		vars[name] = l.value
		return
	}
	i := slices.IndexFunc(q.Lists, func(f ca.FetchedList) bool { return f.Name == l.name })
	if i < 0 {
		vars[name] = types.NewErr("the list %s has not been fetched yet", l.name)
		return
	}
	switch age := q.Now.Sub(q.Lists[i].Fetched); {
	case age > l.fetch.MaxAge:
		vars[name] = types.NewErr("the list %s is %s old, at most %s is allowed", l.name, roughly(age), shortDuration(l.fetch.MaxAge))
	case age < -maxSkew:
		vars[name] = types.NewErr("the list %s was fetched at a time to come: a clock is wrong", l.name)
	default:
		vars[name] = newRoster(q.Lists[i].Members)
	}
}

// roughly prints an age without what nobody wants to know.
func roughly(age time.Duration) string {
	if age >= time.Hour {
		return shortDuration(age.Truncate(time.Minute))
	}
	return shortDuration(age.Truncate(time.Second))
}

type listDraft struct {
	list
	at            item
	file, url     item
	aged          bool
	field, member string
	maxAge        time.Duration
}

func (c *compiler) lists(it item) {
	c.pairs(it, "lists", func(name string, key, value item) {
		d := &listDraft{list: list{name: name}, at: key}
		if value.node.Kind == yaml.SequenceNode {
			d.value = newRoster(c.members(value))
		} else if c.mapping(value, "the list "+name, []field{
			{key: "file", read: func(it item) { d.file = it }},
			{key: "url", read: func(it item) { d.url = it }},
			{key: "max_age", read: func(it item) { d.maxAge, d.aged = c.listAge(it), true }},
			{key: "field", read: func(it item) { d.field = c.word(it, "field") }},
			{key: "member", read: func(it item) { d.member = c.word(it, "member") }},
		}) {
			c.listSource(d)
		}
		other, twice := c.draft.lists[name]
		switch {
		case !c.named(key, name, "a list"):
		case twice:
			c.errorf(key, "the list %s is declared twice: also in %s, line %d", name, other.at.src.name, other.at.node.Line)
		case len(c.draft.lists) == maxLists:
			c.errorf(key, "the policy has more than %d lists", maxLists)
		default:
			c.draft.lists[name] = d
		}
	})
}

func (c *compiler) listAge(it item) time.Duration {
	d := c.duration(it, "max_age")
	if d != 0 && (d < minListAge || d > maxListAge) {
		c.errorf(it, "max_age is between %s and %s", shortDuration(minListAge), shortDuration(maxListAge))
	}
	return d
}

// listSource holds the source of a list against its other keys. The file is read once all files are known.
func (c *compiler) listSource(d *listDraft) {
	switch {
	case d.file.node != nil && d.url.node != nil:
		c.errorf(d.at, "the list %s has a file and a url: it can have one", d.name)
	case d.file.node == nil && d.url.node == nil:
		c.errorf(d.at, "the list %s has no members: write [alice@example.com], or {file: rosters/%s.yaml}, or {url: https://..., max_age: 15m}", d.name, d.name)
	case d.file.node != nil && d.aged:
		c.errorf(d.at, "max_age is for lists that are fetched: a file of the policy is as old as the policy")
	case d.url.node != nil && !d.aged:
		c.errorf(d.url, "a fetched list needs a max_age: how old its members may be when a rule sees them, such as 15m")
	}
	if d.url.node == nil {
		return
	}
	s, ok := c.text(d.url, "url")
	if !ok {
		return
	}
	if problem := unfitURL(s); problem != "" {
		c.errorf(d.url, "the url %s", problem)
		return
	}
	d.fetch = &Fetch{Name: d.name, URL: s, MaxAge: d.maxAge, Field: d.field, Member: d.member}
}

// unfitURL says what keeps a list from being fetched there.
func unfitURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "is not an absolute URL in plain ASCII"
	case u.User != nil:
		return "must not have a user or password: the policy is no place for secrets; the daemon's configuration names a token_file"
	case u.Fragment != "":
		return "must not have a fragment"
	case u.Scheme == "https":
		return ""
	}
	if addr, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && (err == nil && addr.IsLoopback() || u.Hostname() == "localhost") {
		return ""
	}
	return "must begin with https://"
}

// rosters reads the files of lists. They are part of the policy, and count for its digest.
func (c *compiler) rosters() {
	included := slices.Clone(c.used)
	for _, d := range c.draft.sortedLists() {
		if d.file.node == nil {
			continue
		}
		d.value = newRoster(nil)
		name, ok := c.text(d.file, "file")
		if !ok {
			continue
		}
		text, found := c.bundle.Files[name]
		switch {
		case path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, ".."):
			c.errorf(d.file, "file takes a path below the policy folder, such as rosters/%s.yaml, not %q", d.name, name)
		case path.Ext(name) != ".yaml":
			c.errorf(d.file, "the file of a list is YAML, and its name ends in .yaml: JSON is YAML too, so give it that name")
		case slices.Contains(included, name) || strings.HasSuffix(name, testSuffix):
			c.errorf(d.file, "%s is a file of rules or tests, not of a list", name)
		case !found:
			c.errorf(d.file, "there is no file %q", name)
		default:
			if !slices.Contains(c.used, name) {
				c.used = append(c.used, name)
			}
			c.roster(d, name, text)
		}
	}
}

func (c *compiler) roster(d *listDraft, name string, text []byte) {
	root, ok := c.document(name, text)
	if !ok {
		return
	}
	at := root
	if d.field != "" {
		for part := range strings.SplitSeq(d.field, ".") {
			var below item
			c.pairs(at, name, func(key string, _, value item) {
				if key == part {
					below = value
				}
			})
			if below.node == nil {
				c.errorf(at, "there is no field %s, which the list %s asks for", d.field, d.name)
				return
			}
			at = below
		}
	}
	if d.member == "" {
		d.value = newRoster(c.members(at))
		return
	}
	names := item{at.src, &yaml.Node{Kind: yaml.SequenceNode, Line: at.node.Line, Column: at.node.Column}}
	c.list(at, name, func(entry item) {
		found := false
		c.pairs(entry, "an entry", func(key string, _, value item) {
			if key == d.member {
				found = true
				names.node.Content = append(names.node.Content, value.node)
			}
		})
		if !found {
			c.errorf(entry, "the entry has no field %s, which the list %s asks for", d.member, d.name)
		}
	})
	d.value = newRoster(c.members(names))
}
