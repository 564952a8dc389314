package audit

import (
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Facts returns what follows from a record that Parse returned; see Fact. Those of one record have distinct keys, but for
// rules that write nothing.
func Facts(r *pb.Record) ([]Fact, error) {
	switch e := r.GetEvent().(type) {
	case *pb.Record_Genesis:
		return []Fact{{Key: []byte(LogFact), Value: []byte(e.Genesis.GetLogId()), Rule: New}}, nil
	case *pb.Record_AuthorityKeyListed:
		l := e.AuthorityKeyListed
		return []Fact{{Key: AuthorityFact(l.GetAuthority(), l.GetPublicKey()), Value: []byte(listed), Rule: Set}}, nil
	case *pb.Record_PolicyLoaded:
		ref := PolicyValue(policyFromProto(e.PolicyLoaded.GetPolicy()))
		return []Fact{
			{Key: []byte(PolicyFact), Value: ref, Rule: Set},
			{Key: []byte(EngineFact), Value: []byte(e.PolicyLoaded.GetEngine()), Rule: Set},
			{Key: RevisionFact(r.GetIndex()), Value: ref, Rule: New},
			{Key: []byte(RefusedFact), Value: []byte{}, Rule: Set},
		}, nil
	case *pb.Record_PolicyRefused:
		return []Fact{{Key: []byte(RefusedFact), Value: refusedValue(e.PolicyRefused.GetRevision(), e.PolicyRefused.GetFault()), Rule: Set}}, nil
	case *pb.Record_PolicyAccepted:
		a := e.PolicyAccepted
		word := Fact{Key: AcceptedFact(a.GetRevision()), Value: PolicyValue(policyFromProto(a.GetPrevious())), Rule: Set}
		return append(callerFacts(a.GetCaller()), word), nil
	case *pb.Record_Decided:
		return decidedFacts(e.Decided, r.GetIndex())
	case *pb.Record_RefusalsCounted:
		return callerFacts(e.RefusalsCounted.GetCaller()), nil
	case *pb.Record_AccessRefused:
		return callerFacts(e.AccessRefused.GetCaller()), nil
	case *pb.Record_SignInBound:
		b := e.SignInBound
		bound := boundFact(b.GetCaller(), b.GetToken(), b.GetKey())
		return append(callerFacts(b.GetCaller()), bound), nil
	case *pb.Record_Restored:
		return []Fact{{Key: RestoreFact(r.GetEpoch()), Value: []byte(e.Restored.GetStatement()), Rule: New}}, nil
	case *pb.Record_IdentityErased:
		return append(callerFacts(e.IdentityErased.GetCaller()), erasedFacts(e.IdentityErased, r.GetIndex())...), nil
	case *pb.Record_BackupTaken:
		return callerFacts(e.BackupTaken.GetCaller()), nil
	case *pb.Record_Archived:
		return []Fact{{Key: ArchivedFact(e.Archived.GetBefore()), Value: number(r.GetIndex()), Rule: New}}, nil
	case *pb.Record_Reviewed:
		return reviewedFacts(e.Reviewed, r.GetIndex()), nil
	case *pb.Record_SignatureFailed, *pb.Record_StrangersCounted:
		return nil, nil
	}
	return nil, fmt.Errorf("record %d: an event of an unknown kind", r.GetIndex())
}

// callerFacts say what was last known of a caller.
func callerFacts(c *pb.Caller) []Fact {
	return []Fact{{Key: SnapshotFact(c.GetIssuer(), c.GetSubject()), Value: c.GetSnapshot(), Rule: Set}}
}

func decidedFacts(d *pb.Decided, index uint64) ([]Fact, error) {
	c, token, asked := d.GetCaller(), d.GetToken(), d.GetAsked()
	facts := append(callerFacts(c), reviewFacts(d, index)...)
	if !d.GetProven() {
		return facts, nil
	}
	facts = append(facts, Fact{
		Key:     NonceFact(c.GetIssuer(), c.GetSubject(), asked.GetNonce()),
		Value:   number(index),
		Rule:    New,
		Expires: wholeSeconds(asked.GetClientTime(), nonceMemory),
	})
	switch workload := c.GetKind() == pb.CallerKind_CALLER_KIND_WORKLOAD; {
	case workload || !token.GetBound():
		f := Fact{Key: TokenFact(token.GetDigest()), Value: asked.GetKey(), Rule: Same, Expires: wholeSeconds(token.GetExpiresAt(), tokenMemory)}
		if workload {
			f.Rule = New
		}
		facts = append(facts, f)
	case token.GetAuthTime() != nil:
		facts = append(facts, boundFact(c, token, asked.GetKey()))
	}
	if len(d.GetToBeSigned()) == 0 {
		return facts, nil
	}
	_, authority, err := ca.ReadToBeSigned(d.GetToBeSigned())
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", index, err)
	}
	return append(facts,
		Fact{Key: UsedFact(d.GetDecision().GetRule()), Value: []byte{}, Rule: Set},
		Fact{Key: []byte(PolicyFact), Value: PolicyValue(policyFromProto(d.GetPolicy())), Rule: Holds},
		Fact{Key: AuthorityFact(d.GetAuthority(), authority), Value: []byte(listed), Rule: Holds},
	), nil
}

// boundFact says that a sign-in, told by its auth_time, belongs to a key. It is the same in each record of the sign-in, so that it
// is written once.
func boundFact(c *pb.Caller, token *pb.TokenFacts, key []byte) Fact {
	prefix := BoundPrefix(c.GetIssuer(), c.GetSubject(), token.GetAuthTime().AsTime())
	return Fact{Key: append(prefix, key...), Value: []byte{}, Rule: Set}
}

// wholeSeconds is later than ts by d, rounded up.
func wholeSeconds(ts *timestamppb.Timestamp, d time.Duration) time.Time {
	return ts.AsTime().Add(d + time.Second - 1).Truncate(time.Second)
}

// IsListed says whether value is that of an AuthorityFact whose CA key may sign.
func IsListed(value []byte) bool { return string(value) == listed }

func policyFromProto(p *pb.PolicyRef) ca.PolicyRef {
	ref := ca.PolicyRef{Revision: p.GetRevision(), Dirty: p.GetDirty()}
	copy(ref.Digest[:], p.GetDigest())
	return ref
}

// PolicyRef reads how a record names a policy; the reverse of Policy.
func PolicyRef(p *pb.PolicyRef) ca.PolicyRef { return policyFromProto(p) }
