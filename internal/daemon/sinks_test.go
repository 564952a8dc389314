package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// The log is sent on while the daemon runs, goes on after a restart, and holds nobody up that it cannot reach.
func TestTheDaemonSendsItsLogOn(t *testing.T) {
	s := stack.New(t, "", `sinks:
- {name: file, file: audit/now/log.jsonl}
- {name: nobody, syslog: "unixgram:///nowhere/at/all"}
`)
	path := filepath.Join(s.Dir, "audit", "now", "log.jsonl")
	await := func(want int) []sink.Event {
		t.Helper()
		for {
			text, err := os.ReadFile(path)
			if err == nil && strings.Count(string(text), "\n") >= want {
				var events []sink.Event
				for line := range strings.Lines(string(text)) {
					var e sink.Event
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						t.Fatal(err)
					}
					events = append(events, e)
				}
				return events
			}
			select {
			case <-t.Context().Done():
				t.Fatalf("%s never had %d lines:\n%s", path, want, s.Output)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	s.Run()
	alice := s.Forge("alice", nil)
	issue(t, s, alice)
	s.Output.Await(t, 0, "sink does not get on")
	events := await(5) // the genesis, two CA keys, the policy, the certificate
	last := events[len(events)-1]
	if last.Event.Action != "certificate_granted" || last.User.Email != "alice@example.com" || last.User.Target.Name != "deploy" ||
		last.Target.Domain != "app1.staging.example.com" || last.Own.Environment != "staging" || last.Own.Serial == "" {
		t.Errorf("the certificate looks like %+v", last)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has the mode %v, %v", info.Mode(), err)
	}
	s.Stop()
	s.Run()
	issue(t, s, alice)
	s.Stop()
	records := s.Records()
	for i, e := range await(len(records)) {
		if e.Event.Sequence != uint64(i) {
			t.Fatalf("line %d is record %d", i, e.Event.Sequence)
		}
	}
}

// issue asks for the certificate that the example policy gives to developers.
func issue(t *testing.T, s *stack.Stack, who client.SignIn) {
	t.Helper()
	if _, err := s.Client().Issue(t.Context(), who, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); err != nil {
		t.Fatal(err)
	}
}

// What is plain before anything runs, check says, and makes nothing.
func TestCheckNamesFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	config := string(read(t, filepath.Join(dir, daemon.ConfigName)))
	for _, tt := range []struct{ parts, want string }{
		{"sinks: [{name: s, file: audit/now/log.jsonl}]\nwitnesses: [{file: seen/checkpoints}]", ""},
		{"sinks: [{name: s, file: /nowhere/at/all/log.jsonl}]", "sinks.s: the folder of /nowhere/at/all/log.jsonl does not exist: make it"},
		{"witnesses: [{file: /nowhere/at/all/checkpoints}]", "witnesses: number 1: the folder of /nowhere/at/all/checkpoints does not exist"},
		{"sinks: [{name: s, file: hallpassd.yaml/log.jsonl}]", "is no folder, and log.jsonl was to be in it"},
		{fmt.Sprintf("sinks: [{name: s, file: %q}]", pipe), "sinks.s: " + pipe + " is not a regular file: name one"},
	} {
		write(t, filepath.Join(dir, daemon.ConfigName), config+"\n"+tt.parts+"\n")
		code, out := program(t, "check", "--dir", dir)
		if (code == 0) != (tt.want == "") || !strings.Contains(out, tt.want) {
			t.Errorf("%s: code %d, %s", tt.parts, code, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "audit")); !os.IsNotExist(err) {
			t.Errorf("%s: check made a folder: %v", tt.parts, err)
		}
	}
}
