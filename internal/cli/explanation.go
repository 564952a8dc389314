package cli

import (
	"fmt"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// explanationJSON is what a refused caller is told.
type explanationJSON struct {
	Reason    string              `json:"reason"`
	Rules     []explainedRuleJSON `json:"rules"`
	MoreRules uint32              `json:"more_rules"`
	// Missing is what would make it a yes; all of it, if Next is a command.
	Missing []string `json:"missing"`
	Next    string   `json:"next"`
	Ask     string   `json:"ask"`
}

type explainedRuleJSON struct {
	Name string `json:"name"`
	// Kind is "allow" or "deny".
	Kind    string   `json:"kind"`
	Owner   string   `json:"owner,omitempty"`
	Message string   `json:"message,omitempty"`
	Lacks   []string `json:"lacks"`
}

// newExplanationJSON is nil for none.
func newExplanationJSON(x *pb.Explanation) *explanationJSON {
	if x == nil {
		return nil
	}
	out := &explanationJSON{
		Reason: x.GetReason(), Rules: []explainedRuleJSON{}, MoreRules: x.GetMoreRules(), Missing: append([]string{}, x.GetMissing()...),
		Next: x.GetNext(), Ask: x.GetAsk(),
	}
	for _, r := range x.GetRules() {
		out.Rules = append(out.Rules, explainedRuleJSON{
			Name: r.GetName(), Kind: kindOfRule(r), Owner: r.GetOwner(), Message: r.GetMessage(), Lacks: append([]string{}, r.GetLacks()...),
		})
	}
	return out
}

func kindOfRule(r *pb.ExplainedRule) string {
	if r.GetDeny() {
		return "deny"
	}
	return "allow"
}

// explain shows why a request was refused: the rules, what is missing, and whom to ask if that is not the hint. What the reason says
// of the rule that decided is not said again.
func (a *app) explain(x *pb.Explanation, decided string) {
	for i, r := range x.GetRules() {
		line := r.GetName()
		if r.GetOwner() != "" {
			line += ", of " + r.GetOwner()
		}
		lacks := strings.Join(r.GetLacks(), "; ")
		if r.GetName() != decided || r.GetDeny() {
			line += colon(lacks)
		}
		if r.GetDeny() && r.GetName() != decided {
			line += colon(r.GetMessage())
		}
		name := "rule"
		if i > 0 {
			name = ""
		}
		a.fact(name, line)
	}
	if n := x.GetMoreRules(); n > 0 {
		a.fact("", fmt.Sprintf("(and %s)", plural(int(n), "more rule")))
	}
	if x.GetNext() == "" {
		return
	}
	for i, missing := range x.GetMissing() {
		name := "needed"
		if i > 0 {
			name = ""
		}
		a.fact(name, missing)
	}
	a.fact("ask", x.GetAsk())
}

// colon is ": TEXT", if there is a text.
func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// hintOf is what an explanation advises: what to type, or whom to ask.
func hintOf(x *pb.Explanation, q ask, record string) string {
	if x.GetNext() != "" {
		return strings.ReplaceAll(x.GetNext(), "hallpass cert ", q.command+" ")
	}
	hint := "ask " + x.GetAsk()
	if record != "" {
		hint += fmt.Sprintf("; an auditor sees why: hallpass why record:%s", record)
	}
	return hint
}
