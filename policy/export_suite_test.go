package policy

import (
	"context"

	"github.com/hallpass-ssh/hallpass/ca"
)

// SplitAnd returns the parts as texts.
func SplitAnd(text string) []string {
	var out []string
	for _, s := range splitAnd([]rune(text)) {
		out = append(out, string([]rune(text)[s.start:s.end]))
	}
	return out
}

// HoldsInParts evaluates all rules by their parts and as wholes: true, false or failed, by name.
func (p *Policy) HoldsInParts(ctx context.Context, q ca.Question) (parts, whole map[string]string, err error) {
	read, err := p.reread()
	if err != nil {
		return nil, nil, err
	}
	rules, err := p.watch(ctx, read, &TestSuite{})
	if err != nil {
		return nil, nil, err
	}
	a := &asking{policy: p, q: q, host: canonicalHost(q.Request.Host)}
	if refusal := a.begin(ctx); refusal != "" {
		return nil, nil, nil
	}
	verdict := func(yes bool, err error) string {
		if err != nil {
			return "failed"
		}
		return map[bool]string{true: "true", false: "false"}[yes]
	}
	parts, whole = map[string]string{}, map[string]string{}
	for _, w := range rules {
		name, r := w.draft.name, p.allow[w.draft.name]
		if !w.allows {
			r = p.deny[name]
		}
		parts[name], whole[name] = verdict(w.ask(a.evaluation)), verdict(a.evaluation.holds(r.when))
	}
	return parts, whole, nil
}
