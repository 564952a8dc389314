package audit

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// Version is the version of the record format that this program writes, and the newest it reads.
	Version = 1
	// Format is that of the stored log, which the genesis names.
	Format = 1
	// MaxRecord is the size of the largest record, in bytes. A usual one has less than 900; a refusal with all that fits into its
	// texts, less than half of this.
	MaxRecord = 256 << 10

	// serialBits is how many bits of a serial count records; those above hold the epoch.
	serialBits = 40
	maxIndex   = 1<<serialBits - 2
	maxEpoch   = 1<<(64-serialBits) - 1
)

// Serial is the serial number of the certificate that the record at index grants. It is never 0, which sshd cannot revoke.
func Serial(epoch uint32, index uint64) uint64 { return uint64(epoch)<<serialBits + index + 1 }

// IndexOf is the reverse of Serial; false for a serial that no record gives.
func IndexOf(serial uint64) (epoch uint32, index uint64, ok bool) {
	low := serial & (1<<serialBits - 1)
	if low == 0 {
		return 0, 0, false
	}
	return uint32(serial >> serialBits), low - 1, true
}

// Event is what a record tells: a Record of which only Event is set.
type Event = pb.Record

// Marshal returns the bytes of the record of an event at its place. They are hashed and stored as they are and never
// marshalled again. Whether it is a record that may be written, Parse says: a store takes none that it refuses.
func Marshal(e *Event, index uint64, at time.Time, epoch uint32) ([]byte, error) {
	r := &pb.Record{Version: Version, Index: index, Time: timestamppb.New(at), Epoch: epoch, Event: e.Event}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("write record %d: %w", index, err)
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("write record %d: it has %d bytes, more than %d", index, len(b), MaxRecord)
	}
	return b, nil
}

// Parse reads a record strictly: what this program does not know it refuses, since it could mean anything.
func Parse(record []byte) (*pb.Record, error) {
	if len(record) > MaxRecord {
		return nil, fmt.Errorf("read record: it has %d bytes, more than %d", len(record), MaxRecord)
	}
	r := &pb.Record{}
	if err := proto.Unmarshal(record, r); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	if err := check(r); err != nil {
		return nil, fmt.Errorf("read record %d: %w", r.GetIndex(), err)
	}
	return r, nil
}

// check holds a record to what later readers rely on.
func check(r *pb.Record) error {
	switch {
	case r.GetVersion() > Version:
		return fmt.Errorf("its version %d is newer than this program, which knows %d: use a newer one", r.GetVersion(), Version)
	case r.GetVersion() != Version:
		return fmt.Errorf("its version is %d", r.GetVersion())
	case r.GetIndex() > maxIndex || r.GetEpoch() > maxEpoch:
		return fmt.Errorf("no serial follows from index %d in epoch %d", r.GetIndex(), r.GetEpoch())
	case r.GetTime() == nil:
		return errors.New("it has no time")
	}
	if err := known(r.ProtoReflect()); err != nil {
		return err
	}
	if (r.GetGenesis() != nil) != (r.GetIndex() == 0) {
		return errors.New("a log begins with its genesis, and has only one")
	}
	switch e := r.GetEvent().(type) {
	case *pb.Record_Genesis:
		if e.Genesis.GetFormat() != Format {
			return fmt.Errorf("the log has format %d, this program knows %d", e.Genesis.GetFormat(), Format)
		}
	case *pb.Record_AuthorityKeyListed:
		if e.AuthorityKeyListed.GetAuthority() == "" || len(e.AuthorityKeyListed.GetPublicKey()) == 0 {
			return errors.New("it lists a CA key without name or key")
		}
	case *pb.Record_PolicyLoaded:
		return checkPolicy(e.PolicyLoaded.GetPolicy())
	case *pb.Record_Decided:
		return checkDecided(e.Decided, Serial(r.GetEpoch(), r.GetIndex()))
	case *pb.Record_RefusalsCounted:
		return checkCaller(e.RefusalsCounted.GetCaller())
	case *pb.Record_AccessRefused:
		return checkCaller(e.AccessRefused.GetCaller())
	case *pb.Record_SignInBound:
		b := e.SignInBound
		if len(b.GetKey()) != 32 || !b.GetToken().GetBound() || b.GetToken().GetAuthTime() == nil {
			return errors.New("it binds a sign-in without key or auth_time")
		}
		return checkCaller(b.GetCaller())
	case *pb.Record_PolicyAccepted:
		a := e.PolicyAccepted
		if a.GetRevision() == "" || a.GetReason() == "" {
			return errors.New("it accepts a policy without revision or reason")
		}
		if err := checkPolicy(a.GetPrevious()); err != nil {
			return err
		}
		return checkCaller(a.GetCaller())
	case *pb.Record_Reviewed:
		return checkReviewed(e.Reviewed, r.GetIndex())
	case *pb.Record_Restored, *pb.Record_IdentityErased, *pb.Record_BackupTaken, *pb.Record_Archived:
		return checkKept(r)
	case nil:
		return errors.New("it tells of no event")
	}
	return nil
}

func checkCaller(c *pb.Caller) error {
	if c.GetIssuer() == "" || c.GetSubject() == "" || c.GetKind() == pb.CallerKind_CALLER_KIND_UNSPECIFIED || len(c.GetSnapshot()) != 32 {
		return errors.New("its caller lacks issuer, subject, kind or snapshot")
	}
	return nil
}

func checkPolicy(p *pb.PolicyRef) error {
	if len(p.GetDigest()) != 32 {
		return errors.New("the digest of its policy is not a SHA-256")
	}
	return nil
}

func checkDecided(d *pb.Decided, serial uint64) error {
	if err := checkCaller(d.GetCaller()); err != nil {
		return err
	}
	if d.GetPolicy() != nil {
		if err := checkPolicy(d.GetPolicy()); err != nil {
			return err
		}
	}
	if err := checkFetched(d); err != nil {
		return err
	}
	if err := checkReview(d); err != nil {
		return err
	}
	asked, token := d.GetAsked(), d.GetToken()
	switch granted := len(d.GetToBeSigned()) > 0; {
	case granted == (d.GetRefusal() != nil):
		return errors.New("it is neither a grant nor a refusal")
	case d.GetProven() && (len(asked.GetDigest()) != 32 || len(asked.GetNonce()) != 16 || len(asked.GetKey()) != 32 ||
		len(token.GetDigest()) != 32 || asked.GetClientTime() == nil || token.GetExpiresAt() == nil):
		return errors.New("it is proven, but lacks what follows from that: digest, nonce, key or time of the request or its token")
	case !granted:
		return nil
	case !d.GetProven() || d.GetPolicy() == nil || d.GetAuthority() == "" || d.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_ALLOW:
		return errors.New("it grants without proof, policy, Authority or an allowing decision")
	}
	signed, _, err := ca.ReadToBeSigned(d.GetToBeSigned())
	if err != nil {
		return err
	}
	if signed != serial {
		return fmt.Errorf("the certificate has serial %d, its place says %d", signed, serial)
	}
	return nil
}

// known refuses fields and enum values that this program has no name for, and times that are none.
func known(m protoreflect.Message) error {
	name := m.Descriptor().Name()
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s has a field that this program does not know: use a newer one", name)
	}
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return v.CheckValid()
	}
	for _, field := range nestedFields(m.Descriptor()) {
		if !m.Has(field) {
			continue
		}
		v := m.Get(field)
		switch {
		case field.Enum() != nil:
			if field.Enum().Values().ByNumber(v.Enum()) == nil {
				return fmt.Errorf("%s.%s has the unknown value %d: use a newer program", name, field.Name(), v.Enum())
			}
		case field.IsList():
			for i := range v.List().Len() {
				if err := known(v.List().Get(i).Message()); err != nil {
					return err
				}
			}
		default:
			if err := known(v.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// nested holds what nestedFields found: it is asked several times for each record.
var nested sync.Map // from protoreflect.MessageDescriptor to []protoreflect.FieldDescriptor

// nestedFields are the fields of a message that hold messages or enum values.
func nestedFields(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	known, _ := nested.Load(d)
	if fields, ok := known.([]protoreflect.FieldDescriptor); ok {
		return fields
	}
	var fields []protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.Enum() != nil || f.Message() != nil {
			fields = append(fields, f)
		}
	}
	nested.Store(d, fields)
	return fields
}

// CallerOf returns the caller that a record is about, or nil.
func CallerOf(r *pb.Record) *pb.Caller {
	switch e := r.GetEvent().(type) {
	case *pb.Record_Decided:
		return e.Decided.GetCaller()
	case *pb.Record_RefusalsCounted:
		return e.RefusalsCounted.GetCaller()
	case *pb.Record_AccessRefused:
		return e.AccessRefused.GetCaller()
	case *pb.Record_SignInBound:
		return e.SignInBound.GetCaller()
	case *pb.Record_PolicyAccepted:
		return e.PolicyAccepted.GetCaller()
	case *pb.Record_IdentityErased:
		return e.IdentityErased.GetCaller()
	case *pb.Record_BackupTaken:
		return e.BackupTaken.GetCaller()
	case *pb.Record_Reviewed:
		return e.Reviewed.GetCaller()
	}
	return nil
}
