package login_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/login"
)

// silentKeyring names the folder of the store in a process of this test that uses the keyring of the system: the other tests
// replace it for all of theirs.
const silentKeyring = "HALLPASS_TEST_SILENT_KEYRING"

// TestKeyringThatNeverAnswers shows that a keyring which waits for somebody holds nobody up for longer than it may: what is to be
// kept goes into a file, and what it has is said to be out of reach.
func TestKeyringThatNeverAnswers(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "bus") // short enough for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bus, err := net.Listen("unix", filepath.Join(dir, "bus")) // the kernel takes connections; nobody ever reads from them
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUseSilentKeyring$")
	cmd.Env = append(os.Environ(), silentKeyring+"="+filepath.Join(dir, "state"), "HALLPASS_KEYRING=",
		"DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(dir, "bus"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestUseSilentKeyring is that process.
func TestUseSilentKeyring(t *testing.T) {
	dir := os.Getenv(silentKeyring)
	if dir == "" {
		return
	}
	if err := trySilentKeyring(dir); err != nil {
		t.Fatal(err)
	}
}

func trySilentKeyring(dir string) error {
	store := login.Open(dir)
	store.KeyringPatience = 300 * time.Millisecond
	if err := store.Save(context.Background(), newSession()); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	got, err := store.Load(context.Background())
	if err != nil || got.InKeyring || got.IDToken != newSession().IDToken {
		return fmt.Errorf("load what was saved: in the keyring: %v, error %w", got.InKeyring, err)
	}
	kept := newSession()
	kept.InKeyring = true
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "session.json"), raw, 0o600); err != nil {
		return err
	}
	if _, err := store.Load(context.Background()); err == nil || !strings.Contains(err.Error(), "does not answer; is it locked?") {
		return fmt.Errorf("load what the keyring has: got %w, want an error that says why not", err)
	}
	store.KeyringPatience = time.Hour
	ctx, cancel := context.WithTimeoutCause(context.Background(), 300*time.Millisecond, fmt.Errorf("the caller gave up"))
	defer cancel()
	if _, err := store.Load(ctx); err == nil || !strings.Contains(err.Error(), "the caller gave up") {
		return fmt.Errorf("load for a caller that does not wait: got %w", err)
	}
	return nil
}
