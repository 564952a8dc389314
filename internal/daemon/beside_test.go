package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/store"
)

// TestADaemonEndsWithoutASinkThatHangs ends what can be ended.
func TestADaemonEndsWithoutASinkThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, closed := make(chan struct{}), 0
		hangs := func(context.Context) { <-gone }
		ends := func(ctx context.Context) { <-ctx.Done(); time.Sleep(time.Second) }
		var said bytes.Buffer
		stop := daemon.StartBeside(t.Context(), []daemon.Beside{
			{"first", hangs, func() error { t.Error("a sink that hangs was closed"); return nil }},
			{"second", hangs, nil},
			{"third", ends, func() error { closed++; return errors.New("it is hard to close") }},
		}, slog.New(slog.NewTextHandler(&said, nil)))
		began := time.Now()
		if err := stop(); err == nil || err.Error() != "it is hard to close" || closed != 1 {
			t.Errorf("error %v, closed %d times", err, closed)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %s", took)
		}
		for _, want := range []string{"sink=first", "sink=second"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("the operators were not told %q: %s", want, &said)
			}
		}
		if strings.Contains(said.String(), "third") {
			t.Errorf("the operators were told: %s", &said)
		}
		close(gone)
	})
}

// aLog has a checkpoint, and nothing else.
type aLog struct{ store.Reader }

func (aLog) Checkpoint(context.Context) ([]byte, error) { return []byte("checkpoint"), nil }

// TestAWitnessThatHangsDoesNotLookWell has one that cannot be broken off.
func TestAWitnessThatHangsDoesNotLookWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		var said bytes.Buffer
		step, up := daemon.Push(func(context.Context, []byte) error { <-gone; return nil }, aLog{}, slog.New(slog.NewTextHandler(&said, nil)))
		go step(t.Context())
		time.Sleep(9 * time.Second)
		if !up() {
			t.Error("it looks ill after 9 seconds")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if up() || !strings.Contains(said.String(), "it hangs") {
			t.Errorf("it looks well after 12 seconds; the operators were told: %s", &said)
		}
		close(gone)
		synctest.Wait()
		if !up() {
			t.Error("it looks ill after it came back")
		}
	})
}
