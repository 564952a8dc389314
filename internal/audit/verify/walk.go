package verify

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	formatVersion = 1
	serialBits    = 40
	maxRecord     = 256 << 10
)

// walk is what is known of a log up to a record.
type walk struct {
	checkpoint Checkpoint
	publicKey  string
	tree       *treeHash // of the records before
	time       time.Time
	epoch      uint32
	// keys are the CA keys listed so far, by Authority and SSH wire format.
	keys map[authorityKey]bool
	// policy is the one in force, engine the one that compiled it, loaded are all that ever were.
	policy *pb.PolicyRef
	engine string
	loaded map[string]bool
	// grants are, by index, the Authority of the certificate granted: its place in authorities, 0 for none. A log may be long.
	grants           []uint16
	authorities      []string
	granted, refused uint64
	// archived is the index before which records were archived so far.
	archived uint64
	reviews  reviews
}

// unknown is who signs the certificate of a record that is not there, if it grants one.
const unknown = math.MaxUint16

type authorityKey struct{ authority, key string }

func newWalk(c Checkpoint, publicKey string, tree *treeHash) *walk {
	return &walk{checkpoint: c, publicKey: publicKey, tree: tree, keys: map[authorityKey]bool{}, loaded: map[string]bool{}, authorities: []string{""}, reviews: newReviews()}
}

// parsed is a record, and the certificate that it grants, if it does.
type parsed struct {
	record *pb.Record
	cert   *ssh.Certificate
}

// parseRecord reads a record and checks what can be checked of it alone.
func parseRecord(raw []byte) (parsed, error) {
	p := parsed{record: &pb.Record{}}
	if len(raw) > maxRecord {
		return p, fmt.Errorf("it has %d bytes, more than the %d of the largest", len(raw), maxRecord)
	}
	if err := proto.Unmarshal(raw, p.record); err != nil {
		return p, err
	}
	if version := p.record.GetVersion(); version != formatVersion {
		return p, fmt.Errorf("it has version %d, this program knows %d", version, formatVersion)
	}
	if err := known(p.record.ProtoReflect()); err != nil {
		return p, err
	}
	if p.record.GetEvent() == nil {
		return p, errors.New("it tells of something that this program does not know: use a newer one")
	}
	d := p.record.GetDecided()
	if len(d.GetToBeSigned()) == 0 {
		return p, nil
	}
	var err error
	if p.cert, err = parseToBeSigned(d.GetToBeSigned()); err != nil {
		return p, err
	}
	return p, nil
}

// known refuses fields and enum values that this program has no name for: they could mean anything.
func known(m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("its %s tells of something that this program does not know: use a newer one", m.Descriptor().Name())
	}
	n := nestedOf(m.Descriptor())
	for _, field := range n.fields {
		if m.Has(field) {
			if err := knownField(m, field); err != nil {
				return err
			}
		}
	}
	for _, oneof := range n.oneofs {
		if field := m.WhichOneof(oneof); field != nil && holdsMore(field) {
			if err := knownField(m, field); err != nil {
				return err
			}
		}
	}
	return nil
}

func knownField(m protoreflect.Message, field protoreflect.FieldDescriptor) error {
	v := m.Get(field)
	switch {
	case field.Enum() != nil:
		if field.Enum().Values().ByNumber(v.Enum()) == nil {
			return fmt.Errorf("its %s has the value %d, which this program does not know: use a newer one", field.Name(), v.Enum())
		}
		return nil
	case field.IsList():
		for i := range v.List().Len() {
			if err := known(v.List().Get(i).Message()); err != nil {
				return err
			}
		}
		return nil
	default:
		return known(v.Message())
	}
}

// nested are the fields of a message that hold messages or enum values, and apart from them the oneofs: of the many events that a
// record can tell of, it has one. The daemon has a reader of its own: this one leans on nothing of it.
type nested struct {
	fields []protoreflect.FieldDescriptor
	oneofs []protoreflect.OneofDescriptor
}

// allNested holds what nestedOf found: it is asked several times for each record.
var allNested sync.Map // from protoreflect.MessageDescriptor to nested

func nestedOf(d protoreflect.MessageDescriptor) nested {
	known, _ := allNested.Load(d)
	if n, ok := known.(nested); ok {
		return n
	}
	var n nested
	for i := range d.Oneofs().Len() {
		n.oneofs = append(n.oneofs, d.Oneofs().Get(i))
	}
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.ContainingOneof() == nil && holdsMore(f) {
			n.fields = append(n.fields, f)
		}
	}
	allNested.Store(d, n)
	return n
}

func holdsMore(f protoreflect.FieldDescriptor) bool { return f.Enum() != nil || f.Message() != nil }

// step checks the next record, at place, against those before it.
func (w *walk) step(place uint64, p parsed) error {
	r := p.record
	switch {
	case r.GetIndex() != place:
		return fmt.Errorf("it says that its place is %d", r.GetIndex())
	case !r.GetTime().IsValid():
		return errors.New("its time is none")
	case r.GetTime().AsTime().Before(w.time):
		return fmt.Errorf("its time %s is before that of the record before, %s", r.GetTime().AsTime(), w.time)
	case r.GetEpoch() < w.epoch || r.GetEpoch() > w.epoch && r.GetRestored() == nil:
		return fmt.Errorf("its epoch %d comes after %d, and only a restore begins an epoch", r.GetEpoch(), w.epoch)
	case r.GetEpoch() >= 1<<(64-serialBits) || place >= 1<<serialBits-1:
		return fmt.Errorf("no serial follows from record %d in epoch %d", place, r.GetEpoch())
	case (place == 0) != (r.GetGenesis() != nil):
		return fmt.Errorf("it is about %s: a log begins with its genesis, and has only one", eventName(r))
	}
	if restored := r.GetRestored(); restored != nil {
		if err := w.restored(r.GetEpoch(), restored); err != nil {
			return err
		}
	}
	w.time, w.epoch = r.GetTime().AsTime(), r.GetEpoch()
	w.grants = append(w.grants, 0)
	switch e := r.GetEvent().(type) {
	case *pb.Record_Genesis:
		return w.genesis(e.Genesis)
	case *pb.Record_AuthorityKeyListed:
		w.keys[authorityKey{e.AuthorityKeyListed.GetAuthority(), string(e.AuthorityKeyListed.GetPublicKey())}] = true
	case *pb.Record_PolicyLoaded:
		if !bytes.Equal(e.PolicyLoaded.GetPrevious(), w.policy.GetDigest()) {
			return fmt.Errorf("it says that the policy %x was in force before, but %x was", e.PolicyLoaded.GetPrevious(), w.policy.GetDigest())
		}
		w.policy, w.engine = e.PolicyLoaded.GetPolicy(), e.PolicyLoaded.GetEngine()
		w.loaded[policyName(w.policy)] = true
	case *pb.Record_Decided:
		if err := w.reviews.decided(place, e.Decided); err != nil {
			return err
		}
		return w.decided(p, e.Decided)
	case *pb.Record_Reviewed:
		return w.reviews.mark(place, e.Reviewed)
	case *pb.Record_SignatureFailed:
		failed := e.SignatureFailed
		if failed.GetAuthority() == "" || w.granter(failed.GetDecided(), failed.GetAuthority()) != failed.GetAuthority() {
			return fmt.Errorf("it says that a signature failed, but record %d grants none by %q", failed.GetDecided(), failed.GetAuthority())
		}
	case *pb.Record_Archived:
		return w.archives(place, e.Archived)
	}
	return nil
}

// archives checks what a record says of an archive against those before.
func (w *walk) archives(place uint64, a *pb.Archived) error {
	switch {
	case a.GetFrom() != w.archived:
		return fmt.Errorf("it archives from record %d on, but what is before record %d was archived before", a.GetFrom(), w.archived)
	case a.GetBefore() <= a.GetFrom() || a.GetBefore() >= place:
		return fmt.Errorf("it archives the records from %d on and before %d", a.GetFrom(), a.GetBefore())
	case a.GetBy() == "":
		return errors.New("it does not say who archived")
	}
	w.archived = a.GetBefore()
	return nil
}

// gap passes over a record that is not there.
func (w *walk) gap() {
	w.grants, w.reviews.missing = append(w.grants, unknown), true
}

func (w *walk) genesis(g *pb.Genesis) error {
	switch {
	case g.GetLogId() != w.checkpoint.LogID:
		return fmt.Errorf("it begins the log %q, the checkpoint is of the log %q", g.GetLogId(), w.checkpoint.LogID)
	case g.GetLogPublicKey() != w.publicKey:
		return fmt.Errorf("it names the log's public key %q, which is not the one given", g.GetLogPublicKey())
	}
	return nil
}

func (w *walk) decided(p parsed, d *pb.Decided) error {
	r, cert := p.record, p.cert
	if !d.GetDecidedAt().IsValid() || r.GetTime().AsTime().Sub(d.GetDecidedAt().AsTime()).Abs() > longestDelay {
		return fmt.Errorf("it was recorded at %s, and says that it was decided at %s", r.GetTime().AsTime(), d.GetDecidedAt().AsTime())
	}
	if len(d.GetToBeSigned()) == 0 {
		return w.refusal(d)
	}
	switch {
	case d.GetRefusal() != nil || d.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_ALLOW:
		return errors.New("it has a certificate, but does not allow one")
	case !d.GetProven():
		return errors.New("it grants a certificate for a key whose possession was not shown")
	case w.policy == nil || !proto.Equal(d.GetPolicy(), w.policy):
		return fmt.Errorf("it grants by the policy %x, but %x was in force", d.GetPolicy().GetDigest(), w.policy.GetDigest())
	}
	if want := uint64(r.GetEpoch())<<serialBits + r.GetIndex() + 1; cert.Serial != want {
		return fmt.Errorf("its certificate has the serial %d, must have %d", cert.Serial, want)
	}
	if !w.keys[authorityKey{d.GetAuthority(), string(cert.SignatureKey.Marshal())}] {
		return fmt.Errorf("its certificate is signed by the key %s of %q, which was not listed before", ssh.FingerprintSHA256(cert.SignatureKey), d.GetAuthority())
	}
	if err := checkShape(d, cert); err != nil {
		return err
	}
	w.granted++
	return w.grant(d.GetAuthority())
}

// refusal may be by a policy that another replaced meanwhile.
func (w *walk) refusal(d *pb.Decided) error {
	if d.GetRefusal() == nil {
		return errors.New("it neither grants nor refuses")
	}
	for _, policy := range []*pb.PolicyRef{d.GetPolicy(), d.GetReview().GetPolicy()} {
		if policy != nil && !w.loaded[policyName(policy)] {
			return fmt.Errorf("it names the policy %x, which was not in force before", policy.GetDigest())
		}
	}
	w.refused++
	return nil
}

// policyName tells policies apart.
func policyName(p *pb.PolicyRef) string {
	return fmt.Sprintf("%x %q %t", p.GetDigest(), p.GetRevision(), p.GetDirty())
}

// grant notes who signs the certificate of the newest record.
func (w *walk) grant(authority string) error {
	number := slices.Index(w.authorities, authority)
	if number < 0 {
		if number = len(w.authorities); number >= unknown {
			return errors.New("there are more Authorities than this program can tell apart")
		}
		w.authorities = append(w.authorities, authority)
	}
	w.grants[len(w.grants)-1] = uint16(number)
	return nil
}

// granter is who signs the certificate of an earlier record; empty if it grants none, and whoever is said to if it is not there.
func (w *walk) granter(index uint64, said string) string {
	switch {
	case index >= uint64(len(w.grants)):
		return ""
	case w.grants[index] == unknown:
		return said
	}
	return w.authorities[w.grants[index]]
}

// noSignature ends a certificate for a parser that wants one.
var noSignature = ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519})})

// parseToBeSigned reads a certificate that ends before its signature (PROTOCOL.certkeys).
func parseToBeSigned(toBeSigned []byte) (*ssh.Certificate, error) {
	whole := append(bytes.Clone(toBeSigned), noSignature...)
	key, err := ssh.ParsePublicKey(whole)
	if err != nil {
		return nil, fmt.Errorf("read its certificate: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("what it grants is no certificate")
	}
	if !bytes.Equal(cert.Marshal(), whole) {
		return nil, errors.New("its certificate can be read in two ways")
	}
	return cert, nil
}
