package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
)

// reach is where an expression can be true: in one of the environments, for somebody in one of the groups. Anywhere else it is
// false, and does not fail, because in CEL false && error is false and false || false is. Nil stands for everywhere, and for
// everybody.
type reach struct{ environments, groups []string }

// maxReach is how many places one rule stands in at most. One that reaches further is looked for less exactly.
const maxReach = 64

func reachOf(e ast.Expr) reach {
	return reach{choicesOf(e, environmentChoices), choicesOf(e, groupChoices)}
}

// choicesOf returns the values of which something must be one for e to be true, nil if e may be true for any. Of && any part may
// tell, and the one with the fewest is taken; of || all must. What else e may be is for leaf.
func choicesOf(e ast.Expr, leaf func(ast.Expr) []string) []string {
	if e.Kind() != ast.CallKind {
		return leaf(e)
	}
	var out []string
	switch args := e.AsCall().Args(); e.AsCall().FunctionName() {
	case operators.LogicalAnd:
		for _, arg := range args {
			if c := choicesOf(arg, leaf); c != nil && (out == nil || len(c) < len(out)) {
				out = c
			}
		}
	case operators.LogicalOr:
		for _, arg := range args {
			c := choicesOf(arg, leaf)
			if c == nil {
				return nil
			}
			out = append(out, c...)
		}
		slices.Sort(out)
		out = slices.Compact(out)
	default:
		return leaf(e)
	}
	return out
}

// environmentChoices reads environment == "a" and environment in ["a", "b"].
func environmentChoices(e ast.Expr) []string { return isOneOf(e, "environment") }

// groupChoices reads "a" in identity.groups, and identity.groups.exists(g, g == "a") with whatever else it asks of g.
func groupChoices(e ast.Expr) []string {
	switch e.Kind() {
	case ast.CallKind:
		if call := e.AsCall(); call.FunctionName() == operators.In && identOf(call.Args()[1]) == "identity.groups" {
			if s, ok := stringOf(call.Args()[0]); ok {
				return []string{s}
			}
		}
	case ast.ComprehensionKind:
		loop := e.AsComprehension()
		if identOf(loop.IterRange()) != "identity.groups" || loop.HasIterVar2() || loop.LoopStep().Kind() != ast.CallKind {
			return nil
		}
		// exists is the loop that begins with false, and adds || and its condition at each step.
		begin, step := loop.AccuInit(), loop.LoopStep().AsCall()
		if begin.Kind() != ast.LiteralKind || begin.AsLiteral() != types.False || step.FunctionName() != operators.LogicalOr ||
			identOf(step.Args()[0]) != loop.AccuVar() || identOf(loop.Result()) != loop.AccuVar() {
			return nil
		}
		return choicesOf(step.Args()[1], func(e ast.Expr) []string { return isOneOf(e, loop.IterVar()) })
	}
	return nil
}

// isOneOf reads name == "a" and name in ["a", "b"].
func isOneOf(e ast.Expr, name string) []string {
	if e.Kind() != ast.CallKind || len(e.AsCall().Args()) != 2 {
		return nil
	}
	left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
	switch e.AsCall().FunctionName() {
	case operators.Equals:
		if identOf(right) == name {
			left, right = right, left
		}
		if s, ok := stringOf(right); ok && identOf(left) == name {
			return []string{s}
		}
	case operators.In:
		if identOf(left) != name || right.Kind() != ast.ListKind {
			return nil
		}
		out := []string{}
		for _, element := range right.AsList().Elements() {
			s, ok := stringOf(element)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}

// spot is where rules stand in an index; an empty word is every environment, or everybody.
type spot struct{ environment, group string }

// index finds the rules that could match: each stands in the spots that it reaches.
type index map[spot][]*rule

func indexOf(rules []*rule) index {
	x := index{}
	for _, r := range rules {
		to := r.when.facts.reach
		if len(to.environments)*len(to.groups) > maxReach || len(to.groups) > maxReach {
			to.groups = nil
		}
		if len(to.environments) > maxReach {
			to.environments = nil
		}
		for _, environment := range orAny(to.environments) {
			for _, group := range orAny(to.groups) {
				x[spot{environment, group}] = append(x[spot{environment, group}], r)
			}
		}
	}
	return x
}

func orAny(choices []string) []string {
	if choices == nil {
		return []string{""}
	}
	return choices
}

// candidates returns the rules that could match, in no order, some more than once.
func (x index) candidates(environment string, groups []string) []*rule {
	var out []*rule
	groups = append([]string{""}, groups...)
	slices.Sort(groups)
	for _, group := range slices.Compact(groups) {
		out = append(out, x[spot{environment, group}]...)
		out = append(out, x[spot{"", group}]...)
	}
	return out
}

// signposts find the allow rules that a refusal names: those for an environment, or those for a login in it, in the order of
// their names. Without them a refusal would cost what all rules cost.
type signposts map[spotOf]*signpost

// spotOf is an environment, empty for rules that require none, and a login, empty for all.
type spotOf struct{ environment, login string }

type signpost struct {
	rules []*rule     // by name
	ends  []time.Time // of those that end, sorted
}

func signpostsOf(sorted []*rule) signposts {
	s := signposts{}
	for _, r := range sorted {
		logins := []string{""}
		for _, t := range r.grant.logins {
			if login, literal := t.literal(); literal && !slices.Contains(logins, login) {
				logins = append(logins, login)
			}
		}
		for _, login := range logins {
			at := spotOf{r.when.facts.environment, login}
			if s[at] == nil {
				s[at] = &signpost{}
			}
			s[at].rules = append(s[at].rules, r)
			if !r.ends.IsZero() {
				s[at].ends = append(s[at].ends, r.ends)
			}
		}
	}
	for _, p := range s {
		slices.SortFunc(p.ends, time.Time.Compare)
	}
	return s
}

// here returns the first few rules that have not ended, and how many more there are.
func (s signposts) here(environment, login string, now time.Time) (rules []*rule, more int) {
	for _, at := range []spotOf{{environment, login}, {"", login}} {
		p := s[at]
		if p == nil {
			continue
		}
		ended, exact := slices.BinarySearchFunc(p.ends, now, time.Time.Compare)
		for ; exact && ended < len(p.ends) && p.ends[ended].Equal(now); ended++ { // it ends at that instant
		}
		more += len(p.rules) - ended
		n := 0
		for _, r := range p.rules {
			if n == maxListed {
				break
			}
			if !r.expired(now) {
				rules = append(rules, r)
				n++
			}
		}
	}
	slices.SortFunc(rules, func(a, b *rule) int { return strings.Compare(a.name, b.name) })
	rules = rules[:min(len(rules), maxListed)]
	return rules, more - len(rules)
}
