package bolt_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

// A clock that jumps ahead writes nothing: one record of next year would keep out all others until then. Whoever set the clock
// right opens the log again.
func TestAClockThatJumpsAhead(t *testing.T) {
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := storetest.NewClock()
	var passed time.Duration
	pass := func(d time.Duration) { clock.Move(d); passed += d }
	config := bolt.Config{LogKey: key, Now: clock.Now, Uptime: func() time.Duration { return passed }}
	path := filepath.Join(t.TempDir(), "log.db")
	log, err := bolt.Create(path, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { log.Close() }()
	try := func(name, reason string) {
		t.Helper()
		_, err := log.Append(t.Context(), storetest.Refused(name))
		switch {
		case reason == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case reason != "" && (!errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), reason)):
			t.Errorf("%s: got %v, want %v because: %s", name, err, store.ErrUnavailable, reason)
		}
	}
	reopen := func() {
		t.Helper()
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		passed = 7 * time.Minute // of another start of the machine
		if log, err = bolt.Open(path, config); err != nil {
			t.Fatal(err)
		}
	}
	try("at the beginning", "")
	pass(400 * 24 * time.Hour)
	try("after a year in which nobody asked", "")
	clock.Move(23 * time.Hour)
	try("a clock that was wrong by less than a day", "")
	clock.Move(365 * 24 * time.Hour)
	try("a clock of next year", "more than the time that passed since the log was opened")
	clock.Move(-365 * 24 * time.Hour)
	try("a clock that was set right", "")
	clock.Move(365 * 24 * time.Hour)
	try("a clock of next year, again", "start the daemon again")
	reopen()
	try("a clock of next year, after a start that trusts it", "")
	clock.Move(-365 * 24 * time.Hour)
	try("a clock of this year, after that", "the log goes on when that time has come")
	reopen()
	try("the same after a start", "set the clock if it is wrong")
	clock.Move(365 * 24 * time.Hour) // a machine without a clock of its own hears the time after the start
	try("a clock that caught up with the log", "")
	pass(time.Hour)
	try("an hour later", "")
}
