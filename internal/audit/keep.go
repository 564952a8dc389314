package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

const (
	// RestorePrefix is what the keys of the facts begin with that hold the statements of restores. The rest of such a key is the
	// epoch that began.
	RestorePrefix = "restore/"
	erasedPrefix  = "erased/"
	// MaxErased is how many snapshots one record can erase. A person has one for each set of groups and claims that a policy saw.
	MaxErased = 4096
)

// RestoreFact is the key of the fact that an epoch began with a restore.
func RestoreFact(epoch uint32) []byte { return factKey(RestorePrefix, number(uint64(epoch))) }

// ErasedFact is the key of the fact that the blob with this digest was erased. Such a blob is never stored again.
func ErasedFact(digest []byte) []byte { return factKey(erasedPrefix, digest) }

// ErasedDigest returns the digest that an ErasedFact is of, and whether the key is that of one.
func ErasedDigest(key []byte) ([]byte, bool) { return bytes.CutPrefix(key, []byte(erasedPrefix)) }

// erasedFacts say which blobs are gone, and that the person has no snapshot whose salt the next could share.
func erasedFacts(e *pb.IdentityErased, index uint64) []Fact {
	facts := []Fact{{Key: SnapshotFact(e.GetIssuer(), e.GetSubject()), Value: []byte{}, Rule: Set}}
	for _, digest := range e.GetSnapshots() {
		facts = append(facts, Fact{Key: ErasedFact(digest), Value: number(index), Rule: Set})
	}
	return facts
}

// Erased returns the digests of the blobs that a record erases.
func Erased(r *pb.Record) [][]byte { return r.GetIdentityErased().GetSnapshots() }

// checkKept holds the records of those who keep the log to what later readers rely on.
func checkKept(r *pb.Record) error {
	switch e := r.GetEvent().(type) {
	case *pb.Record_Restored:
		// Whether the log key signed it is for those who have its public key: the store that replays it, and the verifier.
		text, _, _ := strings.Cut(e.Restored.GetStatement(), "\n\n")
		said, err := parseRestore(text + "\n")
		if err != nil {
			return fmt.Errorf("its statement: %w", err)
		}
		if said.Epoch != r.GetEpoch() || said.Base.Size != r.GetIndex() {
			return fmt.Errorf("its statement begins epoch %d at record %d, its place is record %d of epoch %d", said.Epoch, said.Base.Size, r.GetIndex(), r.GetEpoch())
		}
	case *pb.Record_IdentityErased:
		return checkErased(e.IdentityErased)
	case *pb.Record_BackupTaken:
		return checkCaller(e.BackupTaken.GetCaller())
	case *pb.Record_Archived:
		return checkArchived(e.Archived, r.GetIndex())
	}
	return nil
}

func checkErased(e *pb.IdentityErased) error {
	if err := checkCaller(e.GetCaller()); err != nil {
		return err
	}
	switch n := len(e.GetSnapshots()); {
	case e.GetIssuer() == "" || e.GetSubject() == "" || e.GetReason() == "":
		return errors.New("it erases without issuer, subject or reason")
	case e.GetIssuer() == e.GetCaller().GetIssuer() && e.GetSubject() == e.GetCaller().GetSubject():
		return errors.New("it erases the snapshots of whoever erases them, one of which it cites")
	case n == 0 || n > MaxErased:
		return fmt.Errorf("it erases %d snapshots, not 1 to %d", n, MaxErased)
	}
	var last []byte
	for _, digest := range e.GetSnapshots() {
		if len(digest) != 32 || bytes.Compare(last, digest) >= 0 {
			return errors.New("the digests of what it erases are not SHA-256 in ascending order")
		}
		last = digest
	}
	return nil
}

// Restored is the event that a log goes on from a backup.
func Restored(statement []byte, reason, by string) *Event {
	return &Event{Event: &pb.Record_Restored{Restored: &pb.Restored{Statement: string(statement), Reason: Text(reason), By: Text(by)}}}
}

// IdentityErased is the event that the snapshots with these digests, sorted, are erased.
func IdentityErased(admin *pb.Caller, issuer, subject string, snapshots [][]byte, reason string) *Event {
	return &Event{Event: &pb.Record_IdentityErased{IdentityErased: &pb.IdentityErased{
		Caller: admin, Issuer: issuer, Subject: subject, Snapshots: snapshots, Reason: Text(reason),
	}}}
}

// BackupTaken is the event that an admin was given a copy of the log, which has this many records before it.
func BackupTaken(admin *pb.Caller, sourceIP string, records uint64) *Event {
	return &Event{Event: &pb.Record_BackupTaken{BackupTaken: &pb.BackupTaken{Caller: admin, SourceIp: Text(sourceIP), Records: records}}}
}
