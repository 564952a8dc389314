package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
)

const (
	// batch is how many records are handed over at once, so that a sink that catches up makes way fast and holds little.
	batch = 100
	// maxBatchBytes ends a batch early: records of refusals can be large.
	maxBatchBytes = 1 << 20
	// firstWait and lastWait bound how long a sink rests after a failure; each one doubles it.
	firstWait = time.Second
	lastWait  = time.Minute
	// sendTimeout bounds one attempt.
	sendTimeout = 30 * time.Second
	// hangGrace is how much longer one may take before it is told that the sink hangs.
	hangGrace = time.Second
)

// errHangs: a target that writes to a file of a server that is gone cannot be broken off.
var errHangs = fmt.Errorf("it hangs: the last attempt has not come to an end within %s", sendTimeout)

// Target is where a sink sends events. The four there are: File, Syslog, Webhook and OTLP.
type Target interface {
	// Send hands events over, all of them or with an error. It must not keep them.
	Send(ctx context.Context, events []Event) error
	// Close lets go of connections and files.
	Close() error
}

// RejectedError says that a target took some events, and will never take the others: to send them again would not help.
type RejectedError struct {
	Count  int64
	Reason string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%d events were refused for good: %s", e.Count, e.Reason)
}

// Config is what a sink needs. All fields are required.
type Config struct {
	// Name is that of the sink among those of the daemon, and of the file that says where it stopped.
	Name   string
	Target Target
	Store  store.Store
	LogID  string
	// Dir holds the cursors.
	Dir    string
	Logger *slog.Logger
}

// Sink sends the log to one target.
type Sink struct {
	cfg    Config
	cursor *cursor

	mu     sync.Mutex // guards status
	status Status
}

// Status is how far a sink has come.
type Status struct {
	Name string
	// Next is the first record that was not handed over yet.
	Next uint64
	// Err is why it does not get on, nil if it does.
	Err error
	// Since is when that began.
	Since time.Time
	// Failures is how many attempts failed since Open, Failed when the newest one did; zero if none did.
	Failures uint64
	Failed   time.Time
	// Rejected is how many events its target refused for good, since Open.
	Rejected uint64
}

// Open finds where a sink stopped.
func Open(ctx context.Context, cfg Config) (*Sink, error) {
	c, err := openCursor(ctx, cfg.Store, cfg.LogID, cursorPath(cfg.Dir, cfg.Name))
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", cfg.Name, err)
	}
	if c.back {
		cfg.Logger.Warn("the log was restored and has other records than the sink was sent: the sink goes on at the first of those", "sink", cfg.Name, "next", c.Next)
	}
	return &Sink{cfg: cfg, cursor: c, status: Status{Name: cfg.Name, Next: c.Next}}, nil
}

// Next is the first record of a log that a sink was not sent yet, for those who only ask.
func Next(ctx context.Context, log store.Reader, logID, dir, name string) (uint64, error) {
	c, err := openCursor(ctx, log, logID, cursorPath(dir, name))
	if err != nil {
		return 0, fmt.Errorf("sink %s: %w", name, err)
	}
	return c.Next, nil
}

func cursorPath(dir, name string) string { return filepath.Join(dir, name+".cursor") }

// Status returns how far the sink has come.
func (s *Sink) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Run sends until ctx is done. What fails is tried again, without end: a target that is down is caught up with later.
func (s *Sink) Run(ctx context.Context) {
	wait := firstWait
	for ctx.Err() == nil {
		err := s.step(ctx)
		if ctx.Err() != nil {
			return
		}
		s.note(err)
		if err == nil {
			wait = firstWait
			continue
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastWait)
	}
}

// note keeps the status, and tells the operators of a change.
func (s *Sink) note(err error) {
	s.mu.Lock()
	before := s.status
	s.status.Next, s.status.Err = s.cursor.Next, err
	if err != nil {
		s.status.Failures++
		s.status.Failed = time.Now()
		if before.Err == nil {
			s.status.Since = s.status.Failed
		}
	}
	s.mu.Unlock()
	switch {
	case err != nil && before.Err == nil:
		s.cfg.Logger.Warn("sink does not get on: it tries again, and catches up", "sink", s.cfg.Name, "next", s.cursor.Next, "error", err)
	case err == nil && before.Err != nil:
		s.cfg.Logger.Info("sink gets on again", "sink", s.cfg.Name, "next", s.cursor.Next)
	}
}

// step waits for records and hands some over.
func (s *Sink) step(ctx context.Context) error {
	if err := s.cfg.Store.Wait(ctx, s.cursor.Next); err != nil {
		return err
	}
	events, err := s.read(ctx)
	if err != nil {
		return err
	}
	end := events[len(events)-1].Event.Sequence + 1 // some between may have been archived
	for i := range events {
		events[i].Own.Redelivered = events[i].Event.Sequence < s.cursor.Trying
	}
	if err := s.cursor.try(end); err != nil {
		return err
	}
	err = s.send(ctx, events)
	if rejected, ok := errors.AsType[*RejectedError](err); ok {
		s.cfg.Logger.Error("sink leaves events out that its target refuses", "sink", s.cfg.Name, "from", s.cursor.Next, "before", end, "error", rejected)
		s.mu.Lock()
		s.status.Rejected += uint64(max(0, rejected.Count))
		s.mu.Unlock()
		err = nil
	}
	if err != nil {
		return err
	}
	return s.cursor.done(end)
}

// send hands events over. Of a target that does not come back in time it is told meanwhile.
func (s *Sink) send(ctx context.Context, events []Event) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	late := make(chan struct{})
	hangs := time.AfterFunc(sendTimeout+hangGrace, func() { defer close(late); s.note(errHangs) })
	err := s.cfg.Target.Send(ctx, events)
	if !hangs.Stop() {
		<-late // so that what is noted of this attempt afterwards stays
	}
	return err
}

// read returns the next events, at least one.
func (s *Sink) read(ctx context.Context) ([]Event, error) {
	records, err := s.cfg.Store.Records(ctx, s.cursor.Next, batch)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("the log has no record %d", s.cursor.Next)
	}
	var events []Event
	size := 0
	for _, record := range records {
		if size += len(record); size > maxBatchBytes && len(events) > 0 {
			break
		}
		snapshot, err := s.snapshot(ctx, record)
		if err != nil {
			return nil, err
		}
		e, err := newEvent(s.cfg.LogID, record, snapshot)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// snapshot returns the identity that a record cites, nil if it cites none or one that was erased.
func (s *Sink) snapshot(ctx context.Context, record []byte) ([]byte, error) {
	r, err := audit.Parse(record)
	if err != nil {
		return nil, err
	}
	digest := audit.CallerOf(r).GetSnapshot()
	if len(digest) != 32 {
		return nil, nil
	}
	snapshot, err := s.cfg.Store.Blob(ctx, [32]byte(digest))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return snapshot, err
}

// Close lets go of the target, once Run has returned.
func (s *Sink) Close() error { return s.cfg.Target.Close() }
