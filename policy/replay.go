package policy

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Past is a recorded decision, with all that it depended on, and the policy that made it.
type Past struct {
	Question ca.Question
	Recorded *ca.Recorded
	// Policy is the one that the record cites.
	Policy *Policy
	// Engine evaluated it then; empty if that is not known.
	Engine string
}

// Replayed is what came of asking a proposed policy what was asked before.
type Replayed struct {
	// Differences, if there are any, say what the record's own policy does not say again. An alarm: a mistake in a program, or a
	// log that somebody changed.
	Differences []Difference
	// Skipped says why nothing can be said about the proposed policy; nil if something can.
	Skipped *Skip
	// Change is what the proposed policy would do otherwise; nil for nothing.
	Change *Change
	Review ReplayedReview
}

// ReplayedReview says whether a decision asked for a review, and whether it would under the proposed policy.
type ReplayedReview struct {
	Before, After bool
	// Unknown says that the proposed policy wants to know more of the past than was recorded.
	Unknown bool
}

// Skip is why a decision is not compared. Its JSON names are stable.
type Skip struct {
	// Reason is one of the words below.
	Reason SkipReason `json:"reason"`
	// Detail says more: the claim, the policy, the engine; empty if there is no more to say.
	Detail string `json:"detail"`
}

// SkipReason is a word for programs.
type SkipReason string

// The reasons.
const (
	// SkipNotAsked: the request was refused before a policy came to a decision.
	SkipNotAsked SkipReason = "not_asked"
	// SkipErased: what the policy saw of the caller was erased on request.
	SkipErased SkipReason = "inputs_erased"
	// SkipUnread: the record is of a form that this program does not read. Detail says what is wrong with it.
	SkipUnread SkipReason = "record_unreadable"
	// SkipPolicy: the record's own policy is not there any more, or does not compile in this version. Detail names it.
	SkipPolicy SkipReason = "policy_not_reproducible"
	// SkipEngine: another version of the expression engine decided, and this one comes to something else. Detail names it.
	SkipEngine SkipReason = "other_engine"
	// SkipClaim: the proposed policy declares a claim that the policy of then did not, or as another type. Detail is its name.
	SkipClaim SkipReason = "claim_not_recorded"
	// SkipCeiling: the policy allowed it and the core did not, for what the log does not tell, such as the size of a refused key.
	SkipCeiling SkipReason = "refused_by_ceiling"
	// SkipSlow: the policy ran out of time, then or now. Another time it need not.
	SkipSlow SkipReason = "out_of_time"
)

// ChangeKind says whether somebody gains or loses.
type ChangeKind string

// The kinds of changes.
const (
	// Gains: refused then, allowed by the proposed policy.
	Gains ChangeKind = "gains"
	// Loses: allowed then, refused by the proposed policy, or something more is needed.
	Loses ChangeKind = "loses"
	// Regrants: allowed by both, but not the same.
	Regrants ChangeKind = "grant"
	// Refuses: refused by both, but for another reason, or something is needed and not the same.
	Refuses ChangeKind = "refusal"
)

// Change is one decision that would come out otherwise.
type Change struct {
	Kind          ChangeKind
	Before, After ca.Decision
	// Differences are those of two grants.
	Differences []Difference
}

// Replay asks p, a proposed policy, what was asked before. First it makes the decision again with the policy that made it, which
// must come to what the record says. Its error is that of ctx.
//
// Nothing is assumed. Claims that were not recorded could have had any value, so that such a decision is not compared.
func (p *Policy) Replay(ctx context.Context, past Past) (Replayed, error) {
	then := past.Policy.Reproduce(ctx, past.Question, past.Recorded)
	if err := ctx.Err(); err != nil {
		return Replayed{}, err
	}
	switch {
	case then.Result == NotAsked:
		return Replayed{Skipped: &Skip{Reason: SkipNotAsked}}, nil
	case ranOut(then.Decision) || ranOut(past.Recorded.Decision):
		return Replayed{Skipped: &Skip{Reason: SkipSlow}}, nil
	case then.Result == Different && past.Engine != "" && past.Engine != Engine:
		return Replayed{Skipped: &Skip{SkipEngine, past.Engine}}, nil
	case then.Result == Different:
		return Replayed{Differences: then.Differences}, nil
	case past.Recorded.Refusal != nil && then.Decision.Outcome == ca.Allow:
		return Replayed{Skipped: &Skip{Reason: SkipCeiling}}, nil
	}
	if name := p.unrecorded(past.Policy, past.Question.Identity); name != "" {
		return Replayed{Skipped: &Skip{SkipClaim, name}}, nil
	}
	after := p.Decide(ctx, past.Question)
	if err := ctx.Err(); err != nil {
		return Replayed{}, err
	}
	if ranOut(after) {
		return Replayed{Skipped: &Skip{Reason: SkipSlow}}, nil
	}
	holdKey(&after, past.Question, past.Recorded.ToBeSigned)
	return Replayed{Change: changeOf(then.Decision, after), Review: p.replayReview(ctx, past, after)}, nil
}

// replayReview asks the review rules about what the decision would be.
func (p *Policy) replayReview(ctx context.Context, past Past, after ca.Decision) ReplayedReview {
	was := past.Recorded.Review
	out := ReplayedReview{Before: was != nil && len(was.Rules) > 0}
	if len(p.review) == 0 {
		return out
	}
	s := ca.Settled{Question: past.Question, Decision: after, Refusal: refusalOf(after)}
	if was != nil {
		s.History = was.History
	}
	if after.Outcome != ca.Allow {
		s.History.FirstUse = new(false)
	} else if after.Rule != past.Recorded.Decision.Rule {
		s.History.FirstUse = nil // it is of another rule
	}
	if p.wants.FirstUse && s.History.FirstUse == nil || p.wants.Refusals && s.History.Refused == nil {
		out.Unknown = true
		return out
	}
	out.After = len(p.Review(ctx, s).Rules) > 0
	return out
}

// unrecorded returns a claim that p declares and that was not recorded under the policy then; empty if there is none.
func (p *Policy) unrecorded(then *Policy, id ca.Identity) string {
	for _, d := range p.claims {
		i, declared := slices.BinarySearchFunc(then.claims, d.name, func(c claim, name string) int { return strings.Compare(c.name, name) })
		if !declared || then.claims[i].typ != d.typ {
			return d.name
		}
		if value, ok := id.Claims[d.name]; ok && !d.holds(value) {
			return d.name
		}
	}
	return ""
}

// ranOut says whether an expression of a decision had no time left.
func ranOut(d ca.Decision) bool {
	return slices.ContainsFunc(d.Failed, func(f ca.FailedRule) bool { return f.Message == errSlow.Error() })
}

// holdKey refuses what the core would refuse for the key, as far as the log tells of it: of a refused request no more than the
// type, of a grant all.
func holdKey(d *ca.Decision, q ca.Question, toBeSigned []byte) {
	if d.Outcome != ca.Allow || q.Request.PublicKey == nil {
		return
	}
	refuse := func(format string, args ...any) {
		*d = ca.Decision{Outcome: ca.Deny, Environment: d.Environment, Limits: d.Limits, Message: fmt.Sprintf(format, args...)}
	}
	name := keyType(q.Request.PublicKey)
	i := slices.IndexFunc(d.Limits.Keys, func(k ca.KeyRule) bool { return k.Type == name })
	switch {
	case i < 0:
		refuse("the policy does not allow keys of type %s", name)
	case d.Grant.VerifyRequired && !strings.HasPrefix(name, "sk-"):
		refuse("the rule asks for a key on a security key that verifies its user, and this is none")
	case name == "rsa":
		if bits := modulusBits(toBeSigned); bits > 0 && bits < d.Limits.Keys[i].MinBits {
			refuse("the policy does not allow RSA keys of %d bits", bits)
		}
	}
}

// modulusBits is the size of the RSA key in a certificate that is to be signed; 0 if it holds none.
func modulusBits(toBeSigned []byte) int {
	var cert struct {
		Type  string
		Nonce []byte
		E, N  *big.Int
		Rest  []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(toBeSigned, &cert); err != nil || cert.N == nil {
		return 0
	}
	return cert.N.BitLen()
}

// changeOf compares two decisions about the same question.
func changeOf(before, after ca.Decision) *Change {
	c := &Change{Before: before, After: after}
	switch was, is := before.Outcome == ca.Allow, after.Outcome == ca.Allow; {
	case is && !was:
		c.Kind = Gains
	case was && !is:
		c.Kind = Loses
	case was && is:
		c.Kind, c.Differences = Regrants, grantDifferences(before, after)
		if before.Rule == after.Rule && len(c.Differences) == 0 {
			return nil
		}
	default:
		c.Kind = Refuses
		if before.Outcome == after.Outcome && before.Rule == after.Rule && before.Environment.Name == after.Environment.Name &&
			needsWords(before.Needs) == needsWords(after.Needs) {
			return nil
		}
	}
	return c
}

// grantDifferences says how the certificates of two grants would differ.
func grantDifferences(before, after ca.Decision) []Difference {
	var out []Difference
	compare := func(what, was, is string) {
		if was != is {
			out = append(out, Difference{what, was, is})
		}
	}
	compare("ttl", shortDuration(before.TTL.Round(time.Second)), shortDuration(after.TTL.Round(time.Second)))
	compare("environment", before.Environment.Name, after.Environment.Name)
	compare("authority", before.Environment.Authority, after.Environment.Authority)
	was, is := before.Grant, after.Grant
	compare("scope", scopeWord(was.Scope), scopeWord(is.Scope)) // with the environment it says all of the principal
	compare("extensions", extensionWords(was.Extensions), extensionWords(is.Extensions))
	compare("force_command", was.ForceCommand, is.ForceCommand)
	compare("source_address", sourceWords(was), sourceWords(is))
	compare("verify_required", fmt.Sprint(was.VerifyRequired), fmt.Sprint(is.VerifyRequired))
	return out
}

func scopeWord(s ca.Scope) string {
	for word, scope := range scopes {
		if scope == s {
			return word
		}
	}
	return ""
}

func extensionWords(all []ca.Extension) string {
	var words []string
	for _, e := range all {
		words = append(words, string(e))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func sourceWords(g ca.Grant) string {
	var words []string
	for _, p := range g.SourceAddresses {
		words = append(words, p.String())
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
