package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
)

// facts are what an expression plainly requires: parts of its outermost conjunction. Where one of them does not hold the
// expression is false, whatever else it says and even if that fails, because in CEL false && error is false.
type facts struct {
	// environment is the one that is required; empty if none is.
	environment string
	// group is one that is required; empty if none is.
	group string
	// securityKey says that the key to be certified must be an sk key.
	securityKey bool
	// reach is where the expression can be true at all.
	reach reach
}

// factsOf looks through vars, each of which is among shared with facts of its own.
func factsOf(e ast.Expr, shared map[string]*shared) facts {
	var f facts
	var visit func(ast.Expr)
	visit = func(e ast.Expr) {
		if behind := shared[identOf(e)]; behind != nil {
			f.environment = cmp.Or(f.environment, behind.facts.environment)
			f.group = cmp.Or(f.group, behind.facts.group)
			f.securityKey = f.securityKey || behind.facts.securityKey
		}
		if e.Kind() != ast.CallKind {
			return
		}
		call, args := e.AsCall(), e.AsCall().Args()
		switch name := call.FunctionName(); {
		case name == operators.LogicalAnd:
			for _, arg := range args {
				visit(arg)
			}
		case name == operators.Equals && len(args) == 2:
			f.equal(args[0], args[1])
			f.equal(args[1], args[0])
		case name == operators.In && len(args) == 2:
			f.in(args[0], args[1])
		case name == "startsWith" && call.IsMemberFunction() && len(args) == 1:
			if s, ok := stringOf(args[0]); ok && identOf(call.Target()) == "request.key_type" && strings.HasPrefix(s, "sk-") {
				f.securityKey = true
			}
		}
	}
	visit(e)
	f.reach = reachOf(e)
	if f.reach.environments == nil && f.environment != "" {
		f.reach.environments = []string{f.environment}
	}
	if f.reach.groups == nil && f.group != "" {
		f.reach.groups = []string{f.group}
	}
	return f
}

func (f *facts) equal(variable, literal ast.Expr) {
	s, ok := stringOf(literal)
	switch {
	case !ok:
	case identOf(variable) == "environment" && f.environment == "":
		f.environment = s
	case identOf(variable) == "request.key_type" && strings.HasPrefix(s, "sk-"):
		f.securityKey = true
	}
}

func (f *facts) in(element, list ast.Expr) {
	if s, ok := stringOf(element); ok && identOf(list) == "identity.groups" && f.group == "" {
		f.group = s
	}
	if identOf(element) == "request.key_type" && list.Kind() == ast.ListKind {
		elements := list.AsList().Elements()
		f.securityKey = f.securityKey || len(elements) > 0 && !slices.ContainsFunc(elements, func(e ast.Expr) bool {
			s, ok := stringOf(e)
			return !ok || !strings.HasPrefix(s, "sk-")
		})
	}
}
