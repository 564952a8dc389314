package policy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Coverage says how much of a policy its tests try. A rule is one condition, and so is each part of its when between the
// outermost &&. A condition is covered once by a case in which it is true and once by one in which it is false; the parts are
// read from the left up to the first that is not true, so that a part only counts where it decided.
type Coverage struct {
	// Total is twice the number of conditions, less the values that constants cannot have.
	Total int
	// Covered is how many of these some case met.
	Covered int
	// Missing are the others, in the order of the files and lines.
	Missing []Uncovered
}

// Percent is the covered part of the total; 100 for a policy without rules.
func (c Coverage) Percent() float64 {
	if c.Total == 0 {
		return 100
	}
	return 100 * float64(c.Covered) / float64(c.Total)
}

// Uncovered is a condition that has a value in no case.
type Uncovered struct {
	File         string
	Line, Column int
	Rule         string
	// Condition is the part of the rule's when; empty for the rule itself.
	Condition string
	Value     bool
}

func (u Uncovered) String() string {
	what := "the rule"
	if u.Condition != "" {
		what = u.Condition
	}
	return fmt.Sprintf("%s:%d:%d: %s: no case makes %s %t", u.File, u.Line, u.Column, u.Rule, what, u.Value)
}

// Cover asks every rule, also those that decide nothing, the questions of the suite.
func (p *Policy) Cover(ctx context.Context, s *TestSuite) (Coverage, error) {
	read, err := p.reread()
	if err != nil {
		return Coverage{}, fmt.Errorf("cover the policy: %w", err)
	}
	rules, err := p.watch(ctx, read, s)
	if err != nil {
		return Coverage{}, fmt.Errorf("cover the policy: %w", err)
	}
	var c Coverage
	for _, w := range rules {
		whole := &condition{file: w.draft.at.src.name, place: w.draft.at.place(), was: w.was}
		parts := w.conditions
		if len(parts) == 1 { // which says the same as the whole
			whole.only, parts = parts[0].only, nil
		}
		for _, one := range append([]*condition{whole}, parts...) {
			c.count(w.draft.name, one)
		}
	}
	slices.SortFunc(c.Missing, func(a, b Uncovered) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return c, nil
}

func (c *Coverage) count(rule string, one *condition) {
	for _, value := range []bool{true, false} {
		if one.only != "" && one.only != strconv.FormatBool(value) {
			continue
		}
		c.Total++
		if one.was[value] {
			c.Covered++
			continue
		}
		c.Missing = append(c.Missing, Uncovered{one.file, one.place.line, one.place.column, rule, one.text, value})
	}
}

// condition is a part of the outermost conjunction of a rule.
type condition struct {
	file  string
	place place
	text  string // as written, on one line
	only  string // the one value that it can have; empty for both
	x     *expression
	was   map[bool]bool // the values that it had
}

// watched is a rule and what became of it in the cases.
type watched struct {
	draft      *ruleDraft
	allows     bool
	conditions []*condition
	was        map[bool]bool
	// open counts the cases in which the rule was true, shadowed those of them in which a deny rule refused.
	open, shadowed int
}

// watch asks every rule that c has read the questions of a suite.
func (p *Policy) watch(ctx context.Context, c *compiler, s *TestSuite) ([]*watched, error) {
	var rules []*watched
	for _, d := range c.draft.deny {
		rules = append(rules, &watched{draft: d, conditions: c.conditions(d, p.deny[d.name], inDeny), was: map[bool]bool{}})
	}
	for _, d := range c.draft.allow {
		rules = append(rules, &watched{draft: d, allows: true, conditions: c.conditions(d, p.allow[d.name], inAllow), was: map[bool]bool{}})
	}
	var reviews []*watched
	for _, d := range c.draft.review {
		r := p.review[slices.IndexFunc(p.review, func(r *rule) bool { return r.name == d.name })]
		reviews = append(reviews, &watched{draft: d, conditions: c.conditions(d, r, inReview), was: map[bool]bool{}})
	}
	for _, one := range s.Cases {
		p.watchCase(ctx, one.question, rules)
		if len(reviews) > 0 {
			p.watchReview(ctx, one, reviews)
		}
	}
	rules = append(rules, reviews...)
	return rules, ctx.Err()
}

// watchCase asks the rules, of which those that deny come first.
func (p *Policy) watchCase(ctx context.Context, q ca.Question, rules []*watched) {
	ctx, cancel := context.WithTimeout(ctx, maxDecision)
	defer cancel()
	a := &asking{policy: p, q: q, host: canonicalHost(q.Request.Host)}
	if refusal := a.begin(ctx); refusal != "" {
		return // before any rule
	}
	denied := false
	for _, w := range rules {
		if w.draft.expired(q.Now) {
			continue
		}
		switch yes, err := w.ask(a.evaluation); {
		case !w.allows:
			denied = denied || yes || err != nil
		case yes:
			w.open++
			if denied {
				w.shadowed++
			}
		}
	}
}

// watchReview asks the review rules about the decision of a case.
func (p *Policy) watchReview(ctx context.Context, one *TestCase, rules []*watched) {
	ctx, cancel := context.WithTimeout(ctx, 2*maxDecision)
	defer cancel()
	d := p.Decide(ctx, one.question)
	vars, err := p.settledVars(ca.Settled{Question: one.question, Decision: d, Refusal: refusalOf(d), History: one.history})
	if err != nil {
		return // every rule asks
	}
	e := p.evaluation(ctx, one.question, vars)
	for _, w := range rules {
		_, _ = w.ask(e) // it keeps what came of it
	}
}

// ask evaluates the conditions and keeps what came of them. What stands behind one that is not true did not decide; it only
// settles whether a rule with a failing condition is false.
func (w *watched) ask(e *evaluation) (bool, error) {
	var failure error
	for _, one := range w.conditions {
		yes, err := e.holds(one.x)
		if err != nil && failure == nil {
			failure = err
		}
		if failure == nil {
			one.was[yes] = true
		}
		if err == nil && !yes {
			w.was[false] = true
			return false, nil
		}
	}
	if failure == nil {
		w.was[true] = true
	}
	return failure == nil, failure
}

// reread reads the files of the policy again. A compiled policy does not keep them: only tools ask where a rule stands.
func (p *Policy) reread() (*compiler, error) {
	blobs := map[[sha256.Size]byte][]byte{}
	for _, blob := range p.blobs {
		blobs[sha256.Sum256(blob)] = blob
	}
	b, err := ReadManifest(p.ref, func(digest [sha256.Size]byte) ([]byte, error) { return blobs[digest], nil })
	if err != nil {
		return nil, err
	}
	c := &compiler{bundle: b, draft: newDraft()}
	c.read()
	if len(c.errs) > 0 {
		return nil, c.errs.sorted()
	}
	c.lang = p.lang
	return c, nil
}

// conditions takes the when of a rule apart. Should a part not stand alone, the whole is one condition.
func (c *compiler) conditions(d *ruleDraft, r *rule, where use) []*condition {
	text, at := []rune(d.whenItem.node.Value), places(d.whenItem)
	one := func(s span, x *expression) *condition {
		words := strings.Join(strings.Fields(string(text[s.start:s.end])), " ")
		only := ""
		switch {
		case words == "true" || words == "false":
			only = words
		case len(c.draft.environments) == 1 && x.facts.environment != "" && !strings.Contains(words, "&&") && !strings.Contains(words, sharedPrefix):
			only = "true" // a host elsewhere is refused before any rule
		}
		return &condition{d.at.src.name, at[s.start], words, only, x, map[bool]bool{}}
	}
	var parts []*condition
	for _, s := range splitAnd(text) {
		x, mistakes := c.lang.compile(string(text[s.start:s.end]), cel.BoolType, where)
		if len(mistakes) > 0 {
			return []*condition{one(trimmed(text, span{0, len(text)}), r.when)}
		}
		parts = append(parts, one(s, x))
	}
	return parts
}
