package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/server"
	"github.com/hallpass-ssh/hallpass/store"
)

// Observers are those of a daemon whose calls are not traced.
func Observers() (ca.Observer, server.Observer) {
	d := &daemon{cfg: &Config{}, metrics: newMetrics()}
	d.cfg.Metrics.Listen = "127.0.0.1:0" // or there is nothing to observe for
	return d.observers(nil)
}

// Beside is beside, for what no configuration brings to hang.
type Beside struct {
	Name  string
	Run   func(ctx context.Context)
	Close func() error
}

// StartBeside is startBeside.
func StartBeside(ctx context.Context, all []Beside, logger *slog.Logger) (stop func() error) {
	var sinks []beside
	for _, b := range all {
		sinks = append(sinks, beside{"sink", b.Name, b.Run, b.Close})
	}
	return startBeside(ctx, sinks, logger)
}

// Push lets a witness push once, and says whether it looks well.
func Push(push func(ctx context.Context, checkpoint []byte) error, log store.Reader, logger *slog.Logger) (step func(ctx context.Context), up func() bool) {
	w := &witness{push: push, logger: logger, now: time.Now, seen: witnessStatus{up: true}}
	return func(ctx context.Context) { w.step(ctx, witnessTimeout, log) }, func() bool { return w.status().up }
}
