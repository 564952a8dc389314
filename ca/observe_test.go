package ca_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// seen collects what an Observer is told, in words.
type seen struct {
	mu    sync.Mutex // guards words
	words []string
}

func (s *seen) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = append(s.words, fmt.Sprintf(format, args...))
}

// take returns what was seen since, and forgets it.
func (s *seen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	words := s.words
	s.words = nil
	return strings.Join(words, " ")
}

func (s *seen) observer(t *testing.T) ca.Observer {
	t.Helper()
	past := func(began time.Time) {
		if took := time.Since(began); took < 0 || took > time.Hour {
			t.Errorf("a step began %v ago", took)
		}
	}
	return ca.Observer{
		Step: func(_ context.Context, step ca.Step, began time.Time) { past(began); s.add("%s", step) },
		Issue: func(_ context.Context, began time.Time, issued *ca.Issued, err error) {
			past(began)
			if (issued == nil) == (err == nil) {
				t.Errorf("told of %v, %v", issued, err)
				return
			}
			if err != nil {
				s.add("refused:%s", ca.KindOf(err))
				return
			}
			s.add("issued:%s", issued.Decision.Environment.Authority)
		},
		SignatureFailed: func(authority string) { s.add("unsigned:%s", authority) },
	}
}

// An observer sees each step that was taken and what it came to, once; strangers take no step but the first.
func TestAnObserverSeesTheSteps(t *testing.T) {
	var seen seen
	s := newStand(t, func(c *ca.CA) { c.Observer = seen.observer(t) })
	want := func(what, words string) {
		t.Helper()
		if diff := cmp.Diff(words, seen.take()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	good := s.ask()
	s.issued(good)
	want("a certificate", "authenticate possession bind decide record sign issued:default")
	s.issued(good)
	want("the same again", "authenticate possession sign issued:")
	if _, err := s.DryRun(t.Context(), s.ask()); err != nil {
		t.Fatal(err)
	}
	want("a dry run", "authenticate possession bind decide")
	stranger := s.ask()
	stranger.Token = "nobody's"
	s.refused(stranger, ca.Unauthenticated, "", 0)
	want("a stranger", "authenticate")
	spoiled := s.ask()
	spoiled.SSHSIG = s.ask().SSHSIG
	s.refused(spoiled, ca.Unauthenticated, "", 1)
	want("a request of another key", "authenticate possession record refused:unauthenticated")
	s.setRules(&rules{decide: func(ca.Question) ca.Decision { return ca.Decision{Outcome: ca.Deny, Message: "no"} }})
	s.refused(s.ask(), ca.Denied, "no", 1)
	want("a refusal", "authenticate possession bind decide record refused:denied")
}

// A signature that fails is told of by the name of its Authority.
func TestAnObserverSeesAFailedSignature(t *testing.T) {
	var seen seen
	s := newStand(t, func(c *ca.CA) { c.Observer = seen.observer(t) })
	s.signer.sign = func([]byte) (*ssh.Signature, error) { return nil, errors.New("no") }
	if _, err := s.Issue(t.Context(), s.ask()); ca.KindOf(err) != ca.Unavailable {
		t.Fatalf("Issue: %v", err)
	}
	if got, want := seen.take(), "authenticate possession bind decide record sign unsigned:default refused:unavailable"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
