package policy

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
)

// conjunct is a part of the outermost conjunction of a condition, planned as an expression of its own. In CEL a conjunction is
// false if one of its parts is, else it fails if one of them does, so the parts say exactly why the whole is what it is.
type conjunct struct {
	text  string
	expr  ast.Expr
	facts facts
	// program decides what it comes to, watched which values it reads. They are two, because cel-go v0.31.0 holds no cost limit
	// while it tracks state.
	program, watched cel.Program
}

// conjuncts takes a condition that has compiled before apart. It is for explanations only, each time anew, so that decisions
// carry nothing of it.
func (l *language) conjuncts(text string) ([]conjunct, error) {
	checked, issues := l.rules.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("compile the condition again: %w", issues.Err())
	}
	whole := checked.NativeRep()
	var out []conjunct
	for _, e := range outermost(whole.Expr()) {
		shown, err := cel.ExprToString(e, whole.SourceInfo())
		if err != nil {
			return nil, fmt.Errorf("print a part of the condition: %w", err)
		}
		part := ast.NewCheckedAST(ast.NewAST(e, whole.SourceInfo()), whole.TypeMap(), whole.ReferenceMap())
		program, err := l.rules.PlanProgram(part, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100))
		if err != nil {
			return nil, fmt.Errorf("plan a part of the condition: %w", err)
		}
		watched, err := l.rules.PlanProgram(part, cel.EvalOptions(cel.OptTrackState), cel.InterruptCheckFrequency(100))
		if err != nil {
			return nil, fmt.Errorf("plan a part of the condition: %w", err)
		}
		out = append(out, conjunct{clip(strings.ReplaceAll(shown, "\n", " ")), e, factsOf(e, l.shared), program, watched})
	}
	return out, nil
}

// outermost lists the parts of the outermost conjunction, in the order in which they are written.
func outermost(e ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		return []ast.Expr{e}
	}
	var out []ast.Expr
	for _, arg := range e.AsCall().Args() {
		out = append(out, outermost(arg)...)
	}
	return out
}

// ask evaluates a conjunct.
func (e *evaluation) ask(c conjunct) (Verdict, error) {
	value, _, err := e.run(c.program)
	if err != nil {
		return Failed, err
	}
	switch value {
	case true:
		return True, nil
	case false:
		return False, nil
	}
	return Failed, fmt.Errorf("the condition gave a %T", value)
}

// watch evaluates a conjunct and returns the values that it read; of one that costs too much, none.
func (e *evaluation) watch(c conjunct) (Verdict, []Value, error) {
	verdict, err := e.ask(c)
	if errors.Is(err, errSlow) || errors.Is(err, errCostly) {
		return verdict, nil, err
	}
	_, details, _ := e.run(c.watched)
	return verdict, e.values(c.expr, details.State(), 0), err
}

// behind returns the values that made a variable what it is, if it is one of vars or a calendar.
func (e *evaluation) behind(name string, depth int) []Value {
	for _, c := range e.policy.calendars {
		if now, ok := e.vars["now"].(time.Time); ok && c.name == name && c.zone != time.UTC {
			return []Value{{"now in " + c.zone.String(), now.In(c.zone).Format("Mon 2006-01-02 15:04:05")}}
		}
	}
	s := e.policy.lang.shared[name]
	if s == nil || depth == maxBehind {
		return nil
	}
	watched, err := e.policy.lang.rules.Program(s.checked, cel.EvalOptions(cel.OptTrackState), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil
	}
	_, details, _ := e.run(watched)
	return e.values(s.checked.NativeRep().Expr(), details.State(), depth+1)
}

// maxValues is how many values of a condition are shown, maxBehind how far vars that ask for vars are followed.
const (
	maxValues = 6
	maxBehind = 3
)

// values are the variables that the evaluation read, and what functions made of them where that says more: an hour, a size.
func (e *evaluation) values(expr ast.Expr, state interpreter.EvalState, depth int) []Value {
	var out []Value
	addShown := func(shown Value) {
		if len(out) < maxValues && !slices.ContainsFunc(out, func(v Value) bool { return v.Name == shown.Name }) {
			out = append(out, shown)
		}
	}
	add := func(name string, value ref.Val) { addShown(Value{name, clip(show(value))}) }
	var visit func(ast.Expr)
	visit = func(x ast.Expr) {
		value, read := state.Value(x.ID())
		switch x.Kind() {
		case ast.IdentKind:
			name := x.AsIdent()
			shown := slices.ContainsFunc(out, func(v Value) bool { return v.Name == name })
			if _, ok := e.vars[name]; ok && read && !shown && !types.IsUnknownOrError(value) {
				add(name, value)
				for _, v := range e.behind(name, depth) {
					addShown(v)
				}
			}
		case ast.CallKind:
			if name, ok := computed(x); ok && read && telling(value) {
				add(name, value)
				return
			}
			if x.AsCall().IsMemberFunction() {
				visit(x.AsCall().Target())
			}
			for _, arg := range x.AsCall().Args() {
				visit(arg)
			}
		case ast.ListKind:
			for _, element := range x.AsList().Elements() {
				visit(element)
			}
		case ast.SelectKind:
			visit(x.AsSelect().Operand())
		case ast.MapKind:
			for _, entry := range x.AsMap().Entries() {
				visit(entry.AsMapEntry().Value())
			}
		case ast.ComprehensionKind:
			visit(x.AsComprehension().IterRange())
			visit(x.AsComprehension().LoopStep())
		}
	}
	visit(expr)
	return out
}

// computed returns the text of a function of one variable, such as now.getHours("Europe/Berlin"). What takes an optional apart
// is none: that the variable is not set says more.
func computed(e ast.Expr) (string, bool) {
	call := e.AsCall()
	if slices.Contains([]string{"orValue", "value", "hasValue"}, call.FunctionName()) || strings.HasPrefix(call.FunctionName(), "_") {
		return "", false
	}
	parts, variables := slices.Clone(call.Args()), 0
	if call.IsMemberFunction() {
		parts = append(parts, call.Target())
	}
	for _, part := range parts {
		switch part.Kind() {
		case ast.IdentKind:
			variables++
		case ast.LiteralKind:
		default:
			return "", false
		}
	}
	text, err := cel.ExprToString(e, ast.NewSourceInfo(nil))
	return text, err == nil && variables == 1
}

// telling says whether the value of a function says more than that of its argument.
func telling(v ref.Val) bool {
	switch v.(type) {
	case types.Bool, *types.Optional, *types.Err, *types.Unknown:
		return false
	}
	return true
}

// show prints a value for people.
func show(v ref.Val) string {
	switch v := v.(type) {
	case *types.Optional:
		if !v.HasValue() {
			return "not set"
		}
		return show(v.GetValue())
	case types.String:
		return fmt.Sprintf("%q", string(v))
	case types.Duration:
		return shortDuration(v.Duration)
	case types.Timestamp:
		return showTime(v.Time)
	}
	if native, err := v.ConvertToNative(reflect.TypeFor[[]string]()); err == nil {
		if list, ok := native.([]string); ok {
			return showList(list)
		}
	}
	return fmt.Sprint(v.Value())
}

func showTime(t time.Time) string { return t.UTC().Format("Mon 2006-01-02 15:04:05") + " UTC" }

// showList prints a list; of a long one the beginning and how many there are.
func showList(list []string) string {
	var b strings.Builder
	for i, s := range list {
		entry := fmt.Sprintf("%q", s)
		if i > 0 {
			entry = ", " + entry
		}
		if b.Len()+len(entry) > maxShown-20 {
			return fmt.Sprintf("[%s, ...] (%d)", b.String(), len(list))
		}
		b.WriteString(entry)
	}
	return "[" + b.String() + "]"
}

// maxShown is how many runes of a condition or a value are shown.
const maxShown = 100

// clip shortens text to what is shown.
func clip(s string) string {
	if utf8.RuneCountInString(s) <= maxShown {
		return s
	}
	return string([]rune(s)[:maxShown-3]) + "..."
}
