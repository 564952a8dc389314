package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// endTimeout is how long a daemon that ends waits for what runs beside it: a sink or a witness may hang on a file system whose server is
// gone, and nothing gets it out of there.
const endTimeout = 5 * time.Second

// beside is what runs beside the daemon, until its context is done.
type beside struct {
	kind, name string // for operators
	run        func(ctx context.Context)
	close      func() error // lets go of what it has once it has ended; nil for nothing
}

// startBeside returns once all run. The function that it returns ends them, and goes on without those that hang.
func startBeside(ctx context.Context, all []beside, logger *slog.Logger) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make([]chan struct{}, len(all))
	for i, b := range all {
		ended[i] = make(chan struct{})
		go func() { defer close(ended[i]); b.run(ctx) }()
	}
	return func() error {
		cancel()
		late, done := context.WithTimeout(context.Background(), endTimeout) // for all together
		defer done()
		var errs []error
		for i, b := range all {
			switch {
			case !endedBefore(late, ended[i]):
				logger.Warn(b.kind+" hangs: the daemon ends without it", b.kind, b.name, "waited", endTimeout.String())
			case b.close != nil:
				errs = append(errs, b.close())
			}
		}
		return errors.Join(errs...)
	}
}

// endedBefore waits until something has ended or it is late. What has ended counts, however late it is.
func endedBefore(late context.Context, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	case <-late.Done():
	}
	select {
	case <-ended:
		return true
	default:
		return false
	}
}
