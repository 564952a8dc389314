package policy

import (
	"maps"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hallpass-ssh/hallpass/ca"
)

// ReadLists reads described lists, which stand for those that a daemon would have fetched for the policy:
//
//	oncall: [alice@example.com, bob@example.com]   # fetched just now
//	stale:  {members: [alice@example.com], age: 2h}
//
// A list that is not described has not been fetched. The name is that of the file, for mistakes; the error is an Errors.
func (p *Policy) ReadLists(name string, text []byte, now time.Time) ([]ca.FetchedList, error) {
	var r reader
	all := describedLists{}
	if root, ok := r.document(name, text); ok {
		r.describedLists(root, p, all)
	}
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	return all.fetched(now), nil
}

// describedLists are the members and the ages of lists, by name.
type describedLists map[string]describedList

type describedList struct {
	members []string
	age     time.Duration
}

// fetched are the lists at an instant.
func (d describedLists) fetched(now time.Time) []ca.FetchedList {
	var out []ca.FetchedList
	for _, name := range slices.Sorted(maps.Keys(d)) {
		out = append(out, ca.FetchedList{Name: name, Fetched: now.Add(-d[name].age), Members: d[name].members})
	}
	return out
}

// describedLists reads lists into to.
func (r *reader) describedLists(it item, p *Policy, to describedLists) {
	var known []string
	for _, f := range p.Fetches() {
		known = append(known, f.Name)
	}
	r.pairs(it, "lists", func(name string, key, value item) {
		if !slices.Contains(known, name) {
			if slices.ContainsFunc(p.lists, func(l list) bool { return l.name == name }) {
				r.errorf(key, "the policy itself says who is on the list %s: only lists that are fetched are described", name)
				return
			}
			r.errorf(key, "the policy has no list %s that is fetched%s", name, didYouMean(name, known))
			return
		}
		var d describedList
		if value.node.Kind == yaml.SequenceNode {
			d.members = r.members(value)
		} else {
			r.mapping(value, "the list "+name, []field{
				{key: "members", read: func(it item) { d.members = r.members(it) }},
				{key: "age", read: func(it item) { d.age = r.age(it, "age") }},
			})
		}
		to[name] = d
	})
}

// members reads the members of a list. It returns them sorted, each once.
func (r *reader) members(it item) []string {
	all := []string{}
	r.list(it, "a list", func(it item) {
		s, ok := r.text(it, "a member")
		problem := unfitMember(s)
		switch {
		case !ok:
		case problem != "":
			r.errorf(it, "the member %s", problem)
		case len(all) == maxMembers:
			r.errorf(it, "the list has more than %d members", maxMembers)
		default:
			all = append(all, s)
		}
	})
	slices.Sort(all)
	return slices.Compact(all)
}
