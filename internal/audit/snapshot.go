package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// saltSize is in bytes.
const saltSize = 16

// Snapshot returns the blob that holds what the policy saw of an identity. Given an earlier snapshot of the same identity it
// reuses its salt, so that the same content is the same blob, however often it changes to and fro; without one (nil, or erased)
// it draws a salt. So whoever erases one snapshot of a person erases them all: the salt of one hides them all.
func Snapshot(id ca.Identity, earlier []byte) ([]byte, error) {
	s := &pb.IdentitySnapshot{
		Issuer:  Text(id.Issuer),
		Subject: Text(id.Subject),
		Kind:    pb.CallerKind(id.Kind),
		Email:   Text(id.Email),
	}
	for _, g := range slices.Sorted(slices.Values(id.Groups)) {
		s.Groups = append(s.Groups, Text(g))
	}
	for _, name := range slices.Sorted(maps.Keys(id.Claims)) {
		claim := &pb.Claim{Name: Text(name)}
		switch v := id.Claims[name].(type) {
		case bool:
			claim.Value = &pb.Claim_Bool{Bool: v}
		case int64:
			claim.Value = &pb.Claim_Int{Int: v}
		case string:
			claim.Value = &pb.Claim_String_{String_: v}
		case []string:
			claim.Value = &pb.Claim_Strings{Strings: &pb.StringList{Values: v}}
		default:
			return nil, fmt.Errorf("snapshot of identity: claim %q is a %T, which a snapshot cannot hold", name, v)
		}
		s.Claims = append(s.Claims, claim)
	}
	before := &pb.IdentitySnapshot{}
	if err := proto.Unmarshal(earlier, before); err != nil {
		return nil, fmt.Errorf("read earlier snapshot of identity: %w", err)
	}
	if s.Salt = before.GetSalt(); len(s.Salt) != saltSize || before.GetIssuer() != s.Issuer || before.GetSubject() != s.Subject {
		s.Salt = make([]byte, saltSize)
		if _, err := rand.Read(s.Salt); err != nil {
			return nil, fmt.Errorf("salt for snapshot of identity: %w", err)
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("snapshot of identity: %w", err)
	}
	if bytes.Equal(b, earlier) {
		return earlier, nil
	}
	return b, nil
}

// Digest is the SHA-256 under which a blob is cited.
func Digest(blob []byte) [32]byte { return sha256.Sum256(blob) }
