package audit

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is the state of a log in C2SP tlog-checkpoint form. Its origin is "<log id>/<epoch>".
type Checkpoint struct {
	LogID string
	Epoch uint32
	Size  uint64
	Root  tlog.Hash
}

// Sign returns c as a signed note.
func (k *LogKey) Sign(c Checkpoint) ([]byte, error) {
	if c.LogID != k.ID() {
		return nil, fmt.Errorf("sign checkpoint: it is of log %s, the key is of log %s", c.LogID, k.ID())
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", c.Origin(), c.Size, c.Root)
	b, err := note.Sign(&note.Note{Text: text}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return b, nil
}

// OpenCheckpoint returns what a signed checkpoint says, if the key with this verifier line signed it.
func OpenCheckpoint(signed []byte, verifier string) (Checkpoint, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read public key of the log: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	if c.LogID != v.Name() {
		return Checkpoint{}, fmt.Errorf("read checkpoint: it is of log %s, but the key of log %s signed it", c.LogID, v.Name())
	}
	return c, nil
}

// LogID returns the id of the log whose public key, in the format of signed notes, this is. Its errors do not hold what it was given:
// it may be a private key, taken for the public one.
func LogID(verifier string) (string, error) {
	v, err := note.NewVerifier(verifier)
	switch {
	case strings.HasPrefix(verifier, "PRIVATE+KEY+"):
		return "", errors.New("this is the private key of a log, which the daemon alone needs: give the public key (name+hash+key)")
	case err != nil:
		return "", fmt.Errorf("this is not the public key of a log (name+hash+key): %w", err)
	}
	if id, err := hex.DecodeString(v.Name()); err != nil || len(id) != 16 || hex.EncodeToString(id) != v.Name() {
		return "", fmt.Errorf("the public key of the log has the name %.80q, which is not the id of a log, 32 lower-case hexadecimal digits", v.Name())
	}
	return v.Name(), nil
}

// ReadCheckpoint returns what a signed checkpoint says, whoever signed it: for a daemon that reads its own, and for messages.
func ReadCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return Checkpoint{}, errors.New("read checkpoint: it is no signed note")
	}
	c, err := parseCheckpoint(text + "\n")
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return c, nil
}

// Origin names the log and its epoch. Checkpoints of one origin are states of one tree.
func (c Checkpoint) Origin() string { return fmt.Sprintf("%s/%d", c.LogID, c.Epoch) }

// String names c for people who compare it with another.
func (c Checkpoint) String() string {
	return fmt.Sprintf("%d records of the log %s with the root hash %s", c.Size, c.Origin(), c.Root)
}

func parseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return c, errors.New("it has not three lines")
	}
	id, epoch, ok := strings.Cut(lines[0], "/")
	if !ok {
		return c, fmt.Errorf("the origin %q is not <log id>/<epoch>", lines[0])
	}
	e, err := strconv.ParseUint(epoch, 10, 32)
	if err != nil {
		return c, fmt.Errorf("epoch: %w", err)
	}
	c.LogID, c.Epoch = id, uint32(e)
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return c, fmt.Errorf("size: %w", err)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return c, errors.New("the root hash is not the base64 of 32 bytes")
	}
	c.Root = tlog.Hash(root)
	// One checkpoint has one text: what is signed must not be read in two ways.
	if canonical := fmt.Sprintf("%s\n%d\n%s\n", c.Origin(), c.Size, c.Root); canonical != text {
		return c, errors.New("its numbers are not in plain decimal")
	}
	return c, nil
}
