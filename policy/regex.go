package policy

import (
	"regexp/syntax"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
)

// regexSize holds patterns to maxRegex. CEL has such a limit of its own, but it compiles patterns before they are simplified, and
// that panics over a counted repeat such as [0-9]{4}.
type regexSize struct{}

func (regexSize) Name() string { return "hallpass.regex_size" }

func (regexSize) Validate(_ *cel.Env, _ cel.ValidatorConfig, a *ast.AST, issues *cel.Issues) {
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != "matches" || len(e.AsCall().Args()) == 0 {
			return
		}
		args := e.AsCall().Args()
		pattern := args[len(args)-1]
		s, ok := stringOf(pattern)
		if n, err := instructions(s); ok && err == nil && n > maxRegex { // what is no pattern is told of elsewhere
			issues.ReportErrorAtID(pattern.ID(), "the pattern takes %d steps, and %d are allowed: write a shorter one", n, maxRegex)
		}
	}))
}

// instructions is how many a pattern compiles to.
func instructions(pattern string) (int, error) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}
