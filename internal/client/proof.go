package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

// Log is what a caller knows of the log of a CA.
type Log struct {
	// PublicKey is that of the log, in the format of signed notes. Required for Issue.
	PublicKey string
	// Memory keeps the newest checkpoint from one call to the next, among all processes of a user. Its functions are set together
	// or not at all: then nothing is remembered, and a log that was cut is not noticed.
	Memory Memory
}

// Memory keeps a signed checkpoint.
type Memory struct {
	// Lock makes this process the only one that changes what is kept.
	Lock func(ctx context.Context) (unlock func(), err error)
	// Load returns the checkpoint that is kept, nil for none.
	Load func() ([]byte, error)
	// Save keeps a checkpoint in place of the one before. The caller holds the lock.
	Save func(checkpoint []byte) error
}

// ForkError says that the CA showed a log that is no continuation of the one that it showed before. Nothing that it answered may
// be used. With the two signed checkpoints anybody can see that the CA, or who holds its log key, did this.
type ForkError struct {
	// Seen and Shown are the signed checkpoints of before and of now.
	Seen, Shown []byte
	// Proof is the consistency proof that the CA gave; it proves nothing.
	Proof [][]byte
	// Err says what is wrong.
	Err error
}

func (e *ForkError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *ForkError) Unwrap() error { return e.Err }

// verifyRecord wants the record that grants exactly this certificate, to whoever made this request, in the log that was signed.
func verifyRecord(answer *pb.IssueResponse, request []byte, cert *ssh.Certificate, log Log) error {
	if len(answer.GetRecord()) == 0 {
		return errors.New("it comes without its record: a CA of this version proves each certificate by its log")
	}
	var record pb.Record
	if err := proto.Unmarshal(answer.GetRecord(), &record); err != nil {
		return fmt.Errorf("read its record: %w", err)
	}
	decided := record.GetDecided()
	digest := sha256.Sum256(request)
	switch {
	case !bytes.Equal(decided.GetToBeSigned(), toBeSigned(cert)):
		return errors.New("the record that comes with it grants another certificate, or none")
	case record.GetIndex() != answer.GetIndex() || audit.Serial(record.GetEpoch(), record.GetIndex()) != cert.Serial:
		return fmt.Errorf("it has the serial %d, which does not belong to record %d of epoch %d", cert.Serial, record.GetIndex(), record.GetEpoch())
	case !bytes.Equal(decided.GetAsked().GetDigest(), digest[:]):
		return errors.New("its record is about another request")
	case decided.GetDecision().GetRule() != answer.GetDecision().GetRule(),
		decided.GetDecision().GetEnvironment() != answer.GetDecision().GetEnvironment(),
		!bytes.Equal(decided.GetPolicy().GetDigest(), answer.GetPolicy().GetDigest()):
		return errors.New("its record names another rule, environment or policy than the answer")
	}
	checkpoint, err := audit.OpenCheckpoint(answer.GetCheckpoint(), log.PublicKey)
	if err != nil {
		return fmt.Errorf("its checkpoint is not that of the log known since login: %w", err)
	}
	if record.GetEpoch() > checkpoint.Epoch {
		return fmt.Errorf("its record is of epoch %d, its checkpoint of epoch %d", record.GetEpoch(), checkpoint.Epoch)
	}
	proof, err := hashes(answer.GetInclusionProof())
	if err != nil {
		return err
	}
	if record.GetIndex() >= checkpoint.Size {
		return fmt.Errorf("its record %d is not among the %d of its checkpoint", record.GetIndex(), checkpoint.Size)
	}
	err = tlog.CheckRecord(proof, int64(checkpoint.Size), checkpoint.Root, int64(record.GetIndex()), tlog.RecordHash(answer.GetRecord()))
	if err != nil {
		return fmt.Errorf("it is not proven that its record %d is in the log: %w", record.GetIndex(), err)
	}
	return nil
}

// verifyContinuation wants the log of shown to be that of seen, with more at its end or nothing.
func verifyContinuation(seen, shown []byte, wire [][]byte, publicKey string) error {
	if len(seen) == 0 {
		return nil
	}
	before, err := audit.OpenCheckpoint(seen, publicKey)
	if err != nil {
		return fmt.Errorf("the checkpoint of the log that was kept is damaged: %w", err)
	}
	now, err := audit.OpenCheckpoint(shown, publicKey)
	if err != nil {
		return err
	}
	fork := func(format string, args ...any) error {
		what := fmt.Errorf(format, args...)
		return &ForkError{Seen: seen, Shown: shown, Proof: wire, Err: fmt.Errorf("%w: this user was shown %s; now the CA shows %s", what, before, now)}
	}
	proof, err := hashes(wire)
	switch {
	case err != nil:
		return err
	case now.Origin() != before.Origin():
		return fork("the CA began another epoch of its log")
	case now.Size < before.Size:
		return fork("the log of the CA has lost records")
	case now.Size == before.Size && now.Root != before.Root:
		return fork("the log of the CA was changed")
	case now.Size == before.Size:
		return nil
	}
	if err := tlog.CheckTree(proof, int64(now.Size), now.Root, int64(before.Size), before.Root); err != nil {
		return fork("the log of the CA was changed, or the CA does not prove that it was not")
	}
	return nil
}

// continued wants the log of an answer to go on from what was seen of it. After a restore it cannot, if records were lost: then the
// log key must say so, and the log must go on from what both have.
func (c *Client) continued(ctx context.Context, who SignIn, seen []byte, answer *pb.IssueResponse) (*audit.Gap, error) {
	err := verifyContinuation(seen, answer.GetCheckpoint(), answer.GetConsistencyProof(), who.Log.PublicKey)
	fork, forked := errors.AsType[*ForkError](err)
	if !forked {
		return nil, err
	}
	before, beforeErr := audit.OpenCheckpoint(seen, who.Log.PublicKey)
	now, nowErr := audit.OpenCheckpoint(answer.GetCheckpoint(), who.Log.PublicKey)
	if beforeErr != nil || nowErr != nil || now.Epoch <= before.Epoch {
		return nil, err
	}
	gap, err := c.restored(ctx, who, before, now)
	if err != nil {
		fork.Err = fmt.Errorf("%w: that does not follow from a restore: %w", fork.Err, err)
		return nil, fork
	}
	return gap, nil
}

// restored says how the log got from one epoch to a later one, and checks that it does.
func (c *Client) restored(ctx context.Context, who SignIn, before, now audit.Checkpoint) (*audit.Gap, error) {
	newest, err := c.GetCheckpoint(ctx, who)
	if err != nil {
		return nil, err
	}
	gap, err := audit.Between(before, now, newest.GetRestores(), who.Log.PublicKey)
	if err != nil {
		return nil, err
	}
	ctx, err = c.prove(ctx, who, pb.AuditService_ProveConsistency_FullMethodName)
	if err != nil {
		return nil, err
	}
	answer, err := c.audit.ProveConsistency(ctx, &pb.ProveConsistencyRequest{OldSize: gap.From.Size, NewSize: now.Size})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	proof, err := hashes(answer.GetProof())
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckTree(proof, int64(now.Size), now.Root, int64(gap.From.Size), gap.From.Root); err != nil {
		return nil, fmt.Errorf("the log does not go on from the %d records that it says it kept: %w", gap.From.Size, err)
	}
	return &gap, nil
}

// remember holds an answer against the newest checkpoint that is kept, and keeps that of the answer. If another process kept one
// since the question was sent, the same question is asked again: the answer is the same, with a proof from that one on.
func (m Memory) remember(ctx context.Context, seen []byte, answer *pb.IssueResponse, again func(seen []byte) (*pb.IssueResponse, error)) error {
	if m.Lock == nil {
		return nil
	}
	unlock, err := m.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	newest, err := m.Load()
	if err != nil {
		return err
	}
	if len(newest) > 0 && !bytes.Equal(newest, seen) && !bytes.Equal(newest, answer.GetCheckpoint()) {
		if answer, err = again(newest); err != nil {
			return err
		}
	}
	if bytes.Equal(answer.GetCheckpoint(), newest) {
		return nil
	}
	return m.Save(answer.GetCheckpoint())
}

// load returns the checkpoint that is kept, and its size.
func (m Memory) load() (seen []byte, size uint64, err error) {
	if m.Load == nil {
		return nil, 0, nil
	}
	if seen, err = m.Load(); err != nil || seen == nil {
		return nil, 0, err
	}
	c, err := audit.ReadCheckpoint(seen)
	return seen, c.Size, err
}

func hashes(wire [][]byte) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(wire))
	for i, h := range wire {
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of a proof has %d bytes", len(h))
		}
		out[i] = tlog.Hash(h)
	}
	return out, nil
}
