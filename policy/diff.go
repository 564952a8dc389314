package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Effect says whether a change lets more or less happen, where that is certain whatever else the policy says.
type Effect string

// The effects.
const (
	// Wider: requests that were refused may be allowed, or grants give more.
	Wider Effect = "wider"
	// Narrower: the opposite.
	Narrower Effect = "narrower"
	// Uncertain: either, both or neither.
	Uncertain Effect = ""
)

// Changed is one difference in meaning between two policies. Its JSON names are stable.
type Changed struct {
	// Part is "allow rule", "deny rule", "review rule", "environment", "claim", "list", "calendar", "var", "role", "limits" or "policy".
	Part string `json:"part"`
	// Name is that of the rule, environment, claim or role; empty for the others.
	Name string `json:"name"`
	// Change is "added", "removed" or "changed".
	Change string `json:"change"`
	// Field is what changed, such as "ttl" or "when"; empty for what was added or removed as a whole.
	Field string `json:"field"`
	// Before and After are the values. Of lists and conditions they hold only what is gone, and what is new.
	Before []string `json:"before"`
	After  []string `json:"after"`
	Effect Effect   `json:"effect"`
}

// String is a line for people who approve.
func (c Changed) String() string {
	line := c.Part
	if c.Name != "" {
		line += " " + c.Name
	}
	line += ": "
	gone, came := strings.Join(c.Before, ", "), strings.Join(c.After, ", ")
	switch {
	case c.Field == "":
		line += c.Change
	case gone != "" && came != "":
		line += c.Field + " " + gone + " -> " + came
	case came != "":
		line += c.Field + " added " + came
	default:
		line += c.Field + " removed " + gone
	}
	if c.Effect != Uncertain {
		line += " (" + string(c.Effect) + ")"
	}
	return line
}

// Diff returns what changed from one policy to another in what they mean: order, files, comments, quotes and the layout of
// conditions do not count.
func Diff(before, after *Policy) ([]Changed, error) {
	was, err := before.things()
	if err != nil {
		return nil, fmt.Errorf("compare policies: %w", err)
	}
	is, err := after.things()
	if err != nil {
		return nil, fmt.Errorf("compare policies: %w", err)
	}
	keys := maps.Clone(was)
	maps.Copy(keys, is)
	out := []Changed{}
	for _, key := range slices.SortedFunc(maps.Keys(keys), compareThings) {
		old, isOld := was[key]
		new, isNew := is[key]
		switch {
		case !isOld:
			out = append(out, whole(key, "added", new, nil))
		case !isNew:
			out = append(out, whole(key, "removed", nil, old))
		default:
			out = append(out, fieldChanges(key, old, new)...)
		}
	}
	return out, nil
}

// thing names a part of a policy.
type thing struct{ part, name string }

// The parts, in the order in which changes are listed.
const (
	partPolicy      = "policy"
	partLimits      = "limits"
	partEnvironment = "environment"
	partClaim       = "claim"
	partList        = "list"
	partCalendar    = "calendar"
	partVar         = "var"
	partDeny        = "deny rule"
	partAllow       = "allow rule"
	partReview      = "review rule"
	partRole        = "role"
)

func compareThings(a, b thing) int {
	order := []string{partPolicy, partLimits, partEnvironment, partClaim, partList, partCalendar, partVar, partDeny, partAllow, partReview, partRole}
	return cmp.Or(cmp.Compare(slices.Index(order, a.part), slices.Index(order, b.part)), strings.Compare(a.name, b.name))
}

// whole is a thing that came or went. Its fields are shown, so that an approver sees what it says.
func whole(key thing, change string, came, gone []value) Changed {
	c := Changed{Part: key.part, Name: key.name, Change: change, Before: summaryOf(gone), After: summaryOf(came)}
	opens := key.part == partAllow || key.part == partEnvironment || key.part == partRole
	switch {
	case key.part == partDeny:
		c.Effect = effectOf(change == "removed")
	case opens:
		c.Effect = effectOf(change == "added")
	}
	return c
}

func effectOf(wider bool) Effect {
	if wider {
		return Wider
	}
	return Narrower
}

// opposite is the effect of the same change in a deny rule.
func (e Effect) opposite() Effect {
	switch e {
	case Wider:
		return Narrower
	case Narrower:
		return Wider
	}
	return Uncertain
}

// summaryOf lists the fields that say something.
func summaryOf(values []value) []string {
	out := []string{}
	for _, v := range values {
		if len(v.words) > 0 {
			out = append(out, v.field+": "+strings.Join(v.words, v.joint()))
		}
	}
	return out
}

// fieldChanges compares the same thing in both policies, field by field. Both have the same fields in the same order.
func fieldChanges(key thing, old, new []value) []Changed {
	var out []Changed
	for i, was := range old {
		is := new[i]
		if slices.Equal(was.words, is.words) && was.amount == is.amount {
			continue
		}
		c := Changed{Part: key.part, Name: key.name, Change: "changed", Field: was.field, Effect: was.effect(is)}
		switch key.part {
		case partDeny:
			c.Effect = c.Effect.opposite()
		case partReview:
			c.Effect = Uncertain // it lets nothing happen, and forbids nothing
		}
		c.Before, c.After = was.words, is.words
		if was.listed() && len(was.words) > 0 && len(is.words) > 0 {
			c.Before, c.After = without(was.words, is.words), without(is.words, was.words)
		}
		if c.Before == nil {
			c.Before = []string{}
		}
		if c.After == nil {
			c.After = []string{}
		}
		out = append(out, c)
	}
	return out
}

// without returns those of a that are not in b.
func without(a, b []string) []string {
	out := []string{}
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}
