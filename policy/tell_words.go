package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"
)

// looksAt says which facts about the caller a deny rule looks at, in one clause, and whether it could be evaluated.
func looksAt(conditions []Condition) []string {
	var about []string
	failed := false
	for _, c := range conditions {
		failed = failed || c.Result == Failed
		if c.told != "" && !slices.Contains(about, c.told) {
			about = append(about, c.told)
		}
	}
	switch {
	case len(about) == 0 && failed:
		return []string{"it cannot be evaluated"}
	case len(about) == 0:
		return nil
	case failed:
		return []string{"it cannot be evaluated for " + inWords(about)}
	}
	return []string{"it looks at " + inWords(about)}
}

// inWords lists clauses as a sentence does.
func inWords(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

// told says of a part of a condition what it has to do with the caller. Of a deny rule, that is only what it looks at.
func (a *asking) told(part conjunct, c Condition, deny bool) string {
	about := a.about(part.expr)
	switch group := part.facts.group; {
	case deny:
		return about
	case c.Result == Failed:
		return "it cannot be evaluated for " + cmp.Or(about, "you")
	case group != "":
		return notInGroup
	case a.policy.lang.mentions(part.expr, "identity.email") && a.q.Identity.Email == "":
		return "it asks for an email, and your sign-in brings none that counts"
	}
	return "it does not hold for " + cmp.Or(about, "you")
}

// toldWhole says that a condition fails as a whole, though each of its parts does not.
func (a *asking) toldWhole(n *nearRule) string {
	if n.deny {
		return "all of it together"
	}
	return "it cannot be evaluated for you: " + a.toldFailure(n.err)
}

// about lists the facts about the caller and its request that an expression looks at, also through vars.
func (a *asking) about(e ast.Expr) string {
	var out []string
	add := func(variable string) {
		text := a.own(variable)
		if claim, ok := strings.CutPrefix(variable, "claims."); ok {
			text = "your claim " + claim
		}
		if text != "" && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(x ast.Expr) {
		name := identOf(x)
		add(name)
		if s := a.policy.lang.shared[name]; s != nil {
			for _, asked := range s.asks {
				add(asked)
			}
		}
	}))
	return inWords(out)
}

// own says what a variable is to the caller. The environment is none of the caller's.
func (a *asking) own(variable string) string {
	switch variable {
	case "request.host":
		return "this host"
	case "request.login":
		return "this login"
	case "request.ttl":
		return "the lifetime that you ask for"
	case "request.reason":
		return "your reason"
	case "request.source_ip":
		return "the address that you ask from, " + a.q.Request.SourceIP.Unmap().WithZone("").String()
	case "request.key_type":
		return "the type of your key, " + keyType(a.q.Request.PublicKey)
	case "request.break_glass":
		return "whether you declare an emergency"
	case "identity.issuer":
		return "the provider that you signed in at"
	case "identity.subject":
		return "who you are"
	case "identity.kind":
		return "your kind of identity, " + a.q.Identity.Kind.String()
	case "identity.email":
		return "your email"
	case "identity.groups":
		return "your groups"
	case "token.bound":
		return "the binding of your sign-in to your key"
	case "token.auth_time":
		return "the time of your sign-in"
	case "token.issued_at":
		return "the time your token was issued"
	case "now":
		return "the time"
	}
	return ""
}

// safeFailure are the failures that quote nothing of a policy but the name of a list, which is told as those of rules are.
var safeFailure = regexp.MustCompile(`^(the token has no claim [A-Za-z0-9_]+|there is no [a-z]+\.[a-z_]+|division by zero|modulus by zero|no answer within [0-9a-z.]+|` +
	`the condition costs more than [0-9]+|` +
	`the list [a-zA-Z0-9_]+ (is [0-9a-z]+ old, at most [0-9a-z]+ is allowed|has not been fetched yet|was fetched at a time to come: a clock is wrong))$`)

// A failure that quotes one value: a key that was looked up, or what a template made for the caller.
var quotingFailure = regexp.MustCompile(`^(?:no such key: (.*)|logins gave (".*"): a login begins .*)$`)

// varsBefore are the names of the vars in which something failed.
var varsBefore = regexp.MustCompile(`^(vars\.[a-zA-Z0-9_]+: )+`)

// toldFailure is why something could not be evaluated, if that says nothing of anybody else.
func (a *asking) toldFailure(err error) string {
	text := varsBefore.ReplaceAllString(err.Error(), "")
	if safeFailure.MatchString(text) {
		return text
	}
	if found := quotingFailure.FindStringSubmatch(text); found != nil && a.brought(found[1], found[2]) {
		return text
	}
	return "what it asks for is not there, or not of the right form"
}

// brought says whether the caller brought a text itself, as failures show it: plain, or quoted.
func (a *asking) brought(plain, quoted string) bool {
	id, r := a.q.Identity, a.q.Request
	all := append([]string{id.Email, id.Subject, r.Login, a.host}, id.Groups...)
	for _, claim := range id.Claims {
		switch v := claim.(type) {
		case string:
			all = append(all, v)
		case []string:
			all = append(all, v...)
		}
	}
	return slices.ContainsFunc(all, func(own string) bool {
		return own != "" && (plainFailure(own) == plain || fmt.Sprintf("%.60q", own) == quoted)
	})
}
