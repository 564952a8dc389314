package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Fact is a projection of a record: what a later decision or a reader looks up. Facts are a pure function of the record.
//
// The facts there are. <id> is the SHA-256 of the issuer, a zero byte and the subject; numbers are big-endian.
//
//	key                                    rule   value             from, if                           expires
//	log                                    New    log id            Genesis                            never
//	authority/<name>/<SHA-256 of key>      Set    "listed"          AuthorityKeyListed                 never
//	policy                                 Set    policy ref        PolicyLoaded                       never
//	engine                                 Set    engine version    PolicyLoaded                       never
//	revision/<index, 8 bytes>              New    policy ref        PolicyLoaded                       never
//	refused                                Set    fault, revision   PolicyRefused; empty from          never
//	                                                                PolicyLoaded
//	accepted/<revision>                    Set    policy ref        PolicyAccepted                     never
//	snap/<id>                              Set    snapshot digest   every record with a caller         never
//	nonce/<id>/<nonce>                     New    index, 8 bytes    Decided, proven                    client time + 15 min
//	token/<SHA-256 of token>               New    key digest        Decided, proven, workload          token expiry + 15 min
//	token/<SHA-256 of token>               Same   key digest        Decided, proven, person, unbound   token expiry + 15 min
//	bound/<id>/<auth_time, 8>/<key digest> Set    empty             Decided, proven, bound, auth_time; never
//	                                                                SignInBound
//	restore/<epoch, 8 bytes>               New    statement         Restored                           never
//	erased/<snapshot digest>               Set    index, 8 bytes    IdentityErased                     never
//	archived/<before, 8 bytes>             New    index, 8 bytes    Archived                           never
//	snap/<id>                              Set    empty             IdentityErased                     never
//	used/<rule>                            Set    empty             Decided, granted                   never
//	refusals/<id>                          Set    times, 8 each     Decided, refused, under a policy   never
//	                                                                that wants to know
//	review/<due, 8 bytes>/<index, 8 bytes> Set    <id>              Decided, if a rule asks            never
//	review/<due, 8 bytes>/<index, 8 bytes> Ends   <id> of reviewer  Reviewed                           -
//	reviewed/<index, 8 bytes>              New    index, 8 bytes    Reviewed                           never
//	policy                                 Holds  policy ref        Decided, granted                   -
//	authority/<name>/<SHA-256 of key>      Holds  "listed"          Decided, granted                   -
//
// Those of many records together are in Index: they follow from the records of a block. What stood when records were archived, and
// does not follow from those that stayed, is carried over in blobs that Archived cites.
//
// A policy ref is the digest, a byte that is 1 for dirty, and the revision. In the key of an open review, the bits of the due time
// are flipped, so that what is due first is found first. Nothing is derived from a request that is not proven but the snapshot of its
// caller and that it was refused: whoever steals a token must not be able to use up nonces or bind keys with it.
type Fact struct {
	Key   []byte
	Value []byte
	Rule  FactRule
	// Expires is when the fact may be forgotten, in whole seconds; zero for never.
	Expires time.Time
}

// FactsVersion is that of the function from records to facts, and of how they are stored. 1 had the index as the value of bound/, 2
// had no used/, and stored those that expire among the others.
const FactsVersion = 3

// FactRule says what must hold when a fact is written.
type FactRule int

// The rules. The zero value is none.
const (
	// New: the key must not exist.
	New FactRule = iota + 1
	// Same: the key must not exist, or have the same value.
	Same
	// Set: written whatever was there.
	Set
	// Holds: the key must have this value already. Nothing is written.
	Holds
	// Ends: the key must have a value already, and not this one. The fact is removed.
	Ends
)

// Allows says whether a fact with this rule may join one that stands with value; nil if none stands.
func (f Fact) Allows(value []byte) bool {
	switch f.Rule {
	case New:
		return value == nil
	case Same:
		return value == nil || bytes.Equal(value, f.Value)
	case Set:
		return true
	case Holds:
		return value != nil && bytes.Equal(value, f.Value)
	case Ends:
		return value != nil && !bytes.Equal(value, f.Value)
	}
	return false
}

const (
	// nonceMemory is how long a nonce is remembered after the caller's time. Requests are refused once the clocks differ by five
	// minutes; the time of the log may be five minutes ahead of the clock that says so; the rest is margin.
	nonceMemory = 15 * time.Minute
	// tokenMemory is how long a token is remembered after it expired, for the same reasons.
	tokenMemory = 15 * time.Minute

	listed      = "listed"
	accepted    = "accepted/"
	noncePrefix = "nonce/"
	tokenPrefix = "token/"
)

// Keys of facts of which there is one.
const (
	LogFact    = "log"
	PolicyFact = "policy"
	EngineFact = "engine"
	// RefusedFact tells which commit was refused last, and for what.
	RefusedFact = "refused"
)

// RevisionPrefix is what the keys of the facts begin with that list the policies which were ever in force. The rest of such a key
// is the index of the record, the value a policy ref.
const RevisionPrefix = "revision/"

// RevisionFact is the key of the fact that the record at index put a policy in force.
func RevisionFact(index uint64) []byte { return factKey(RevisionPrefix, number(index)) }

// AcceptedFact is the key of the fact that an admin let a commit come into force although history does not lead there. Its value
// names the policy that it may replace: once another is in force, the word is spent.
func AcceptedFact(revision string) []byte { return factKey(accepted, []byte(revision)) }

func identityDigest(issuer, subject string) []byte {
	h := sha256.New()
	h.Write([]byte(issuer))
	h.Write([]byte{0})
	h.Write([]byte(subject))
	return h.Sum(nil)
}

func factKey(prefix string, parts ...[]byte) []byte {
	return append([]byte(prefix), bytes.Join(parts, []byte("/"))...)
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Number reads the value of a fact that is an index.
func Number(value []byte) (uint64, bool) {
	if len(value) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(value), true
}

// NonceFact is the key of the fact that an identity used a nonce.
func NonceFact(issuer, subject string, nonce []byte) []byte {
	return factKey(noncePrefix, identityDigest(issuer, subject), nonce)
}

// Expires says whether facts with this key expire.
func Expires(key []byte) bool { return IsNonceFact(key) || IsTokenFact(key) }

// MayExpire says whether there may be facts that expire among those whose keys begin with prefix.
func MayExpire(prefix []byte) bool {
	return Expires(prefix) || strings.HasPrefix(noncePrefix, string(prefix)) || strings.HasPrefix(tokenPrefix, string(prefix))
}

// IsNonceFact says whether key is that of the use of a nonce.
func IsNonceFact(key []byte) bool { return bytes.HasPrefix(key, []byte(noncePrefix)) }

// IsTokenFact says whether key is that of the first use of a token.
func IsTokenFact(key []byte) bool { return bytes.HasPrefix(key, []byte(tokenPrefix)) }

// TokenFact is the key of the first use of a token that is not bound, whose value is the digest of the key that used it.
func TokenFact(digest []byte) []byte { return factKey(tokenPrefix, digest) }

// BoundPrefix is what the keys of the facts begin with that say which keys were bound to a sign-in. The rest of such a key is
// the SHA-256 of the bound key.
func BoundPrefix(issuer, subject string, authTime time.Time) []byte {
	return append(factKey("bound/", identityDigest(issuer, subject), number(uint64(authTime.Unix()))), '/')
}

// SnapshotPrefix is what the keys of the facts begin with that hold the newest snapshot of each identity.
const SnapshotPrefix = "snap/"

// SnapshotFact is the key of the fact that holds the digest of an identity's newest snapshot.
func SnapshotFact(issuer, subject string) []byte {
	return factKey(SnapshotPrefix, identityDigest(issuer, subject))
}

// AuthorityPrefix is what the keys of the facts begin with that list CA keys.
const AuthorityPrefix = "authority/"

// AuthorityFact is the key of the fact that a CA key, in SSH wire format, is listed under a name.
func AuthorityFact(name string, publicKey []byte) []byte {
	digest := sha256.Sum256(publicKey)
	return factKey(AuthorityPrefix, []byte(name), digest[:])
}

// PolicyValue is the value of PolicyFact while this policy is in force.
func PolicyValue(p ca.PolicyRef) []byte {
	v := append(p.Digest[:len(p.Digest):len(p.Digest)], 0)
	if p.Dirty {
		v[len(v)-1] = 1
	}
	return append(v, p.Revision...)
}

// refusedValue is the value of RefusedFact: the number of the fault, and the commit.
func refusedValue(revision string, fault pb.PolicyFault) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(fault)), revision...)
}

// ParseRefusedValue is its reverse. There is no fault if nothing was refused since a policy was loaded.
func ParseRefusedValue(value []byte) (revision string, fault pb.PolicyFault) {
	if len(value) < 4 {
		return "", pb.PolicyFault_POLICY_FAULT_UNSPECIFIED
	}
	return string(value[4:]), pb.PolicyFault(binary.BigEndian.Uint32(value))
}

// ParsePolicyValue is the reverse of PolicyValue.
func ParsePolicyValue(value []byte) (ca.PolicyRef, bool) {
	const head = sha256.Size + 1
	if len(value) < head || value[head-1] > 1 {
		return ca.PolicyRef{}, false
	}
	return ca.PolicyRef{Digest: [32]byte(value), Dirty: value[head-1] == 1, Revision: string(value[head:])}, true
}
