package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Restore is what the log key says of a log that was lost and goes on from a backup. Its text is that of a signed note of five
// lines, of which no checkpoint can have the form:
//
//	hallpass restore v1
//	<log id>/<epoch>
//	from <log id>/<epoch> <size> <root hash>
//	known <log id>/<epoch> <size> <root hash>
//	at <RFC 3339 time in UTC, in whole seconds>
//
// The second line is the origin of the checkpoints from here on. The third is the state of the backup. The fourth is the newest
// state that whoever restored it knew of, or "known none".
type Restore struct {
	LogID string
	// Epoch is the one that begins.
	Epoch uint32
	Base  Checkpoint
	Known *Checkpoint // nil for none
	Time  time.Time
}

const (
	restoreTitle = "hallpass restore v1"
	knownNone    = "none"
)

func (r Restore) text() string {
	known := knownNone
	if r.Known != nil {
		known = state(*r.Known)
	}
	return fmt.Sprintf("%s\n%s/%d\nfrom %s\nknown %s\nat %s\n", restoreTitle, r.LogID, r.Epoch, state(r.Base), known, r.Time.UTC().Format(time.RFC3339))
}

func state(c Checkpoint) string { return fmt.Sprintf("%s/%d %d %s", c.LogID, c.Epoch, c.Size, c.Root) }

// check holds a statement to what its readers rely on.
func (r Restore) check() error {
	switch {
	case r.Base.LogID != r.LogID || r.Known != nil && r.Known.LogID != r.LogID:
		return errors.New("it is about more than one log")
	case r.Base.Size == 0:
		return errors.New("it goes on from an empty log")
	case r.Epoch <= r.Base.Epoch || r.Known != nil && r.Epoch <= r.Known.Epoch:
		return fmt.Errorf("its epoch %d is not above those before it", r.Epoch)
	case r.Epoch > maxEpoch:
		return fmt.Errorf("no serial follows from its epoch %d", r.Epoch)
	}
	return nil
}

// SignRestore returns r as a signed note.
func (k *LogKey) SignRestore(r Restore) ([]byte, error) {
	if r.LogID != k.ID() {
		return nil, fmt.Errorf("sign restore: it is of log %s, the key is of log %s", r.LogID, k.ID())
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("sign restore: %w", err)
	}
	b, err := note.Sign(&note.Note{Text: r.text()}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("sign restore: %w", err)
	}
	return b, nil
}

// OpenRestore returns what a signed statement says, if the key with this verifier line signed it.
func OpenRestore(signed []byte, verifier string) (Restore, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return Restore{}, fmt.Errorf("read public key of the log: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Restore{}, fmt.Errorf("open statement of a restore: %w", err)
	}
	r, err := parseRestore(n.Text)
	if err != nil {
		return Restore{}, fmt.Errorf("read statement of a restore: %w", err)
	}
	if r.LogID != v.Name() {
		return Restore{}, fmt.Errorf("read statement of a restore: it is of log %s, but the key of log %s signed it", r.LogID, v.Name())
	}
	return r, nil
}

// ReadRestore returns what a signed statement says, whoever signed it: for a daemon that reads those of its own log.
func ReadRestore(signed []byte) (Restore, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return Restore{}, errors.New("read statement of a restore: it is no signed note")
	}
	r, err := parseRestore(text + "\n")
	if err != nil {
		return Restore{}, fmt.Errorf("read statement of a restore: %w", err)
	}
	return r, nil
}

func parseRestore(text string) (Restore, error) {
	var r Restore
	lines := strings.Split(text, "\n")
	if len(lines) != 6 || lines[0] != restoreTitle {
		return r, fmt.Errorf("it is not the five lines of a %q", restoreTitle)
	}
	var err error
	if r.LogID, r.Epoch, err = parseOrigin(lines[1]); err != nil {
		return r, err
	}
	from, _ := strings.CutPrefix(lines[2], "from ")
	if r.Base, err = parseState(from); err != nil {
		return r, err
	}
	if known, _ := strings.CutPrefix(lines[3], "known "); known != knownNone {
		c, err := parseState(known)
		if err != nil {
			return r, err
		}
		r.Known = &c
	}
	at, _ := strings.CutPrefix(lines[4], "at ")
	if r.Time, err = time.Parse(time.RFC3339, at); err != nil {
		return r, fmt.Errorf("its time %q is none", at)
	}
	if r.text() != text { // what is signed must not be read in two ways
		return r, errors.New("it is not in its plain form")
	}
	return r, r.check()
}

func parseOrigin(s string) (id string, epoch uint32, err error) {
	id, number, ok := strings.Cut(s, "/")
	e, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil {
		return "", 0, fmt.Errorf("the origin %q is not <log id>/<epoch>", s)
	}
	return id, uint32(e), nil
}

func parseState(s string) (c Checkpoint, err error) {
	parts := strings.Split(s, " ")
	if len(parts) != 3 {
		return c, fmt.Errorf("%q is not the state of a log: origin, size and root hash", s)
	}
	if c.LogID, c.Epoch, err = parseOrigin(parts[0]); err != nil {
		return c, err
	}
	if c.Size, err = strconv.ParseUint(parts[1], 10, 63); err != nil {
		return c, fmt.Errorf("the size %q is not a number", parts[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(root) != tlog.HashSize {
		return c, fmt.Errorf("the root hash %q is not the base64 of 32 bytes", parts[2])
	}
	c.Root = tlog.Hash(root)
	return c, nil
}

// Gap is what restores lie between a checkpoint that somebody knew and the log as it is now.
type Gap struct {
	// Restores are those after the known checkpoint, oldest first. None: the log is the one that was known.
	Restores []Restore
	// Lost is how many of the records that the known checkpoint covers are not in the log any more; at least so many, if the log went
	// on from before the epoch of that checkpoint: where that had begun, nobody tells any more.
	Lost uint64
	// From is the state from which a consistency proof to now MUST hold: the known one, if nothing is lost, and else the earliest that
	// a restore went on from.
	From Checkpoint
}

// Between says how the log got from the state known to the state now, both of which its key signed, by the statements that the
// daemon gives out. It is an error if they do not lead from one to the other: then the log was rolled back, or forked.
func Between(known, now Checkpoint, statements []string, verifier string) (Gap, error) {
	g := Gap{From: known}
	if now.LogID != known.LogID {
		return g, fmt.Errorf("another log answers: %s, known is %s", now.LogID, known.LogID)
	}
	if now.Epoch < known.Epoch {
		return g, fmt.Errorf("the log was rolled back: it is in epoch %d, and was in %d", now.Epoch, known.Epoch)
	}
	byEpoch := map[uint32]Restore{}
	for _, s := range statements {
		r, err := OpenRestore([]byte(s), verifier)
		if err != nil {
			return g, err
		}
		byEpoch[r.Epoch] = r
	}
	epoch := now.Epoch
	for epoch > known.Epoch {
		r, ok := byEpoch[epoch]
		if !ok {
			return g, fmt.Errorf("the log is in epoch %d, and the log key says nothing of how that began: it was known in epoch %d", now.Epoch, known.Epoch)
		}
		g.Restores = append([]Restore{r}, g.Restores...)
		if r.Base.Size < g.From.Size {
			g.From = r.Base
		}
		epoch = r.Base.Epoch
	}
	if g.Lost = known.Size - g.From.Size; epoch < known.Epoch && g.Lost == 0 {
		g.Lost, g.From = 1, g.Restores[0].Base // at least the record by which the known epoch began
	}
	if now.Size < g.From.Size {
		return g, fmt.Errorf("the log was rolled back: it has %d records, and %d were known", now.Size, g.From.Size)
	}
	return g, nil
}
