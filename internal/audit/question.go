package audit

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ErrErased says that what a decision depended on was erased on request. Whether the policy would decide the same cannot be told.
var ErrErased = errors.New("inputs erased")

// Question returns what the policy was asked in a Decided record that Parse returned: every input, from the log alone. The snapshot
// is the blob that the caller of the record cites, nil if it was erased; lists the one that its lists cite, nil if it cites none.
//
// Of the key, a policy knows no more than its type, and of a refused request the log has no more.
func Question(d *pb.Decided, snapshot, lists []byte) (ca.Question, error) {
	id, err := CitedIdentity(d.GetCaller(), snapshot)
	if errors.Is(err, ErrErased) {
		return ca.Question{}, err
	}
	if err != nil {
		return ca.Question{}, fmt.Errorf("read the inputs of a decision: %w", err)
	}
	return QuestionOf(id, d, lists)
}

// QuestionOf is Question for a caller whose snapshot was read before.
func QuestionOf(id ca.Identity, d *pb.Decided, lists []byte) (ca.Question, error) {
	q := ca.Question{Identity: id, Now: goTime(d.GetDecidedAt())}
	if err := CheckCaller(d.GetCaller(), id); err != nil {
		return q, fmt.Errorf("read the inputs of a decision: %w", err)
	}
	var err error
	if q.Lists, err = listsOf(d, lists); err != nil {
		return q, fmt.Errorf("read the inputs of a decision: %w", err)
	}
	t := d.GetToken()
	q.Token = ca.Token{
		Bound: t.GetBound(), AuthTime: goTime(t.GetAuthTime()), IssuedAt: goTime(t.GetIssuedAt()), Expires: goTime(t.GetExpiresAt()),
	}
	copy(q.Token.Digest[:], t.GetDigest())
	asked := d.GetAsked()
	q.Request = ca.Request{
		Login: asked.GetLogin(), Host: asked.GetHost(), TTL: asked.GetTtl().AsDuration(), Reason: asked.GetReason(), Rule: asked.GetRule(),
		BreakGlass: asked.GetBreakGlass(), ClientTime: goTime(asked.GetClientTime()),
	}
	copy(q.Request.Digest[:], asked.GetDigest())
	copy(q.Request.Nonce[:], asked.GetNonce())
	if asked.GetKeyType() != "" {
		q.Request.PublicKey = ca.DescribedKey(asked.GetKeyType())
	}
	if ip := asked.GetSourceIp(); ip != "" {
		if q.Request.SourceIP, err = netip.ParseAddr(ip); err != nil {
			return q, fmt.Errorf("read the inputs of a decision: %w", err)
		}
	}
	return q, nil
}

// CitedIdentity reads the identity that a caller cites. The snapshot is what the log has under that digest; nil is ErrErased.
func CitedIdentity(c *pb.Caller, snapshot []byte) (ca.Identity, error) {
	if snapshot == nil {
		return ca.Identity{}, ErrErased
	}
	if digest := Digest(snapshot); string(digest[:]) != string(c.GetSnapshot()) {
		return ca.Identity{}, errors.New("the identity snapshot is not the one that the record cites")
	}
	return Identity(snapshot)
}

// CheckCaller says whether a record cites the identity of its caller.
func CheckCaller(c *pb.Caller, id ca.Identity) error {
	if c.GetIssuer() != id.Issuer || c.GetSubject() != id.Subject || ca.CallerKind(c.GetKind()) != id.Kind {
		return fmt.Errorf("its caller is %q of %q, and the identity that it cites is that of %q of %q", c.GetSubject(), c.GetIssuer(), id.Subject, id.Issuer)
	}
	return nil
}

// Identity is the reverse of Snapshot: what a policy saw of an identity.
func Identity(snapshot []byte) (ca.Identity, error) {
	s := &pb.IdentitySnapshot{}
	if err := proto.Unmarshal(snapshot, s); err != nil {
		return ca.Identity{}, fmt.Errorf("read identity snapshot: %w", err)
	}
	id := ca.Identity{
		Issuer: s.GetIssuer(), Subject: s.GetSubject(), Kind: ca.CallerKind(s.GetKind()), Email: s.GetEmail(), Groups: s.GetGroups(),
		Claims: map[string]any{},
	}
	for _, c := range s.GetClaims() {
		switch v := c.GetValue().(type) {
		case *pb.Claim_Bool:
			id.Claims[c.GetName()] = v.Bool
		case *pb.Claim_Int:
			id.Claims[c.GetName()] = v.Int
		case *pb.Claim_String_:
			id.Claims[c.GetName()] = v.String_
		case *pb.Claim_Strings:
			id.Claims[c.GetName()] = append([]string{}, v.Strings.GetValues()...)
		default:
			return id, fmt.Errorf("read identity snapshot: claim %q has no value that this program knows", c.GetName())
		}
	}
	return id, nil
}

// goTime is the zero time for none.
func goTime(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}
