package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
)

// maxEvidence is how many files of evidence are kept: a CA that forked its log does so at every call.
const maxEvidence = 10

// logDir is where the helper keeps what it knows of the logs of CAs: for each server the public key of its log, and for each log
// the newest signed checkpoint, and evidence that it was forked.
func logDir() (string, error) {
	state, err := stateDir()
	return filepath.Join(state, "log"), err
}

// logKeyFile is named after the server.
func logKeyFile(address client.Address) (string, error) {
	dir, err := logDir()
	return filepath.Join(dir, url.QueryEscape(address.Host+":"+address.Port)+".key"), err
}

// checkpointFile is named after the log.
func checkpointFile(logID string) (string, error) {
	dir, err := logDir()
	return filepath.Join(dir, logID+".checkpoint"), err
}

// loadLogKey returns the public key of the log that a server showed at the first sign-in; empty if there was none.
func loadLogKey(address client.Address) (string, error) {
	file, err := logKeyFile(address)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the public key of the log: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func saveLogKey(address client.Address, key string) error {
	file, err := logKeyFile(address)
	if err != nil {
		return err
	}
	if err := writeFile(file, []byte(key+"\n")); err != nil {
		return fmt.Errorf("save the public key of the log: %w", err)
	}
	return nil
}

// checkLog holds the log that a server shows against the one in the settings, or the one that it showed before.
func checkLog(address client.Address, shown, pinned string) error {
	if _, err := audit.LogID(shown); err != nil {
		return fmt.Errorf("the CA at %s: %w", address, err)
	}
	if pinned != "" {
		if shown != pinned {
			return &failure{exit: exitFailed,
				err: fmt.Errorf("the CA at %s shows the log %s, but your settings (log_key, HALLPASS_LOG_KEY) name the log %s: it is another CA, or somebody replaced its log",
					address, shown, pinned),
				hint: "ask your admins for the public key of the log"}
		}
		return nil
	}
	known, err := loadLogKey(address)
	if err != nil {
		return err
	}
	if known != "" && known != shown {
		return &failure{exit: exitFailed,
			err: fmt.Errorf("the CA at %s shows another log than before: it was %s, now it is %s. Whoever replaces the log of a CA can hide what it signed",
				address, known, shown),
			hint: "ask your admins; if they say that this is the public key of their log: HALLPASS_LOG_KEY='" + shown + "' hallpass login"}
	}
	return nil
}

// knownLog is the log of the CA as it was pinned at login, and the memory of what was seen of it.
func (a *app) knownLog(address client.Address) (client.Log, error) {
	key, err := loadLogKey(address)
	if err != nil {
		return client.Log{}, err
	}
	if key == "" {
		return client.Log{}, errSignIn("the public key of the log is not where it was put at login")
	}
	s, err := a.settings()
	if err != nil {
		return client.Log{}, err
	}
	if pinned := s.LogKey; pinned != "" && pinned != key {
		return client.Log{}, errSignIn(fmt.Sprintf("signed in at a CA with the log %s, but the settings name the log %s", key, pinned))
	}
	id, err := audit.LogID(key)
	if err != nil {
		return client.Log{}, errSignIn("the public key of the log is not as it was written at login")
	}
	file, err := checkpointFile(id)
	if err != nil {
		return client.Log{}, err
	}
	return client.Log{PublicKey: key, Memory: client.Memory{
		Lock: func(ctx context.Context) (func(), error) { return lockLog(ctx, id) },
		Load: func() ([]byte, error) { return loadCheckpoint(file) },
		Save: func(checkpoint []byte) error {
			if err := writeFile(file, checkpoint); err != nil {
				return fmt.Errorf("save the checkpoint of the log: %w", err)
			}
			return nil
		},
	}}, nil
}

func loadCheckpoint(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		_, err = audit.ReadCheckpoint(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; if you know what damaged it, remove it", file, err)
	}
	return text, nil
}

// tellRestored says that the log of the CA was restored since this user saw it last. It is told once: from now on the log is known as
// it is now.
func (a *app) tellRestored(gap *audit.Gap) {
	if gap == nil || len(gap.Restores) == 0 {
		return
	}
	last := gap.Restores[len(gap.Restores)-1]
	lost := "nothing that you had seen of it is lost"
	if gap.Lost > 0 {
		lost = fmt.Sprintf("at least the newest %d of the records that you had seen are lost, and certificates that they granted are no longer in the log", gap.Lost)
	}
	a.note("the CA restored its log from a backup on %s, as the key of the log says: %s", last.Time.Format(time.RFC3339), lost)
}

// forked keeps the evidence that a CA forked its log, and says what to do with it.
func forked(err error) error {
	fork, ok := errors.AsType[*client.ForkError](err)
	if !ok {
		return err
	}
	f := &failure{exit: exitFailed, err: fmt.Errorf("%w. Nothing was used", err)}
	checkpoint, readErr := audit.ReadCheckpoint(fork.Seen)
	if readErr != nil {
		return errors.Join(f, readErr)
	}
	evidence, saveErr := saveEvidence(checkpoint.LogID, fork, time.Now())
	file, fileErr := checkpointFile(checkpoint.LogID)
	if saveErr = errors.Join(saveErr, fileErr); saveErr != nil {
		f.err = fmt.Errorf("%w; the evidence could not be kept: %w", f.err, saveErr)
		f.hint = "tell those who audit the CA, and show them what this says"
		return f
	}
	f.hint = fmt.Sprintf("give %s to those who audit the CA. Only if they say that the log was restored on purpose: rm %s", evidence, file)
	return f
}

// saveEvidence writes what the CA signed into a file, and returns its name; the newest if there are enough already.
func saveEvidence(logID string, fork *client.ForkError, now time.Time) (string, error) {
	dir, err := logDir()
	if err != nil {
		return "", err
	}
	there, err := filepath.Glob(filepath.Join(dir, logID+".evidence-*")) // by time
	if err != nil {
		return "", err
	}
	if len(there) >= maxEvidence {
		return there[len(there)-1], nil
	}
	file := filepath.Join(dir, logID+".evidence-"+now.UTC().Format("20060102T150405.000"))
	var text bytes.Buffer
	fmt.Fprintf(&text, "Two checkpoints that the log %s signed and that do not belong to one log.\n%s\nFound at %s.\n", logID, plain(fork.Error()), now.UTC().Format(time.RFC3339))
	fmt.Fprintf(&text, "-- seen before --\n%s-- shown now --\n%s-- consistency proof --\n", fork.Seen, fork.Shown)
	for _, h := range fork.Proof {
		text.WriteString(base64.StdEncoding.EncodeToString(h) + "\n")
	}
	return file, writeFile(file, text.Bytes())
}
