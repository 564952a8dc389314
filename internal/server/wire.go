package server

import (
	"cmp"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ParseRequest reads the wire form of a request. The core calls it after the signature over these bytes was checked, and
// checks the values itself. Fields from a later version of the protocol are ignored.
func ParseRequest(signed []byte) (ca.Request, error) {
	var m pb.CertificateRequest
	if err := proto.Unmarshal(signed, &m); err != nil {
		return ca.Request{}, &ca.Error{Kind: ca.Invalid, Message: "request: not a CertificateRequest", Err: err}
	}
	key, err := ca.ParseSubjectKey(m.GetPublicKey())
	if err != nil {
		return ca.Request{}, err
	}
	r := ca.Request{
		PublicKey:  key,
		Login:      m.GetLogin(),
		Host:       m.GetHost(),
		Reason:     m.GetReason(),
		Rule:       m.GetRule(),
		BreakGlass: m.GetBreakGlass(),
		ServerName: m.GetServerName(),
	}
	if d := m.GetTtl(); d != nil {
		if r.TTL, err = parseTTL(d); err != nil {
			return ca.Request{}, err
		}
	}
	if r.ClientTime, err = parseTime("client_time", m.GetClientTime()); err != nil {
		return ca.Request{}, err
	}
	if len(m.GetNonce()) != len(r.Nonce) {
		return ca.Request{}, ca.Errorf(ca.Invalid, "nonce: %d bytes, want %d", len(m.GetNonce()), len(r.Nonce))
	}
	copy(r.Nonce[:], m.GetNonce())
	if r.TokenNonce, err = parseTokenNonce(m.GetTokenNonce()); err != nil {
		return ca.Request{}, err
	}
	return r, nil
}

// parseTTL reads a lifetime. Zero is not "none asked": that is an absent field.
func parseTTL(d *durationpb.Duration) (time.Duration, error) {
	if err := d.CheckValid(); err != nil {
		return 0, &ca.Error{Kind: ca.Invalid, Message: "ttl: not a duration", Err: err}
	}
	ttl := d.AsDuration()
	if ttl <= 0 || durationpb.New(ttl).GetSeconds() != d.GetSeconds() {
		return 0, ca.Errorf(ca.Invalid, "ttl: %d seconds is not a lifetime: leave it out, or ask for a positive one", d.GetSeconds())
	}
	return ttl, nil
}

func parseTime(field string, ts *timestamppb.Timestamp) (time.Time, error) {
	if ts == nil {
		return time.Time{}, ca.Errorf(ca.Invalid, "%s: missing", field)
	}
	if err := ts.CheckValid(); err != nil {
		return time.Time{}, &ca.Error{Kind: ca.Invalid, Message: field + ": not a time", Err: err}
	}
	return ts.AsTime(), nil
}

func parseTokenNonce(b []byte) ([]byte, error) {
	if len(b) != 0 && len(b) != 32 {
		return nil, ca.Errorf(ca.Invalid, "token_nonce: %d bytes, want 32 or none", len(b))
	}
	return b, nil
}

// policyRef puts a policy's name on the wire.
func policyRef(ref ca.PolicyRef) *pb.PolicyRef {
	if ref == (ca.PolicyRef{}) {
		return nil
	}
	return &pb.PolicyRef{Digest: ref.Digest[:], Revision: ref.Revision, Dirty: ref.Dirty}
}

// decision puts a decision on the wire, as far as the caller may see it.
func decision(d ca.Decision) *pb.Decision {
	out := &pb.Decision{
		Outcome:     outcomes[d.Outcome],
		Rule:        d.Rule,
		Environment: d.Environment.Name,
		Message:     d.Message,
	}
	for _, need := range d.Needs {
		n := &pb.Need{Kind: needKinds[need.Kind]}
		if need.LoginWithin > 0 {
			n.LoginWithin = durationpb.New(need.LoginWithin)
		}
		out.Needs = append(out.Needs, n)
	}
	for _, f := range d.Failed {
		out.Failed = append(out.Failed, &pb.FailedRule{Rule: f.Rule, Message: cmp.Or(f.Told, "it could not be evaluated")})
	}
	return out
}

// maxExplanation is how large an explanation may be that travels with an error, in bytes. Errors travel in trailers, where proxies
// take 4 or 8 KB in all.
const maxExplanation = 2 << 10

// explanation puts an explanation on the wire.
func explanation(x *ca.Explanation) *pb.Explanation {
	if x == nil {
		return nil
	}
	out := &pb.Explanation{
		Reason: wireText(x.Reason), MoreRules: uint32(x.MoreRules), Missing: wireTexts(x.Missing), Next: wireText(x.Next), Ask: wireText(x.Ask),
	}
	for _, r := range x.Rules {
		out.Rules = append(out.Rules, &pb.ExplainedRule{
			Name: wireText(r.Name), Deny: r.Deny, Owner: wireText(r.Owner), Message: wireText(r.Message), Lacks: wireTexts(r.Lacks),
		})
	}
	return out
}

// boundedExplanation is one that fits into an error: what is least needed goes first. It is nil if that does not do.
func boundedExplanation(x *ca.Explanation) *pb.Explanation {
	out := explanation(x)
	for out != nil && proto.Size(out) > maxExplanation {
		switch n := len(out.GetRules()); {
		case n > 1:
			out.Rules, out.MoreRules = out.Rules[:n-1], out.MoreRules+1
		case len(out.GetMissing()) > 0 && out.GetNext() == "":
			out.Missing = nil
		case n == 1:
			out.Rules, out.MoreRules = nil, out.MoreRules+1
		default:
			return nil
		}
	}
	return out
}

func wireTexts(texts []string) []string {
	var out []string
	for _, s := range texts {
		out = append(out, wireText(s))
	}
	return out
}

// wireText is a text that a message can hold: hosts and logins that were refused may be anything.
func wireText(s string) string { return strings.ToValidUTF8(s, "?") }

var outcomes = map[ca.Outcome]pb.Outcome{
	ca.Allow:     pb.Outcome_OUTCOME_ALLOW,
	ca.Deny:      pb.Outcome_OUTCOME_DENY,
	ca.NeedsMore: pb.Outcome_OUTCOME_NEEDS,
}

var needKinds = map[ca.NeedKind]pb.NeedKind{
	ca.NeedReason:     pb.NeedKind_NEED_KIND_REASON,
	ca.NeedFreshLogin: pb.NeedKind_NEED_KIND_FRESH_LOGIN,
}
