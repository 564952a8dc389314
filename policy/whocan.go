package policy

import (
	"cmp"
	"context"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Access is what somebody gets. Its JSON names are stable.
type Access struct {
	// Identity is the email, or the subject.
	Identity string `json:"identity"`
	Issuer   string `json:"issuer,omitempty"`
	Subject  string `json:"subject"`
	// Outcome is "allow", "deny" or "needs".
	Outcome string `json:"outcome"`
	// Rule is the rule that decided; empty if none did.
	Rule string `json:"rule"`
	// TTL is the lifetime granted, in seconds; zero if none is.
	TTL int64 `json:"ttl_seconds"`
	// Needs is what is still missing, for "needs".
	Needs []string `json:"needs"`
	// Message is what the caller would be told.
	Message string `json:"message"`
}

// WhoCan asks the same for each of many callers, whose identities and tokens take the place of those of q. It returns what each
// gets, in their order; one whose claims are not of the declared types is refused. Its error is that of ctx.
func (p *Policy) WhoCan(ctx context.Context, q ca.Question, callers []ca.Caller) ([]Access, error) {
	out := make([]Access, 0, len(callers))
	for _, who := range callers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		access := Access{
			Identity: cmp.Or(who.Identity.Email, who.Identity.Subject), Issuer: who.Identity.Issuer, Subject: who.Identity.Subject,
			Needs: []string{},
		}
		id, err := p.Declare(who)
		if err != nil {
			access.Outcome, access.Message = outcomeWords[ca.Deny], err.Error()
			out = append(out, access)
			continue
		}
		q.Identity, q.Token = id, who.Token
		d := p.Decide(ctx, q)
		access.Outcome, access.Rule, access.TTL, access.Message = outcomeWords[d.Outcome], d.Rule, int64(d.TTL/time.Second), d.Message
		for _, need := range d.Needs {
			access.Needs = append(access.Needs, needWords(need))
		}
		out = append(out, access)
	}
	return out, nil
}

// needWords says what a need is.
func needWords(need ca.Need) string {
	if need.Kind == ca.NeedFreshLogin {
		return "a sign-in within the last " + shortDuration(need.LoginWithin)
	}
	return "a reason"
}
