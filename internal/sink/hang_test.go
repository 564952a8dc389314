package sink_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// hanging is a target that comes back when it is let go, whatever its context says.
type hanging struct{ letGo chan struct{} }

func (h hanging) Send(context.Context, []sink.Event) error { <-h.letGo; return nil }

func (h hanging) Close() error { return nil }

// TestASinkThatHangsDoesNotLookWell has a target that cannot be broken off.
func TestASinkThatHangsDoesNotLookWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		target := hanging{make(chan struct{})}
		s, done := w.run(target)
		time.Sleep(29 * time.Second)
		if err := s.Status().Err; err != nil {
			t.Errorf("after 29 seconds: %v", err)
		}
		time.Sleep(3 * time.Second)
		if err := s.Status().Err; err == nil || !strings.Contains(err.Error(), "it hangs") {
			t.Errorf("after 32 seconds: %v", err)
		}
		if said := w.said.String(); !strings.Contains(said, "sink does not get on") {
			t.Errorf("the operators were told: %s", said)
		}
		close(target.letGo)
		w.await(func() bool { return s.Status().Next == w.size() })
		if err := s.Status().Err; err != nil {
			t.Errorf("after it came back: %v", err)
		}
		done()
	})
}
