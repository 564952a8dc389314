// Package verify checks a copy of a log against a signed checkpoint and the public key of the log, offline and without trusting
// the daemon that wrote it.
//
// It knows the wire format of records, Merkle trees and certificates. It must never import the code that it checks: of this
// module only the generated proto.
package verify

import (
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is what a signed checkpoint says (C2SP tlog-checkpoint).
type Checkpoint struct {
	LogID string
	Epoch uint32
	Size  uint64
	Root  tlog.Hash
}

// Summary is what a log that verified holds.
type Summary struct {
	Checkpoint Checkpoint
	// Certificates is how many records grant one, Refusals how many decisions grant none.
	Certificates uint64
	Refusals     uint64
}

// RecordError names the first record that is not as it must be.
type RecordError struct {
	Index uint64 // the place of the record in the copy
	Err   error
}

func (e *RecordError) Error() string { return fmt.Sprintf("record %d: %v", e.Index, e.Err) }

// Unwrap returns what is wrong with the record.
func (e *RecordError) Unwrap() error { return e.Err }

// Log checks that records are exactly those that the signed checkpoint covers, and that each follows from those before it. The
// public key is that of the log, in the format of signed notes (name+hash+key); the caller MUST have it from somewhere else than
// the records. Records come from index 0 on; a *RecordError names the first that is wrong.
func Log(records iter.Seq2[[]byte, error], checkpoint []byte, publicKey string) (*Summary, error) {
	c, err := OpenCheckpoint(checkpoint, publicKey)
	if err != nil {
		return nil, err
	}
	var tree treeHash
	w := newWalk(c, publicKey, &tree)
	for record, err := range records {
		if err != nil {
			return nil, fmt.Errorf("read record %d: %w", tree.size, err)
		}
		if tree.size == c.Size {
			return nil, fmt.Errorf("there are more records than the %d that were signed", c.Size)
		}
		if err := w.step(tree.size, record); err != nil {
			return nil, &RecordError{Index: tree.size, Err: err}
		}
		tree.add(tlog.RecordHash(record))
	}
	switch {
	case tree.size != c.Size:
		return nil, fmt.Errorf("there are %d records, but %d were signed: the end is missing", tree.size, c.Size)
	case w.epoch != c.Epoch:
		return nil, fmt.Errorf("the records end in epoch %d, the checkpoint is of epoch %d", w.epoch, c.Epoch)
	case tree.root() != c.Root:
		return nil, fmt.Errorf("the %d records have the root hash %v, but %v was signed: some record was changed", c.Size, tree.root(), c.Root)
	}
	return &Summary{Checkpoint: c, Certificates: w.granted, Refusals: w.refused}, nil
}

// OpenCheckpoint returns what a signed checkpoint says, if the log with this public key signed it.
func OpenCheckpoint(signed []byte, publicKey string) (Checkpoint, error) {
	v, err := note.NewVerifier(publicKey)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read public key of the log: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint is not signed by the log %s: %w", v.Name(), err)
	}
	c, err := parse(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	if c.LogID != v.Name() {
		return Checkpoint{}, fmt.Errorf("the checkpoint is of the log %s, but the key is of the log %s", c.LogID, v.Name())
	}
	return c, nil
}

func parse(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return c, errors.New("it has not three lines")
	}
	id, epoch, ok := strings.Cut(lines[0], "/")
	e, err := strconv.ParseUint(epoch, 10, 32)
	if !ok || err != nil {
		return c, fmt.Errorf("its origin %q is not <log id>/<epoch>", lines[0])
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return c, fmt.Errorf("its size %q is not a number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return c, errors.New("its root hash is not the base64 of 32 bytes")
	}
	return Checkpoint{LogID: id, Epoch: uint32(e), Size: size, Root: tlog.Hash(root)}, nil
}

// treeHash computes an RFC 6962 root hash from record hashes in order. It holds one hash for each complete subtree, the largest
// first.
type treeHash struct {
	size     uint64
	subtrees []tlog.Hash
}

func (t *treeHash) add(h tlog.Hash) {
	// Each 1 at the end of the size is a subtree as large as the one that h has become.
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.subtrees) - 1
		h = tlog.NodeHash(t.subtrees[last], h)
		t.subtrees = t.subtrees[:last]
	}
	t.subtrees = append(t.subtrees, h)
	t.size++
}

func (t *treeHash) root() tlog.Hash {
	if len(t.subtrees) == 0 {
		return tlog.Hash{}
	}
	h := t.subtrees[len(t.subtrees)-1]
	for i := len(t.subtrees) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.subtrees[i], h)
	}
	return h
}

// eventName says what a record is about, for messages.
func eventName(r *pb.Record) string {
	m := r.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("event"))
	if field == nil {
		return "none"
	}
	return string(field.Name())
}
