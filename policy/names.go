package policy

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
)

// nameCheck looks at what an expression names before CEL does, because only we know what a name was meant to be.
type nameCheck struct {
	l        *language
	text     string
	ast      *ast.AST
	where    use
	roots    []string // first words of dotted variables
	mistakes []mistake
	told     []string // names whose absence is explained
}

func (l *language) checkNames(text string, a *ast.AST, where use) *nameCheck {
	n := &nameCheck{l: l, text: text, ast: a, where: where, roots: variableRoots}
	n.walk(a.Expr(), nil)
	return n
}

// variableRoots are the first words of dotted variables.
var variableRoots = []string{"identity", "request", "token", "claims", "lists", "calendars", "vars", "decision"}

// explains says whether message of the checker repeats what n found.
func (n *nameCheck) explains(message string) bool {
	return slices.ContainsFunc(n.told, func(name string) bool {
		return strings.HasPrefix(message, "undeclared reference to '"+name+"'")
	})
}

func (n *nameCheck) mistake(e ast.Expr, told, format string, args ...any) {
	n.mistakes = append(n.mistakes, mistake{startOf(n.text, n.ast, e.ID()), fmt.Sprintf(format, args...)})
	n.told = append(n.told, told)
}

// walk visits e; bound are the variables of the macros around it.
func (n *nameCheck) walk(e ast.Expr, bound []string) {
	switch e.Kind() {
	case ast.IdentKind:
		n.variable(e, []string{e.AsIdent()}, bound)
	case ast.SelectKind:
		chain, root, has := []string{}, e, e.AsSelect().IsTestOnly()
		for root.Kind() == ast.SelectKind {
			chain = append(chain, root.AsSelect().FieldName())
			root = root.AsSelect().Operand()
		}
		if root.Kind() != ast.IdentKind {
			n.walk(root, bound)
			return
		}
		chain = append(chain, root.AsIdent())
		slices.Reverse(chain)
		if has && slices.Contains(n.roots, chain[0]) && !slices.Contains(bound, chain[0]) {
			n.mistake(root, chain[0], "has() does not apply to variables: an optional one has .hasValue()")
			return
		}
		n.variable(root, chain, bound)
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() && !slices.Contains(namespaces, call.Target().AsIdent()) {
			n.walk(call.Target(), bound)
		}
		for _, arg := range call.Args() {
			n.walk(arg, bound)
		}
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			n.walk(element, bound)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			n.walk(entry.AsMapEntry().Key(), bound)
			n.walk(entry.AsMapEntry().Value(), bound)
		}
	case ast.StructKind:
		for _, f := range e.AsStruct().Fields() {
			n.walk(f.AsStructField().Value(), bound)
		}
	case ast.ComprehensionKind:
		n.comprehension(e.AsComprehension(), bound)
	}
}

func (n *nameCheck) comprehension(c ast.ComprehensionExpr, bound []string) {
	n.walk(c.IterRange(), bound)
	n.walk(c.AccuInit(), bound)
	inside := append(slices.Clone(bound), c.IterVar(), c.IterVar2(), c.AccuVar())
	for _, name := range []string{c.IterVar(), c.IterVar2(), c.AccuVar()} {
		if slices.Contains(n.roots, name) || slices.ContainsFunc(n.l.variables, func(v variable) bool { return v.name == name }) {
			n.mistake(c.IterRange(), name, "the name %s is taken: choose another for the variable of the loop", name)
		}
	}
	for _, part := range []ast.Expr{c.LoopCondition(), c.LoopStep(), c.Result()} {
		n.walk(part, inside)
	}
}

// variable checks the name that chain, "identity", "groups", begins with.
func (n *nameCheck) variable(at ast.Expr, chain, bound []string) {
	root := chain[0]
	if slices.Contains(bound, root) {
		return
	}
	name := root
	if slices.Contains(n.roots, root) && len(chain) > 1 {
		name += "." + chain[1]
	}
	i := slices.IndexFunc(n.visible(), func(v variable) bool { return v.name == name })
	switch {
	case slices.Contains(n.l.broken, name): // a mistake of its own
		n.told = append(n.told, root)
	case i >= 0 && n.where == inRole && n.l.fetched(name):
		n.mistake(at, root, "roles do not see %s, which is fetched: lists in the policy or in a file of it, they do", name)
	case i >= 0 && n.where == inRole && !n.l.variables[i].role:
		n.mistake(at, root, "roles do not see %s%s: they see identity, claims, token and now", name, n.l.because(name, n.l.hidden))
	case i >= 0 && n.where == inDeny && n.l.shared[name] != nil && n.l.because(name, n.l.required) != "":
		n.mistake(at, root, "a deny rule may not use %s%s: a token without it would be refused everything: "+
			"give the claim a default, or make it optional", name, n.l.because(name, n.l.required))
	case i >= 0 && n.where == inDeny && n.l.required(name):
		n.mistake(at, root, "a deny rule may not use %s, because a token without it would be refused everything: "+
			"give the claim a default, or make it optional", name)
	case i >= 0 && n.where == inReview && (n.l.required(name) || n.l.because(name, n.l.required) != ""):
		n.mistake(at, root, "a review rule may not use %s%s: everything with a token without it would ask for review: "+
			"give the claim a default, or make it optional", name, n.l.because(name, n.l.required))
	case i >= 0:
	case root == "claims" && len(chain) > 1:
		n.mistake(at, root, "no such claim %s%s; claims are declared under claims in policy.yaml", chain[1], didYouMean(chain[1], n.known("claims.")))
	case slices.Contains([]string{"lists", "calendars", "vars"}, root) && len(chain) > 1:
		n.mistake(at, root, "no such variable %s: %s has no %s%s", name, root, chain[1], didYouMean(name, n.known("")))
	case root == "decision" && n.where != inReview:
		n.mistake(at, root, "only review rules see the decision: this is a part of how it is made")
	case slices.Contains(n.roots, root) && len(chain) > 1:
		n.mistake(at, root, "no such variable %s%s", name, didYouMean(name, n.known("")))
	case slices.Contains(n.roots, root):
		n.mistake(at, root, "%s is no value by itself: name one of its parts, such as %s", root, n.example(root))
	case slices.Contains([]string{"approver", "triggers"}, root):
		n.mistake(at, root, "%s is not supported yet", root)
	case slices.Contains(celTypeNames, root):
	default:
		n.mistake(at, root, "no such variable %s%s", root, didYouMean(root, n.known("")))
	}
}

// Names of CEL that are values: type(x) == string.
var celTypeNames = []string{
	"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "google", "optional_type", "net",
}

// First words of functions: sets.contains(a, b).
var namespaces = []string{"ip", "lists", "optional", "sets", "strings"}

func (l *language) required(name string) bool {
	return slices.ContainsFunc(l.claims, func(c claim) bool {
		return "claims."+c.name == name && !c.optional && c.standard == nil
	})
}

// fetched says whether name is a list that is fetched, or one of vars that asks for one.
func (l *language) fetched(name string) bool {
	isFetched := func(name string) bool {
		return slices.ContainsFunc(l.lists, func(f list) bool { return f.fetch != nil && "lists."+f.name == name })
	}
	return isFetched(name) || l.shared[name] != nil && slices.ContainsFunc(l.shared[name].asks, isFetched)
}

// hidden says whether roles do not see a variable.
func (l *language) hidden(name string) bool {
	return slices.ContainsFunc(l.variables, func(v variable) bool { return v.name == name && !v.role })
}

// because names the variable that one of vars asks for and that is of a kind; nothing if there is none.
func (l *language) because(name string, kind func(string) bool) string {
	s := l.shared[name]
	if s == nil {
		return ""
	}
	for _, asked := range s.asks {
		if !strings.HasPrefix(asked, sharedPrefix) && kind(asked) {
			return ", because it asks for " + asked
		}
	}
	return ""
}

// known returns the variables that begin with prefix, without it.
func (n *nameCheck) known(prefix string) []string {
	var out []string
	for _, v := range n.visible() {
		if name, ok := strings.CutPrefix(v.name, prefix); ok {
			out = append(out, name)
		}
	}
	return out
}

// visible are the variables that there are for the use of the expression.
func (n *nameCheck) visible() []variable {
	if n.where == inReview {
		return slices.Concat(n.l.variables, reviewVariables)
	}
	return n.l.variables
}

func (n *nameCheck) example(root string) string {
	for _, name := range n.known("") {
		if strings.HasPrefix(name, root+".") {
			return name
		}
	}
	return root + ".NAME"
}

// checkLiterals refuses dyn, and texts that can never be right: words that a variable never has, time zones that do not exist, and
// patterns that are not literals or not anchored (a pattern that matches somewhere inside is how evil.example becomes
// corp.example).
func (l *language) checkLiterals(text string, a *ast.AST) []mistake {
	var mistakes []mistake
	fail := func(e ast.Expr, format string, args ...any) {
		mistakes = append(mistakes, mistake{startOf(text, a, e.ID()), fmt.Sprintf(format, args...)})
	}
	word := func(variable, literal ast.Expr) {
		known, closed := l.words[identOf(variable)]
		if s, ok := stringOf(literal); ok && closed && !slices.Contains(known, s) {
			fail(literal, "%s is never %q%s", identOf(variable), s, didYouMean(s, known))
		}
	}
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call, args := e.AsCall(), e.AsCall().Args()
		switch name := call.FunctionName(); {
		case (name == operators.Equals || name == operators.NotEquals) && len(args) == 2:
			word(args[0], args[1])
			word(args[1], args[0])
		case name == operators.In && len(args) == 2 && args[1].Kind() == ast.ListKind:
			for _, element := range args[1].AsList().Elements() {
				word(args[0], element)
			}
		case name == "matches" && len(args) > 0:
			pattern := args[len(args)-1]
			if s, ok := stringOf(pattern); !ok {
				fail(pattern, "the pattern of matches must be a literal, so that it can be checked")
			} else if !anchored(s) {
				fail(pattern, "the pattern must be anchored at both ends: write %q; for a part of a text use contains, startsWith or endsWith",
					"^(?:"+s+")$")
			}
		case name == "dyn":
			fail(e, "dyn hides mistakes of types, which make a condition false without a word: leave it out")
		case strings.HasPrefix(name, "get") && len(args) == 1 && call.IsMemberFunction():
			if zone, ok := stringOf(args[0]); ok && !isZone(zone) {
				fail(args[0], "no such time zone %q", zone)
			}
		}
	}))
	return mistakes
}

// anchored says whether a pattern can only match a whole text. Patterns that do not parse are CEL's to refuse.
func anchored(pattern string) bool {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return true
	}
	return re.Op == syntax.OpConcat && len(re.Sub) >= 2 && re.Sub[0].Op == syntax.OpBeginText && re.Sub[len(re.Sub)-1].Op == syntax.OpEndText
}

// isZone knows the forms that CEL knows: a name of the time zone database, or an offset such as +01:00.
func isZone(zone string) bool {
	if _, err := time.LoadLocation(zone); err == nil {
		return zone != "Local" // which differs from machine to machine
	}
	offset := strings.TrimLeft(zone, "+-")
	_, err := time.Parse("15:04", offset)
	return err == nil && len(zone)-len(offset) <= 1
}

// identOf returns the name of a variable, or nothing. The checker has made one name of a dotted one.
func identOf(e ast.Expr) string {
	if e.Kind() == ast.IdentKind {
		return e.AsIdent()
	}
	return ""
}

func stringOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}
