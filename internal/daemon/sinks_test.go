package daemon_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// The log is sent on while the daemon runs, goes on after a restart, and holds nobody up that it cannot reach.
func TestTheDaemonSendsItsLogOn(t *testing.T) {
	s := stack.New(t, "", `sinks:
- {name: file, file: audit.jsonl}
- {name: nobody, syslog: "unixgram:///nowhere/at/all"}
`)
	path := filepath.Join(s.Dir, "audit.jsonl")
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
