package cli_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/cli"
)

// TestLocksOfKinds takes every lock of one kind while those of the other kinds are held: nobody waits for themselves.
func TestLocksOfKinds(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for held, hold := range cli.Locks {
		unlock, err := hold(t.Context(), "held")
		if err != nil {
			t.Fatal(err)
		}
		for kind, lock := range cli.Locks {
			if kind == held {
				continue
			}
			for i := range 1000 { // far more names than there are files
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				free, err := lock(ctx, fmt.Sprint("name", i))
				cancel()
				if err != nil {
					t.Fatalf("a lock of kind %s while one of kind %s is held: %v", kind, held, err)
				}
				free()
			}
		}
		unlock()
	}
}

// TestLockIsHeld shows that there is one holder at a time.
func TestLockIsHeld(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for kind, lock := range cli.Locks {
		unlock, err := lock(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if _, err := lock(ctx, "one"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second lock of kind %s: %v, want to wait for the first", kind, err)
		}
		cancel()
		unlock()
		again, err := lock(t.Context(), "one")
		if err != nil {
			t.Errorf("after the first lock of kind %s was given back: %v", kind, err)
			continue
		}
		again()
	}
}
