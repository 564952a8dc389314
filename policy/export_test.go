package policy

import (
	"context"
	"maps"
	"slices"

	"github.com/hallpass-ssh/hallpass/ca"
)

// For tests that hold the parts against something simpler.
var (
	MatchHost = matchHost
	Overlap   = overlap
	Edits     = edits
)

// MaxCost is the budget of one expression.
const MaxCost = maxCost

// DecideWithoutIndex asks every rule.
func (p *Policy) DecideWithoutIndex(ctx context.Context, q ca.Question) ca.Decision {
	all := func(rules map[string]*rule) index { return index{spot{}: slices.Collect(maps.Values(rules))} }
	return p.decide(ctx, q, all(p.deny), all(p.allow))
}

// VariableNames are the variables that every policy has.
func VariableNames() []string {
	var names []string
	for _, v := range variables {
		names = append(names, v.name)
	}
	return names
}
