package verify

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
)

const (
	version    = 1
	serialBits = 40
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
	// policy is the one in force.
	policy *pb.PolicyRef
	// grants are the Authorities of the certificates granted, by index.
	grants           map[uint64]string
	granted, refused uint64
}

type authorityKey struct{ authority, key string }

func newWalk(c Checkpoint, publicKey string, tree *treeHash) *walk {
	return &walk{checkpoint: c, publicKey: publicKey, tree: tree, keys: map[authorityKey]bool{}, grants: map[uint64]string{}}
}

// step checks the next record, at place.
func (w *walk) step(place uint64, record []byte) error {
	r := &pb.Record{}
	if err := proto.Unmarshal(record, r); err != nil {
		return err
	}
	switch {
	case r.GetVersion() != version:
		return fmt.Errorf("it has version %d, this program knows %d", r.GetVersion(), version)
	case len(r.ProtoReflect().GetUnknown()) > 0 || r.GetEvent() == nil:
		return errors.New("it tells of something that this program does not know: use a newer one")
	case r.GetIndex() != place:
		return fmt.Errorf("it says that its place is %d", r.GetIndex())
	case !r.GetTime().IsValid():
		return errors.New("its time is none")
	case r.GetTime().AsTime().Before(w.time):
		return fmt.Errorf("its time %s is before that of the record before, %s", r.GetTime().AsTime(), w.time)
	case r.GetEpoch() < w.epoch || r.GetEpoch() > w.epoch && r.GetRestored() == nil:
		return fmt.Errorf("its epoch %d comes after %d, and only a restore begins an epoch", r.GetEpoch(), w.epoch)
	case (place == 0) != (r.GetGenesis() != nil):
		return fmt.Errorf("it is about %s: a log begins with its genesis, and has only one", eventName(r))
	}
	if restored := r.GetRestored(); restored != nil {
		if err := w.restored(r.GetEpoch(), restored); err != nil {
			return err
		}
	}
	w.time, w.epoch = r.GetTime().AsTime(), r.GetEpoch()
	switch e := r.GetEvent().(type) {
	case *pb.Record_Genesis:
		return w.genesis(e.Genesis)
	case *pb.Record_AuthorityKeyListed:
		w.keys[authorityKey{e.AuthorityKeyListed.GetAuthority(), string(e.AuthorityKeyListed.GetPublicKey())}] = true
	case *pb.Record_PolicyLoaded:
		if !bytes.Equal(e.PolicyLoaded.GetPrevious(), w.policy.GetDigest()) {
			return fmt.Errorf("it says that the policy %x was in force before, but %x was", e.PolicyLoaded.GetPrevious(), w.policy.GetDigest())
		}
		w.policy = e.PolicyLoaded.GetPolicy()
	case *pb.Record_Decided:
		return w.decided(r, e.Decided)
	case *pb.Record_SignatureFailed:
		if authority, ok := w.grants[e.SignatureFailed.GetDecided()]; !ok || authority != e.SignatureFailed.GetAuthority() {
			return fmt.Errorf("it says that a signature failed, but record %d grants none by %q", e.SignatureFailed.GetDecided(), e.SignatureFailed.GetAuthority())
		}
	}
	return nil
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

func (w *walk) decided(r *pb.Record, d *pb.Decided) error {
	if len(d.GetToBeSigned()) == 0 {
		if d.GetRefusal() == nil {
			return errors.New("it neither grants nor refuses")
		}
		w.refused++
		return nil
	}
	switch {
	case d.GetRefusal() != nil || d.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_ALLOW:
		return errors.New("it has a certificate, but does not allow one")
	case !d.GetProven():
		return errors.New("it grants a certificate for a key whose possession was not shown")
	case w.policy == nil || !proto.Equal(d.GetPolicy(), w.policy):
		return fmt.Errorf("it grants by the policy %x, but %x was in force", d.GetPolicy().GetDigest(), w.policy.GetDigest())
	}
	cert, err := parseToBeSigned(d.GetToBeSigned())
	if err != nil {
		return err
	}
	if want := uint64(r.GetEpoch())<<serialBits + r.GetIndex() + 1; cert.Serial != want {
		return fmt.Errorf("its certificate has the serial %d, must have %d", cert.Serial, want)
	}
	if !w.keys[authorityKey{d.GetAuthority(), string(cert.SignatureKey.Marshal())}] {
		return fmt.Errorf("its certificate is signed by the key %s of %q, which was not listed before", ssh.FingerprintSHA256(cert.SignatureKey), d.GetAuthority())
	}
	w.grants[r.GetIndex()] = d.GetAuthority()
	w.granted++
	return nil
}

// parseToBeSigned reads a certificate that ends before its signature (PROTOCOL.certkeys).
func parseToBeSigned(toBeSigned []byte) (*ssh.Certificate, error) {
	signature := ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519})})
	whole := append(bytes.Clone(toBeSigned), signature...)
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
