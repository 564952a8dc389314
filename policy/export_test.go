package policy

import (
	"context"
	"maps"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"

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

// SplitCommit takes a commit apart: what a signature covers, and the signature.
func SplitCommit(raw []byte) (payload []byte, signature string, err error) {
	c, err := parseCommit(plumbing.ZeroHash, raw)
	if err != nil {
		return nil, "", err
	}
	return c.payload, c.signature, nil
}
