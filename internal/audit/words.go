package audit

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxText is the length of the longest text in a record, in bytes. What was granted is far shorter; what was refused may hold
	// anything.
	maxText = 4096
	// maxFailed is how many rules that failed are told of in a record. A policy may have thousands.
	maxFailed = 10
)

// Decided is the event of an attempt. The to-be-signed bytes are those of a grant, nil for a refusal.
func Decided(a *ca.Attempt, snapshot [32]byte, toBeSigned []byte) *Event {
	d := &pb.Decided{
		Caller:     Caller(a.Caller.Identity, snapshot),
		Token:      tokenToProto(a.Caller.Token),
		Asked:      askedToProto(a.Request),
		DecidedAt:  timestamp(a.Now),
		ToBeSigned: toBeSigned,
		Refusal:    Refusal(a.Refusal),
		Proven:     a.Proven,
	}
	if d.Policy = Policy(a.Policy); d.Policy != nil {
		d.Decision = decisionToProto(a.Decision)
		d.Lists, d.Fetched = fetched(a.Lists)
	}
	if a.Refusal == nil {
		d.Authority = Text(a.Authority)
	}
	d.Review = reviewToProto(a)
	return &Event{Event: &pb.Record_Decided{Decided: d}}
}

// Recorded returns what a Decided record that Parse returned says of its attempt.
func Recorded(r *pb.Record) *ca.Recorded {
	d := r.GetDecided()
	out := &ca.Recorded{
		Index:      r.GetIndex(),
		Issuer:     d.GetCaller().GetIssuer(),
		Subject:    d.GetCaller().GetSubject(),
		Authority:  d.GetAuthority(),
		ToBeSigned: d.GetToBeSigned(),
		Policy:     policyFromProto(d.GetPolicy()),
		Decision: ca.Decision{
			Outcome:     ca.Outcome(d.GetDecision().GetOutcome()), // the numbers are the same, as a test shows
			Rule:        d.GetDecision().GetRule(),
			Message:     d.GetDecision().GetMessage(),
			Environment: ca.Environment{Name: d.GetDecision().GetEnvironment()},
		},
	}
	out.Review = reviewFromProto(d)
	copy(out.Digest[:], d.GetAsked().GetDigest())
	for _, n := range d.GetDecision().GetNeeds() {
		out.Decision.Needs = append(out.Decision.Needs, ca.Need{Kind: ca.NeedKind(n.GetKind()), LoginWithin: n.GetLoginWithin().AsDuration()})
	}
	for _, f := range d.GetDecision().GetFailed() {
		out.Decision.Failed = append(out.Decision.Failed, ca.FailedRule{Rule: f.GetRule(), Message: f.GetMessage()})
	}
	if refusal := d.GetRefusal(); refusal != nil {
		out.Refusal = &ca.Error{Kind: kindFromProto(refusal.GetKind()), Message: refusal.GetMessage()}
		if out.Refusal.Kind == ca.Needs {
			out.Refusal.Needs = out.Decision.Needs
		}
	}
	return out
}

// StrangersCounted is the event of calls that no identity stands behind.
func StrangersCounted(from, to time.Time, counts map[string]uint64) *Event {
	e := &pb.StrangersCounted{From: timestamp(from), To: timestamp(to)}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		e.Counts = append(e.Counts, &pb.Count{Name: Text(name), Count: counts[name]})
	}
	return &Event{Event: &pb.Record_StrangersCounted{StrangersCounted: e}}
}

// SignInBound is the event that a caller's token was shown to belong to a key.
func SignInBound(caller *pb.Caller, t ca.Token, key [32]byte) *Event {
	return &Event{Event: &pb.Record_SignInBound{SignInBound: &pb.SignInBound{Caller: caller, Token: tokenToProto(t), Key: key[:]}}}
}

// RefusalsCounted is the event of requests of one caller that were above the rate limit.
func RefusalsCounted(caller *pb.Caller, from, to time.Time, n uint64) *Event {
	return &Event{Event: &pb.Record_RefusalsCounted{RefusalsCounted: &pb.RefusalsCounted{
		Caller: caller, From: timestamp(from), To: timestamp(to), Count: n,
	}}}
}

// Caller is how a record names who asked.
func Caller(id ca.Identity, snapshot [32]byte) *pb.Caller {
	return &pb.Caller{Issuer: Text(id.Issuer), Subject: Text(id.Subject), Kind: pb.CallerKind(id.Kind), Snapshot: snapshot[:]}
}

// Policy is how a record names a policy; nil for none.
func Policy(p ca.PolicyRef) *pb.PolicyRef {
	if p == (ca.PolicyRef{}) {
		return nil
	}
	return &pb.PolicyRef{Digest: p.Digest[:], Revision: Text(p.Revision), Dirty: p.Dirty}
}

// Commit is how a record tells of a commit, in whose texts anything may be; nil for nil.
func Commit(c *pb.Commit) *pb.Commit {
	if c == nil {
		return nil
	}
	const most = 500 // bytes: a commit is told of, not copied
	short := func(s string) string {
		if len(s) > most {
			s = s[:most] + "..."
		}
		return Text(s)
	}
	return &pb.Commit{
		Author: short(c.GetAuthor()), Time: c.GetTime(), Subject: short(c.GetSubject()), Signer: short(c.GetSigner()), SigningKey: short(c.GetSigningKey()),
	}
}

// Refusal is how a record holds an error; nil for nil. The cause stays out: it may name what only the daemon's log may.
func Refusal(e *ca.Error) *pb.Refusal {
	if e == nil {
		return nil
	}
	return &pb.Refusal{Kind: kindToProto(e.Kind), Message: Text(e.Message)}
}

func tokenToProto(t ca.Token) *pb.TokenFacts {
	return &pb.TokenFacts{
		Digest:    t.Digest[:],
		Bound:     t.Bound,
		AuthTime:  timestamp(t.AuthTime),
		IssuedAt:  timestamp(t.IssuedAt),
		ExpiresAt: timestamp(t.Expires),
	}
}

func askedToProto(r ca.Request) *pb.Asked {
	out := &pb.Asked{
		Digest:     r.Digest[:],
		Login:      Text(r.Login),
		Host:       Text(r.Host),
		Reason:     Text(r.Reason),
		Rule:       Text(r.Rule),
		BreakGlass: r.BreakGlass,
		ClientTime: timestamp(r.ClientTime),
	}
	if r.PublicKey != nil {
		digest := sha256.Sum256(r.PublicKey.Marshal())
		out.Key, out.KeyType, out.Nonce = digest[:], r.PublicKey.Type(), r.Nonce[:]
	}
	if r.TTL != 0 {
		out.Ttl = durationpb.New(r.TTL)
	}
	if r.SourceIP.IsValid() {
		out.SourceIp = r.SourceIP.String()
	}
	return out
}

func decisionToProto(d ca.Decision) *pb.Decision {
	out := &pb.Decision{
		Outcome:     pb.Outcome(d.Outcome),
		Rule:        Text(d.Rule),
		Environment: Text(d.Environment.Name),
		Message:     Text(d.Message),
	}
	for _, n := range d.Needs {
		need := &pb.Need{Kind: pb.NeedKind(n.Kind)}
		if n.LoginWithin != 0 {
			need.LoginWithin = durationpb.New(n.LoginWithin)
		}
		out.Needs = append(out.Needs, need)
	}
	for i, f := range d.Failed {
		if i == maxFailed {
			out.Failed = append(out.Failed, &pb.FailedRule{Message: fmt.Sprintf("and %d more", len(d.Failed)-i)})
			break
		}
		out.Failed = append(out.Failed, &pb.FailedRule{Rule: Text(f.Rule), Message: Text(f.Message)})
	}
	return out
}

var kinds = map[ca.Kind]pb.ErrorKind{
	ca.Invalid:         pb.ErrorKind_ERROR_KIND_INVALID,
	ca.Unauthenticated: pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED,
	ca.Denied:          pb.ErrorKind_ERROR_KIND_DENIED,
	ca.Needs:           pb.ErrorKind_ERROR_KIND_NEEDS,
	ca.NotFound:        pb.ErrorKind_ERROR_KIND_NOT_FOUND,
	ca.Conflict:        pb.ErrorKind_ERROR_KIND_CONFLICT,
	ca.Exhausted:       pb.ErrorKind_ERROR_KIND_EXHAUSTED,
	ca.Unavailable:     pb.ErrorKind_ERROR_KIND_UNAVAILABLE,
}

func kindToProto(k ca.Kind) pb.ErrorKind {
	if p, ok := kinds[k]; ok {
		return p
	}
	return pb.ErrorKind_ERROR_KIND_INTERNAL
}

func kindFromProto(p pb.ErrorKind) ca.Kind {
	for k, candidate := range kinds {
		if candidate == p {
			return k
		}
	}
	return ca.Internal
}

// Text makes s fit a record: valid UTF-8 of bounded length. A refusal must not go unrecorded for what somebody put into it.
func Text(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// timestamp is nil for no time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
