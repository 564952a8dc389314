package cli

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
)

// lockTarget makes this process the only one that gets a certificate for t, so that parallel ones share one request.
func lockTarget(ctx context.Context, t target) (unlock func(), err error) {
	return lock(ctx, t.String(), "asks for "+t.String())
}

// lockSignIn makes this process the only one that replaces the sign-in.
func lockSignIn(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, "sign-in", "signs in")
}

// lock waits for its turn to do what is called name. There is a fixed number of lock files, which are never removed: removing one
// that somebody waits for would let two in.
func lock(ctx context.Context, name, doing string) (unlock func(), err error) {
	state, err := stateDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(state, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &failure{
			exit: exitFailed,
			err:  fmt.Errorf("make the folder for locks: %w", err),
			hint: "set XDG_STATE_HOME to a folder that you can write",
		}
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%02x", h.Sum32()%64)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := lockFile(ctx, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for another hallpass that %s: %w", doing, err)
	}
	return func() { f.Close() }, nil
}
