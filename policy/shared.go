package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Shared conditions and values, vars.NAME, are variables, not macros: one is evaluated when the first rule of a decision asks
// for it, once, however many rules do. What it costs is paid once and bounded by itself, no chain of them can grow, and a mistake
// is shown where it stands. What has to know what a rule depends on looks through them: deny rules and claims, roles, the index,
// costs, explanations.

const (
	maxShared     = 200
	maxSharedText = 4096
	maxSharedList = 2 * maxMembers
	sharedPrefix  = "vars."
)

// shared is one of vars.
type shared struct {
	name string // with the prefix
	*expression
}

type sharedDraft struct {
	name      string
	at, value item
}

func (c *compiler) vars(it item) {
	c.pairs(it, "vars", func(name string, key, value item) {
		other, twice := c.draft.vars[name]
		switch {
		case !c.named(key, name, "a var"):
		case twice:
			c.errorf(key, "vars.%s is declared twice: also in %s, line %d", name, other.at.src.name, other.at.node.Line)
		case len(c.draft.vars) == maxShared:
			c.errorf(key, "the policy has more than %d vars", maxShared)
		default:
			c.draft.vars[name] = &sharedDraft{name, key, value}
		}
	})
}

// reservedNames are words of CEL that cannot name anything (CEL language definition, syntax).
var reservedNames = []string{
	"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop", "namespace", "null",
	"package", "return", "true", "var", "void", "while",
}

// named says whether name may be one of vars, lists or calendars; anything else is a mistake.
func (c *compiler) named(key item, name, what string) bool {
	switch {
	case !isName(name, lowerLetters+"_", digits, 64):
		c.errorf(key, "%s is named by small letters, digits and underscores, at most 64, not %q", what, name)
	case slices.Contains(reservedNames, name):
		c.errorf(key, "%q is a word of the language: choose another name", name)
	default:
		return true
	}
	return false
}

// compileShared compiles the vars, each after those that it asks for.
func (c *compiler) compileShared() {
	s := &sharedOrder{c: c, asks: map[string][]string{}, state: map[string]int{}}
	for _, name := range slices.Sorted(maps.Keys(c.draft.vars)) {
		c.lang.broken = append(c.lang.broken, sharedPrefix+name) // until it compiles
		if text := c.draft.vars[name].value.node.Value; isScalar(c.draft.vars[name].value) {
			s.asks[name] = c.lang.sharedIn(text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.draft.vars)) {
		s.visit(name, nil)
	}
}

// sharedOrder walks vars depth first.
type sharedOrder struct {
	c     *compiler
	asks  map[string][]string
	state map[string]int // 1 under way, 2 done
}

func (s *sharedOrder) visit(name string, path []string) {
	d := s.c.draft.vars[name]
	switch {
	case d == nil || s.state[name] == 2: // one that does not exist is a mistake where it is asked for
		return
	case s.state[name] == 1:
		cycle := slices.Concat(path[slices.Index(path, name):], []string{name})
		s.c.errorf(d.at, "vars.%s asks for itself: %s", name, strings.Join(cycle, ", which asks for "))
		s.state[name] = 2
		return
	}
	s.state[name] = 1
	for _, other := range s.asks[name] {
		s.visit(other, append(slices.Clone(path), name))
	}
	if s.state[name] == 2 { // in a cycle
		return
	}
	s.state[name] = 2
	x := s.c.expression(d.value, sharedPrefix+name, nil, inShared)
	if x == nil {
		return
	}
	if err := s.c.lang.share(sharedPrefix+name, x); err != nil {
		s.c.errorf(d.at, "%v", err)
	}
}

// sharedIn returns the names of the vars that an expression asks for; none of one that is no expression, which is told later.
func (l *language) sharedIn(text string) []string {
	parsed, issues := l.rules.Parse(text)
	if issues.Err() != nil {
		return nil
	}
	var out []string
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.SelectKind && identOf(e.AsSelect().Operand()) == "vars" {
			out = append(out, e.AsSelect().FieldName())
		}
	}))
	return out
}

// share makes a compiled expression one of vars, for those that are compiled from now on.
func (l *language) share(name string, x *expression) error {
	v := variable{name, x.typ, !slices.ContainsFunc(x.asks, func(asked string) bool {
		return slices.ContainsFunc(l.variables, func(v variable) bool { return v.name == asked && !v.role })
	})}
	l.variables = append(l.variables, v)
	l.shared[name] = &shared{name, x}
	l.broken = slices.DeleteFunc(l.broken, func(b string) bool { return b == name })
	return l.declare()
}

// mayShare says whether one of vars may have the type.
func mayShare(t *cel.Type) bool {
	for _, plain := range []*cel.Type{cel.BoolType, cel.StringType, cel.IntType, cel.DurationType, cel.TimestampType} {
		if t.IsExactType(plain) || t.IsExactType(cel.ListType(plain)) {
			return true
		}
	}
	return false
}

// asksOf lists the variables that an expression asks for, also through vars.
func (l *language) asksOf(e ast.Expr) []string {
	seen := map[string]bool{}
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		name := identOf(e)
		known := func(v variable) bool { return v.name == name }
		if !slices.ContainsFunc(l.variables, known) && !slices.ContainsFunc(reviewVariables, known) {
			return
		}
		seen[name] = true
		if s := l.shared[name]; s != nil {
			for _, asked := range s.asks {
				seen[asked] = true
			}
		}
	}))
	return slices.Sorted(maps.Keys(seen))
}

// mentions says whether an expression asks for a variable, also through vars.
func (l *language) mentions(e ast.Expr, variable string) bool {
	return slices.Contains(l.asksOf(e), variable)
}

// evaluation adds what the policy itself knows to the variables of a question: lists, calendars and vars.
func (p *Policy) evaluation(ctx context.Context, q ca.Question, vars map[string]any) *evaluation {
	e := &evaluation{ctx, p, vars}
	for _, l := range p.lists {
		l.bind(vars, q)
	}
	for _, c := range p.calendars {
		vars[c.name] = types.Bool(c.contains(q.Now))
	}
	for _, s := range p.shared {
		vars[s.name] = e.once(s)
	}
	return e
}

// once returns what evaluates one of vars when it is first asked for.
func (e *evaluation) once(s *shared) func() ref.Val {
	var value ref.Val
	return func() ref.Val {
		if value == nil {
			var err error
			if value, _, err = e.value(s.program); err == nil {
				err = tooLarge(value)
			}
			switch {
			case err == nil:
			case strings.HasPrefix(err.Error(), sharedPrefix): // it names the one that failed first
				value = types.WrapErr(err)
			default:
				value = types.NewErr("%s: %s", s.name, err.Error())
			}
		}
		return value
	}
}

// tooLarge bounds what one of vars may hand on. Costs are estimated for texts and lists of a usual size, and a chain in which each
// doubles the one before would outgrow any.
func tooLarge(value ref.Val) error {
	switch v := value.(type) {
	case types.String:
		if len(v) > maxSharedText {
			return fmt.Errorf("the text has more than %d bytes", maxSharedText)
		}
	case traits.Lister:
		if n, ok := v.Size().(types.Int); !ok || n > maxSharedList {
			return fmt.Errorf("the list has more than %d entries", maxSharedList)
		}
	}
	return nil
}
