package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	_ "time/tzdata" // a rule means the same on a machine without time zones

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// Engine names the evaluator. Records cite it, because a replay is only as good as the engine that repeats it.
const Engine = "cel-go v0.31.0"

// Bounds of one expression. Cost is in cel-go's units, about one comparison each.
const (
	maxExpression = 4096      // runes
	maxDepth      = 50        // of nested calls and lists
	maxNesting    = 2         // of macros that loop
	maxCost       = 1_000_000 // estimated when loaded, and held when run
	maxRegex      = 1000      // instructions of the compiled pattern
	// Sizes that the estimate assumes of what comes from outside. Larger input meets the limit at run time.
	assumedString = 256
	assumedList   = 1000
)

// use says where an expression stands, which decides what it may name.
type use int

const (
	inAllow  use = iota
	inDeny       // no claim that may be missing
	inRole       // identity, claims, token and now
	inShared     // what vars ask for, their users are held to
	inReview     // the decision too, and no claim that may be missing
)

// variable is a name that expressions may use.
type variable struct {
	name string
	typ  *cel.Type
	role bool // roles see it
}

var variables = []variable{
	{"environment", cel.StringType, false},
	{"request.host", cel.StringType, false},
	{"request.login", cel.StringType, false},
	{"request.ttl", cel.DurationType, false},
	{"request.reason", cel.StringType, false},
	{"request.source_ip", cel.StringType, false},
	{"request.key_type", cel.StringType, false},
	{"request.break_glass", cel.BoolType, false},
	{"identity.issuer", cel.StringType, true},
	{"identity.subject", cel.StringType, true},
	{"identity.kind", cel.StringType, true},
	{"identity.email", cel.OptionalType(cel.StringType), true},
	{"identity.groups", cel.ListType(cel.StringType), true},
	{"token.bound", cel.BoolType, true},
	{"token.auth_time", cel.OptionalType(cel.TimestampType), true},
	{"token.issued_at", cel.TimestampType, true},
	{"now", cel.TimestampType, true},
}

// language is CEL with the variables of one policy.
type language struct {
	base, rules, roles *cel.Env
	// reviews is nil until a review rule is compiled.
	reviews   *cel.Env
	variables []variable
	claims    []claim
	// words are the values that some variables can have; a comparison with any other is a mistake.
	words map[string][]string
	lists []list
	// shared are the vars that have compiled, by their full names; broken are those that have not.
	shared map[string]*shared
	broken []string
}

func newLanguage(claims []claim, environments []string, lists []list, calendars []*calendar) (*language, error) {
	l := &language{
		lists:     lists,
		shared:    map[string]*shared{},
		variables: slices.Clone(variables),
		claims:    claims,
		words: map[string][]string{
			"environment":      environments,
			"identity.kind":    {"person", "workload"},
			"request.key_type": keyTypes,
			"decision.outcome": audit.DecisionNames(),
		},
	}
	for _, c := range claims {
		l.variables = append(l.variables, variable{"claims." + c.name, c.celType(), true})
	}
	for _, f := range lists { // a record of a role would have to cite what was fetched
		l.variables = append(l.variables, variable{"lists." + f.name, cel.ListType(cel.StringType), f.fetch == nil})
	}
	for _, c := range calendars {
		l.variables = append(l.variables, variable{c.name, cel.BoolType, true})
	}
	var err error
	l.base, err = cel.NewEnv(
		cel.OptionalTypes(cel.OptionalTypesVersion(2)),
		cel.DefaultUTCTimeZone(true),
		cel.EnableMacroCallTracking(),      // so that explanations show macros as they were written
		ext.Strings(ext.StringsVersion(5)), // the first whose functions cost what they make: replace may grow a text tenfold
		ext.Sets(ext.SetsVersion(0)),
		ext.Lists(ext.ListsVersion(3), ext.ListsMaxRangeSize(assumedList)),
		ext.Network(ext.NetworkVersion(ext.Version1)),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), regexSize{},
			cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateComprehensionNestingLimit(maxNesting),
		),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
	)
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	return l, l.declare()
}

// declare makes the environments of CEL for the variables that there are. It extends the first one each time: one that extends
// one that extends another, and so on, takes ever longer to make.
func (l *language) declare() error {
	var rules, roles []cel.EnvOption
	for _, v := range l.variables {
		rules = append(rules, cel.Variable(v.name, v.typ))
		if v.role {
			roles = append(roles, cel.Variable(v.name, v.typ))
		}
	}
	var err error
	if l.rules, err = l.base.Extend(rules...); err != nil {
		return fmt.Errorf("set up CEL for rules: %w", err)
	}
	if l.roles, err = l.base.Extend(roles...); err != nil {
		return fmt.Errorf("set up CEL for roles: %w", err)
	}
	return nil
}

// env returns the environment of CEL for a use.
func (l *language) env(where use) (*cel.Env, error) {
	switch {
	case where == inRole:
		return l.roles, nil
	case where != inReview:
		return l.rules, nil
	case l.reviews == nil: // all vars have compiled by now
		var options []cel.EnvOption
		for _, v := range slices.Concat(l.variables, reviewVariables) {
			options = append(options, cel.Variable(v.name, v.typ))
		}
		env, err := l.base.Extend(options...)
		if err != nil {
			return nil, fmt.Errorf("set up CEL for review rules: %w", err)
		}
		l.reviews = env
	}
	return l.reviews, nil
}

// expression is a compiled expression.
type expression struct {
	program cel.Program
	facts   facts
	// asksEmail says that it asks for identity.email.
	asksEmail bool
	// asks are the variables that it asks for, also through vars.
	asks []string
	typ  *cel.Type
	cost uint64
	// checked is kept of vars only, for what has to look through them.
	checked *cel.Ast
}

// mistake is an error inside an expression, at an offset in runes.
type mistake struct {
	offset  int
	message string
}

// compile checks text and plans it. Its value has the type want; nil stands for any that vars may have. It returns neither an
// expression nor a mistake if the only mistakes are those of vars that it asks for.
func (l *language) compile(text string, want *cel.Type, where use) (x *expression, mistakes []mistake) {
	defer func() { // what CEL cannot take must not end the daemon that loads it
		if fault := recover(); fault != nil {
			x, mistakes = nil, []mistake{{0, fmt.Sprintf("the expression cannot be checked, by a fault of ours (%v): write it in another way", fault)}}
		}
	}()
	return l.check(text, want, where)
}

// check is compile, which may panic where CEL has faults.
func (l *language) check(text string, want *cel.Type, where use) (*expression, []mistake) {
	env, err := l.env(where)
	if err != nil {
		return nil, []mistake{{0, err.Error()}}
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, fromIssues(text, issues.Errors()[:1]) // what follows a syntax error is noise
	}
	n := l.checkNames(text, parsed.NativeRep(), where)
	checked, issues := env.Check(parsed)
	mistakes := n.mistakes
	for _, e := range issues.Errors() {
		if !n.explains(e.Message) {
			mistakes = append(mistakes, fromIssues(text, []*common.Error{e})...)
		}
	}
	if len(mistakes) > 0 || issues.Err() != nil {
		return nil, mistakes
	}
	switch {
	case want == nil && !mayShare(checked.OutputType()):
		return nil, []mistake{{0, fmt.Sprintf("the expression gives %s, and vars are bool, string, int, duration, timestamp, or lists of one of these",
			typeName(checked.OutputType()))}}
	case want != nil && !checked.OutputType().IsExactType(want):
		return nil, []mistake{{0, fmt.Sprintf("the expression gives %s, and must give %s", typeName(checked.OutputType()), typeName(want))}}
	}
	if mistakes = l.checkLiterals(text, checked.NativeRep()); len(mistakes) > 0 {
		return nil, mistakes
	}
	x := &expression{typ: checked.OutputType(), asks: l.asksOf(checked.NativeRep().Expr())}
	if m := l.estimate(env, checked, x); m != nil {
		return nil, []mistake{*m}
	}
	x.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, []mistake{{0, "cannot plan the expression: " + err.Error()}}
	}
	expr := checked.NativeRep().Expr()
	x.facts, x.asksEmail = factsOf(expr, l.shared), slices.Contains(x.asks, "identity.email")
	if where == inShared {
		x.checked = checked
	}
	return x, nil
}

// estimate holds what an expression may cost against the bound: by itself, and with each of the vars that it asks for, which are
// evaluated once.
func (l *language) estimate(env *cel.Env, checked *cel.Ast, x *expression) *mistake {
	own, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return &mistake{0, "cannot estimate the cost of the expression: " + err.Error()}
	}
	if x.cost = own.Max; x.cost > maxCost {
		return &mistake{0, fmt.Sprintf("the expression may cost %d, more than the %d that are allowed: loop over less", x.cost, maxCost)}
	}
	total := x.cost
	for _, name := range x.asks {
		if s := l.shared[name]; s != nil {
			total += s.cost
		}
	}
	if total > maxCost {
		return &mistake{0, fmt.Sprintf("the expression may cost %d with the vars that it asks for, more than the %d that are allowed: loop over less", total, maxCost)}
	}
	return nil
}

func fromIssues(text string, errs []*common.Error) []mistake {
	var out []mistake
	for _, e := range errs {
		out = append(out, mistake{offsetOf(text, e.Location), plainIssue(e.Message)})
	}
	return out
}

// A failed type check of an operator.
var overload = regexp.MustCompile(`^found no matching overload for '_?(\S+?)_?' applied to '\((.*)\)'$`)

// plainIssue puts the messages of CEL into words of the policy.
func plainIssue(message string) string {
	message = strings.TrimPrefix(message, "Syntax error: ")
	if before, _, ok := strings.Cut(message, " expecting {"); ok { // a list of tokens helps nobody
		message = before
	}
	message = strings.Replace(message, "mismatched input '<EOF>'", "the expression ends too early", 1)
	message = strings.TrimSuffix(message, " (in container '')")
	if m := overload.FindStringSubmatch(message); m != nil {
		message = fmt.Sprintf("cannot apply %s to %s", m[1], plainType(m[2]))
		if strings.Contains(m[2], "optional_type") {
			message += "; an optional variable has .orValue(...) and .hasValue()"
		}
	}
	return message
}

func plainType(name string) string {
	return strings.NewReplacer("google.protobuf.Duration", "duration", "google.protobuf.Timestamp", "timestamp", "optional_type(", "optional(").Replace(name)
}

// offsetOf turns a line and a column of CEL into an offset in runes.
func offsetOf(text string, at common.Location) int {
	offset, line := 0, 1
	runes := []rune(text)
	for ; offset < len(runes) && line < at.Line(); offset++ {
		if runes[offset] == '\n' {
			line++
		}
	}
	return min(offset+max(at.Column(), 0), len(runes))
}

// startOf returns the offset of the expression with this id.
func startOf(text string, a *ast.AST, id int64) int {
	return offsetOf(text, a.SourceInfo().GetStartLocation(id))
}

func typeName(t *cel.Type) string {
	name := plainType(t.String())
	if strings.HasPrefix(name, "optional(") {
		name += " (say .orValue(...))"
	}
	return name
}

// sizes tells the estimator how large values are.
type sizes struct{}

func (sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if size := node.ComputedSize(); size != nil { // of what a function makes
		return size
	}
	switch node.Type().Kind() {
	case types.StringKind, types.BytesKind:
		return &checker.SizeEstimate{Max: assumedString}
	case types.ListKind, types.MapKind:
		return &checker.SizeEstimate{Max: assumedList}
	}
	return nil
}

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
