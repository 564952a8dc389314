package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"

	"github.com/hallpass-ssh/hallpass/ca"
)

// value is one field of a thing.
type value struct {
	field string
	kind  valueKind
	// words are the value for people; sorted, if their order means nothing. None stand for a field that is not there.
	words []string
	// amount is the value of a bound.
	amount int64
	// choices are the sides of the outermost || of each word of a condition.
	choices map[string][]string
}

// valueKind says what a change of a value does.
type valueKind int

const (
	plainly      valueKind = iota // nothing that is certain
	moreOpens                     // a list of which each entry lets more happen
	moreCloses                    // a list of which each entry forbids something
	bound                         // the more, the wider; no bound is the widest
	restriction                   // that there is one is narrower
	restrictions                  // a restriction that lists what it leaves open
	conditions                    // the parts of an outermost &&
	alternatives                  // the parts of an outermost ||
	entries                       // a list of which nothing is certain: what asks for it may let in or refuse
)

// listed says whether only what came and went of the words is shown.
func (v value) listed() bool {
	return slices.Contains([]valueKind{moreOpens, moreCloses, restrictions, conditions, alternatives, entries}, v.kind)
}

// joint is what stands between the words of a whole value.
func (v value) joint() string {
	switch v.kind {
	case conditions:
		return " && "
	case alternatives:
		return " || "
	}
	return ", "
}

// effect says what it does that v becomes is.
func (v value) effect(is value) Effect {
	gone, came := without(v.words, is.words), without(is.words, v.words)
	grew, shrank := len(gone) == 0 && len(came) > 0, len(came) == 0 && len(gone) > 0
	had, has := len(v.words) > 0, len(is.words) > 0
	if v.kind == conditions && len(v.words) == 1 && is.kind == alternatives {
		v.kind = is.kind // one part is one of && as well as of ||
	} else if v.kind == alternatives && len(is.words) == 1 {
		is.kind = v.kind
	}
	switch {
	case v.kind == conditions && is.kind == conditions && len(gone) == 1 && len(came) == 1:
		less, more := without(v.choices[gone[0]], is.choices[came[0]]), without(is.choices[came[0]], v.choices[gone[0]])
		grew, shrank = len(less) == 0, len(more) == 0
		if grew == shrank {
			return Uncertain
		}
		return effectOf(grew)
	case v.kind != is.kind:
		return Uncertain // a condition that was of && and is of ||
	case v.kind == bound && had && has:
		return effectOf(is.amount > v.amount)
	case (v.kind == bound || v.kind == restriction || v.kind == restrictions) && had != has:
		return effectOf(!has)
	case v.kind == restriction || v.kind == bound || v.kind == plainly || v.kind == entries:
		return Uncertain
	case !grew && !shrank:
		return Uncertain
	case v.kind == moreCloses || v.kind == conditions:
		// One more part of && can only make a condition true less often. That it may fail counts as less in allow rules, and in
		// deny rules too: it fails only where it was true or failed before.
		return effectOf(shrank)
	}
	return effectOf(grew)
}

// things takes the policy apart into what is compared.
func (p *Policy) things() (map[thing][]value, error) {
	read, err := p.reread()
	if err != nil {
		return nil, err
	}
	d := &read.draft
	out := map[thing][]value{
		{partPolicy, ""}: {{field: "shared_trust", kind: plainly, words: yes(d.sharedTrust)}},
		{partLimits, ""}: limitValues(p.limits),
	}
	for _, e := range p.environments {
		out[thing{partEnvironment, e.Name}] = []value{
			{field: "hosts", kind: moreOpens, words: sorted(e.Hosts)}, aBound("max_ttl", e.MaxTTL),
			{field: "authority", words: []string{e.Authority}},
		}
	}
	for _, c := range p.claims {
		v := []value{{field: "type", words: []string{string(c.typ)}}, {field: "optional", words: yes(c.optional)}, {field: "default"}}
		if c.standard != nil {
			v[2].words = []string{fmt.Sprintf("%v", c.standard)}
		}
		out[thing{partClaim, c.name}] = v
	}
	var errs []error
	for _, l := range p.lists {
		out[thing{partList, l.name}] = l.values()
	}
	for _, c := range p.calendars {
		out[thing{partCalendar, strings.TrimPrefix(c.name, "calendars.")}] = c.values()
	}
	for name, v := range d.vars {
		text, err := p.lang.uniformText(v.value.node.Value)
		errs = append(errs, err)
		out[thing{partVar, name}] = []value{{field: "value", words: []string{text}}}
	}
	for _, r := range d.deny {
		when, err := p.lang.conditionOf(r.whenItem.node.Value)
		errs = append(errs, err)
		out[thing{partDeny, r.name}] = []value{when, aText("message", r.message), aText("owner", r.owner)}
	}
	for _, r := range d.allow {
		values, err := p.allowValues(r)
		errs = append(errs, err)
		out[thing{partAllow, r.name}] = values
	}
	for _, r := range d.review {
		when, err := p.lang.conditionOf(r.whenItem.node.Value)
		errs = append(errs, err)
		out[thing{partReview, r.name}] = []value{when, aText("within", withinWords(r.within)), aText("message", r.message), aText("owner", r.owner)}
	}
	for name, it := range d.roles {
		when, err := p.lang.conditionOf(it.node.Value)
		errs = append(errs, err)
		out[thing{partRole, name}] = []value{when}
	}
	return out, errors.Join(errs...)
}

func limitValues(l ca.Limits) []value {
	var keys []string
	for _, k := range l.Keys {
		if k.MinBits > 0 {
			k.Type = fmt.Sprintf("%s>=%d", k.Type, k.MinBits)
		}
		keys = append(keys, k.Type)
	}
	return []value{
		aBound("max_ttl", l.MaxTTL), {field: "never_logins", kind: moreCloses, words: sorted(l.NeverLogins)},
		{field: "keys", kind: moreOpens, words: sorted(keys)},
	}
}

// allowValues are the fields of an allow rule, in the order of docs/policy.md.
func (p *Policy) allowValues(d *ruleDraft) ([]value, error) {
	when, err := p.lang.conditionOf(d.whenItem.node.Value)
	g, r := d.grant, d.require
	expires := value{field: "expires", kind: bound}
	if !d.ends.IsZero() {
		expires.words, expires.amount = []string{d.lastDay()}, d.ends.Unix()
	}
	reason := value{field: "require.reason", kind: restriction, words: yes(r.reason)}
	var extensions []string
	for _, e := range g.extensions {
		extensions = append(extensions, string(e))
	}
	return []value{
		when, expires, reason, aBound("require.login_within", r.loginWithin),
		{field: "logins", kind: moreOpens, words: texts(d.logins)}, aBound("ttl", g.ttl), {field: "scope", words: []string{scopeWord(g.scope)}},
		{field: "extensions", kind: moreOpens, words: sorted(extensions)},
		{field: "force_command", kind: restriction, words: aText("", g.forceCommand).words},
		{field: "source_address", kind: restrictions, words: texts(d.sourceAddresses)},
		{field: "verify_required", kind: restriction, words: yes(g.verifyRequired)}, aText("owner", d.owner),
	}, err
}

func aText(field, text string) value {
	v := value{field: field}
	if text != "" {
		v.words = []string{text}
	}
	return v
}

// aBound is a lifetime or an age; zero is none.
func aBound(field string, d time.Duration) value {
	v := value{field: field, kind: bound, amount: int64(d)}
	if d > 0 {
		v.words = []string{shortDuration(d)}
	}
	return v
}

func yes(b bool) []string {
	if b {
		return []string{"true"}
	}
	return nil
}

func texts(items []item) []string {
	var out []string
	for _, it := range items {
		out = append(out, it.node.Value)
	}
	return sorted(out)
}

func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return slices.Compact(words)
}

// values are the fields of a list. What is fetched is not part of the policy.
func (l list) values() []value {
	members, from, age := value{field: "members", kind: entries}, value{field: "url"}, value{field: "max_age"}
	if l.fetch == nil {
		members.words = l.members()
		return []value{members, from, age}
	}
	from.words = []string{l.fetch.URL}
	for _, part := range []string{l.fetch.Field, l.fetch.Member} {
		if part != "" {
			from.words = append(from.words, part)
		}
	}
	age.words = []string{shortDuration(l.fetch.MaxAge)}
	return []value{members, from, age}
}

// values are the fields of a calendar.
func (c *calendar) values() []value {
	days, times, windows := value{field: "days", kind: entries}, value{field: "hours", kind: entries}, value{field: "windows", kind: entries}
	for day, in := range c.days {
		if in {
			days.words = append(days.words, dayNames[day])
		}
	}
	for _, h := range c.hours {
		times.words = append(times.words, fmt.Sprintf("%02d:%02d-%02d:%02d", h.from/60, h.from%60, h.to/60, h.to%60))
	}
	for _, w := range c.windows {
		windows.words = append(windows.words, w.from.Format("2006-01-02T15:04:05")+" to "+w.to.Format("2006-01-02T15:04:05"))
	}
	return []value{{field: "zone", words: []string{c.zone.String()}}, days, times, windows}
}

// uniformText brings an expression into the form of conditionOf.
func (l *language) uniformText(text string) (string, error) {
	parsed, issues := l.rules.Parse(text)
	if issues.Err() != nil {
		return "", fmt.Errorf("parse the expression again: %w", issues.Err())
	}
	return uniform(parsed.NativeRep().Expr(), parsed.NativeRep().SourceInfo())
}

// conditionOf brings a condition into one form: without layout and comments, the parts of && and || sorted, which changes neither
// what they come to nor whether they fail.
func (l *language) conditionOf(text string) (value, error) {
	parsed, issues := l.rules.Parse(text)
	if issues.Err() != nil {
		return value{}, fmt.Errorf("parse the condition again: %w", issues.Err())
	}
	whole := parsed.NativeRep()
	v := value{field: "when", kind: conditions, choices: map[string][]string{}}
	parts := operands(whole.Expr(), operators.LogicalAnd)
	if len(parts) == 1 {
		if others := operands(whole.Expr(), operators.LogicalOr); len(others) > 1 {
			v.kind, parts = alternatives, others
		}
	}
	for _, part := range parts {
		text, err := uniform(part, whole.SourceInfo())
		if err != nil {
			return value{}, err
		}
		v.words = append(v.words, text)
		for _, side := range operands(part, operators.LogicalOr) {
			choice, err := uniform(side, whole.SourceInfo())
			if err != nil {
				return value{}, err
			}
			v.choices[text] = append(v.choices[text], choice)
		}
	}
	v.words = sorted(v.words)
	return v, nil
}

// operands are the parts of nested calls of one operator; e itself, if it is another.
func operands(e ast.Expr, operator string) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operator {
		return []ast.Expr{e}
	}
	var out []ast.Expr
	for _, arg := range e.AsCall().Args() {
		out = append(out, operands(arg, operator)...)
	}
	return out
}

// uniform prints an expression in one form.
func uniform(e ast.Expr, info *ast.SourceInfo) (string, error) {
	for operator, joint := range map[string]string{operators.LogicalAnd: " && ", operators.LogicalOr: " || "} {
		parts := operands(e, operator)
		if len(parts) == 1 {
			continue
		}
		words := make([]string, len(parts))
		for i, part := range parts {
			var err error
			if words[i], err = uniform(part, info); err != nil {
				return "", err
			}
			if part.Kind() == ast.CallKind && slices.Contains([]string{operators.LogicalAnd, operators.LogicalOr, operators.Conditional}, part.AsCall().FunctionName()) {
				words[i] = "(" + words[i] + ")"
			}
		}
		return strings.Join(sorted(words), joint), nil
	}
	if e.Kind() == ast.CallKind && (e.AsCall().FunctionName() == operators.Equals || e.AsCall().FunctionName() == operators.NotEquals) {
		if args := e.AsCall().Args(); args[0].Kind() == ast.LiteralKind && (args[1].Kind() == ast.IdentKind || args[1].Kind() == ast.SelectKind) {
			left, err := cel.ExprToString(args[1], info)
			if err != nil {
				return "", fmt.Errorf("print a condition: %w", err)
			}
			right, err := cel.ExprToString(args[0], info)
			if err != nil {
				return "", fmt.Errorf("print a condition: %w", err)
			}
			sign := map[string]string{operators.Equals: " == ", operators.NotEquals: " != "}[e.AsCall().FunctionName()]
			return left + sign + right, nil
		}
	}
	text, err := cel.ExprToString(e, info)
	if err != nil {
		return "", fmt.Errorf("print a condition: %w", err)
	}
	return strings.ReplaceAll(text, "\n", " "), nil
}
