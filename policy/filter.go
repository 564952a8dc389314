package policy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// maxFilterCost bounds a filter for one record, of which there are many.
const maxFilterCost = 20_000

// recordVariables are what filters see of a record. All are always there: what a record has not is empty, or zero.
var recordVariables = []struct {
	name string
	typ  *cel.Type
	// of returns the value.
	of func(*filtered) any
}{
	{"record.index", cel.IntType, func(f *filtered) any { return int64(f.r.GetIndex()) }},
	{"record.time", cel.TimestampType, func(f *filtered) any { return f.r.GetTime().AsTime() }},
	{"record.event", cel.StringType, func(f *filtered) any { return audit.EventName(f.r) }},
	{"record.decision", cel.StringType, func(f *filtered) any { return audit.DecisionOf(f.r) }},
	{"record.message", cel.StringType, func(f *filtered) any { return messageOf(f.r) }},
	{"record.issuer", cel.StringType, func(f *filtered) any { return audit.CallerOf(f.r).GetIssuer() }},
	{"record.subject", cel.StringType, func(f *filtered) any { return audit.CallerOf(f.r).GetSubject() }},
	{"record.caller", cel.StringType, func(f *filtered) any { return callerKind(audit.CallerOf(f.r)) }},
	{"record.email", cel.StringType, func(f *filtered) any { return f.identity().GetEmail() }},
	{"record.groups", cel.ListType(cel.StringType), func(f *filtered) any { return f.identity().GetGroups() }},
	{"record.login", cel.StringType, func(f *filtered) any { return f.asked().GetLogin() }},
	{"record.host", cel.StringType, func(f *filtered) any { return audit.HostName(f.asked().GetHost()) }},
	{"record.ttl", cel.DurationType, func(f *filtered) any { return f.asked().GetTtl().AsDuration() }},
	{"record.reason", cel.StringType, func(f *filtered) any { return f.asked().GetReason() }},
	{"record.key_type", cel.StringType, func(f *filtered) any { return f.asked().GetKeyType() }},
	{"record.break_glass", cel.BoolType, func(f *filtered) any { return f.asked().GetBreakGlass() }},
	{"record.source_ip", cel.StringType, func(f *filtered) any { return audit.Value(f.r, audit.FieldSource) }},
	{"record.bound", cel.BoolType, func(f *filtered) any { return f.r.GetDecided().GetToken().GetBound() }},
	{"record.environment", cel.StringType, func(f *filtered) any { return f.r.GetDecided().GetDecision().GetEnvironment() }},
	{"record.rule", cel.StringType, func(f *filtered) any { return f.r.GetDecided().GetDecision().GetRule() }},
	{"record.policy", cel.StringType, func(f *filtered) any { return audit.PolicyOf(f.r).GetRevision() }},
	{"record.policy_digest", cel.StringType, func(f *filtered) any { return hex.EncodeToString(audit.PolicyOf(f.r).GetDigest()) }},
	{"record.authority", cel.StringType, func(f *filtered) any { return f.r.GetDecided().GetAuthority() }},
	{"record.reviews", cel.ListType(cel.StringType), func(f *filtered) any { return reviewNames(f.r) }},
	{"record.method", cel.StringType, func(f *filtered) any { return f.r.GetAccessRefused().GetMethod() }},
}

// recordWords are the values that some of them can have; a comparison with any other is a mistake.
var recordWords = map[string]func() []string{
	"record.event":    audit.EventNames,
	"record.decision": audit.DecisionNames,
	"record.caller":   func() []string { return []string{"person", "workload"} },
}

// Filters compiles conditions about records of the log, in the language of conditions of the policy.
type Filters struct{ env *cel.Env }

// NewFilters sets the language up.
func NewFilters() (*Filters, error) {
	options := []cel.EnvOption{
		cel.DefaultUTCTimeZone(true),
		ext.Strings(ext.StringsVersion(4)),
		ext.Sets(ext.SetsVersion(0)),
		ext.Lists(ext.ListsVersion(3), ext.ListsMaxRangeSize(assumedList)),
		ext.Network(ext.NetworkVersion(ext.Version1)),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), regexSize{},
			cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateComprehensionNestingLimit(1),
		),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
	}
	for _, v := range recordVariables {
		options = append(options, cel.Variable(v.name, v.typ))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("set up CEL for filters: %w", err)
	}
	return &Filters{env}, nil
}

// Filter is a condition about a record.
type Filter struct{ program cel.Program }

// Compile reads a condition. An error says what is wrong with it, and where.
func (f *Filters) Compile(text string) (*Filter, error) {
	parsed, issues := f.env.Parse(text)
	if issues.Err() != nil {
		return nil, explainMistakes(text, fromIssues(text, issues.Errors()[:1]))
	}
	checked, issues := f.env.Check(parsed)
	if issues.Err() != nil {
		return nil, explainMistakes(text, fromIssues(text, issues.Errors()))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression gives %s, and must give bool", typeName(checked.OutputType()))
	}
	if m := wrongWords(text, checked.NativeRep()); len(m) > 0 {
		return nil, explainMistakes(text, m)
	}
	cost, err := f.env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("estimate the cost of the expression: %w", err)
	}
	if cost.Max > maxFilterCost {
		return nil, fmt.Errorf("the expression may cost %d for each record, more than the %d that are allowed: loop over less", cost.Max, maxFilterCost)
	}
	program, err := f.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxFilterCost), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, fmt.Errorf("plan the expression: %w", err)
	}
	return &Filter{program}, nil
}

// explainMistakes is one error for what is wrong with an expression.
func explainMistakes(text string, mistakes []mistake) error {
	var errs []error
	for _, m := range mistakes {
		message := m.message
		if strings.HasPrefix(message, "undeclared reference to 'record'") {
			message = unknownRecordName([]rune(text)[m.offset:])
		}
		errs = append(errs, fmt.Errorf("at %d: %s", m.offset+1, message))
	}
	return errors.Join(errs...)
}

// unknownRecordName says what is wrong with a name that text begins with.
func unknownRecordName(text []rune) string {
	var known []string
	for _, v := range recordVariables {
		known = append(known, v.name)
	}
	end := slices.IndexFunc(text, func(r rune) bool { return r != '.' && r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if end < 0 {
		end = len(text)
	}
	name := string(text[:end])
	if parts := strings.SplitN(name, ".", 3); len(parts) > 2 { // a function follows
		name = parts[0] + "." + parts[1]
	}
	if name == "record" {
		return "record is no value by itself: name one of its parts, such as record.host"
	}
	return "no such variable " + name + didYouMean(name, known)
}

// wrongWords finds comparisons that never hold, and patterns that cannot be checked.
func wrongWords(text string, a *ast.AST) []mistake {
	var mistakes []mistake
	word := func(variable, literal ast.Expr) {
		words := recordWords[identOf(variable)]
		if s, ok := stringOf(literal); ok && s != "" && words != nil && !slices.Contains(words(), s) {
			mistakes = append(mistakes, mistake{startOf(text, a, literal.ID()), fmt.Sprintf("%s is never %q%s; it is %s",
				identOf(variable), s, didYouMean(s, words()), strings.Join(words(), ", "))})
		}
	}
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		args := e.AsCall().Args()
		if pattern := len(args) - 1; e.AsCall().FunctionName() == "matches" && pattern >= 0 {
			if _, ok := stringOf(args[pattern]); !ok {
				mistakes = append(mistakes, mistake{startOf(text, a, args[pattern].ID()), "the pattern of matches must be a literal, so that it can be checked"})
			}
		}
		if len(args) != 2 {
			return
		}
		switch e.AsCall().FunctionName() {
		case operators.Equals, operators.NotEquals:
			word(args[0], args[1])
			word(args[1], args[0])
		case operators.In:
			if args[1].Kind() == ast.ListKind {
				for _, element := range args[1].AsList().Elements() {
					word(args[0], element)
				}
			}
		}
	}))
	return mistakes
}

// Match tells whether the condition holds for a record. The snapshot returns the identity that the record cites, nil if it was
// erased, and is called only if the condition asks for something that only it has.
func (f *Filter) Match(ctx context.Context, r *pb.Record, snapshot func() ([]byte, error)) (bool, error) {
	about := &filtered{r: r, snapshot: snapshot}
	value, _, err := f.program.ContextEval(ctx, about)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case about.err != nil:
		return false, about.err
	case err != nil:
		return false, &FilterError{plainFailure(err.Error())}
	}
	return value == types.True, nil
}

// FilterError says that a condition failed for a record. For others it may not.
type FilterError struct{ Message string }

func (e *FilterError) Error() string { return e.Message }

// filtered is a record as a condition sees it. It is an activation of CEL, so that only what is asked for is computed.
type filtered struct {
	r        *pb.Record
	snapshot func() ([]byte, error)
	id       *pb.IdentitySnapshot
	err      error // of the snapshot
}

func (f *filtered) ResolveName(name string) (any, bool) {
	for _, v := range recordVariables {
		if v.name == name {
			return v.of(f), true
		}
	}
	return nil, false
}

func (f *filtered) Parent() cel.Activation { return nil }

func (f *filtered) asked() *pb.Asked { return f.r.GetDecided().GetAsked() }

func (f *filtered) identity() *pb.IdentitySnapshot {
	if f.id == nil {
		f.id = &pb.IdentitySnapshot{}
		var blob []byte
		if blob, f.err = f.snapshot(); f.err == nil {
			f.err = proto.Unmarshal(blob, f.id)
		}
	}
	return f.id
}

func callerKind(c *pb.Caller) string {
	switch c.GetKind() {
	case pb.CallerKind_CALLER_KIND_PERSON:
		return "person"
	case pb.CallerKind_CALLER_KIND_WORKLOAD:
		return "workload"
	}
	return ""
}

// reviewNames are the review rules that ask people to look at a record.
func reviewNames(r *pb.Record) []string {
	var names []string
	for _, rule := range r.GetDecided().GetReview().GetRules() {
		names = append(names, rule.GetName())
	}
	return names
}

// messageOf is what a caller was told.
func messageOf(r *pb.Record) string {
	switch e := r.GetEvent().(type) {
	case *pb.Record_Decided:
		return e.Decided.GetRefusal().GetMessage()
	case *pb.Record_AccessRefused:
		return e.AccessRefused.GetRefusal().GetMessage()
	case *pb.Record_PolicyRefused:
		return e.PolicyRefused.GetMessage()
	case *pb.Record_SignatureFailed:
		return e.SignatureFailed.GetMessage()
	case *pb.Record_Reviewed:
		return e.Reviewed.GetComment()
	}
	return ""
}
