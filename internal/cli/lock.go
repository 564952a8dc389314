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
	return lock(ctx, "target", t.String(), "asks for "+t.String())
}

// lockSignIn makes this process the only one that replaces the sign-in.
func lockSignIn(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, "sign-in", "", "signs in")
}

// lockLog makes this process the only one that changes what is remembered of a log. It may hold the lock of a target or that of the
// sign-in by then.
func lockLog(ctx context.Context, id string) (unlock func(), err error) {
	return lock(ctx, "log", id, "checks the log")
}

// lock waits for its turn to do something of a kind to what is called name. There is a fixed number of lock files, which are never
// removed: removing one that somebody waits for would let two in. Names of one kind may share a file, so a process holds one lock of a
// kind at a time; kinds share none, so it may hold one of each.
func lock(ctx context.Context, kind, name, doing string) (unlock func(), err error) {
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
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s-%02x", kind, h.Sum32()%64)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := lockFile(ctx, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for another hallpass that %s: %w", doing, err)
	}
	return func() { f.Close() }, nil
}
