package idtoken

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

const (
	refreshEvery = 10 * time.Minute // so long may a key serve after its issuer withdrew it
	retryEvery   = 10 * time.Second // after a failure
	// askEvery is how often callers can make the issuer be asked again: whoever invents key ids must not make us flood it.
	askEvery = 10 * time.Second
)

var errNotStarted = errors.New("not fetched yet")

// source keeps the keys of one issuer. One goroutine, run, fetches them; callers wait for it.
type source struct {
	url      string
	client   *http.Client
	maxStale time.Duration
	now      func() time.Time
	wake     chan struct{} // tells run that callers wait; holds one

	mu      sync.Mutex // guards what follows
	running bool
	keys    []*key
	fetched time.Time     // of the latest success; zero if there was none
	err     error         // of the latest attempt
	failed  uint64        // attempts
	asked   time.Time     // when a caller last made run fetch
	flight  chan struct{} // closed when the fetch that is wanted or under way ends; nil if there is none
}

func newSource(i *Issuer, now func() time.Time) (*source, error) {
	client, err := i.http().Client()
	if err != nil {
		return nil, err
	}
	return &source{
		url: i.URL, client: client, maxStale: i.MaxStale, now: now, wake: make(chan struct{}, 1), err: errNotStarted,
	}, nil
}

// start says that run is about to be called, so that callers wait for its first fetch.
func (s *source) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.flight = true, make(chan struct{})
}

// run fetches the keys now and again until ctx ends.
func (s *source) run(ctx context.Context) {
	defer s.stop()
	for ctx.Err() == nil {
		keys, err := s.fetchKeys(ctx)
		wait := min(refreshEvery, s.maxStale/2)
		if err != nil {
			wait = retryEvery
		}
		s.publish(keys, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			s.depart()
		case <-s.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (s *source) stop() {
	s.mu.Lock()
	s.running = false
	s.land()
	s.mu.Unlock()
	s.client.CloseIdleConnections()
}

// depart opens a flight for a fetch that no caller asked for, so that those who come while it is under way wait for it.
func (s *source) depart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.wake: // this fetch serves whoever asked just now
	default:
	}
	if s.flight == nil {
		s.flight = make(chan struct{})
	}
}

func (s *source) publish(keys []*key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if err == nil {
		s.keys, s.fetched = keys, s.now()
	} else {
		s.failed++
	}
	s.land()
}

// land ends the flight. The caller must hold the lock.
func (s *source) land() {
	if s.flight != nil {
		close(s.flight)
		s.flight = nil
	}
}

// find returns the key that a token names, or the only one if it names none. If there is none it has the issuer asked again, and
// waits for that until ctx ends.
func (s *source) find(ctx context.Context, id string) (*key, *ca.Error) {
	k, refusal := s.lookup(id)
	if k != nil {
		return k, nil
	}
	flight := s.ask()
	if flight == nil {
		return nil, refusal
	}
	select {
	case <-flight:
		return s.lookup(id)
	case <-ctx.Done():
		return nil, s.unavailable(ctx.Err())
	}
}

// ask has the keys fetched and returns what will be closed when they are; nil if they were asked for too recently.
func (s *source) ask() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight
	}
	now := s.now()
	// An earlier now means that the clock was set back, and says nothing.
	if !s.running || !now.Before(s.asked) && now.Sub(s.asked) < askEvery {
		return nil
	}
	s.asked, s.flight = now, make(chan struct{})
	select {
	case s.wake <- struct{}{}:
	default: // run has yet to take the last one
	}
	return s.flight
}

func (s *source) lookup(id string) (*key, *ca.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetched.IsZero() || s.now().Sub(s.fetched) > s.maxStale {
		return nil, s.unavailable(s.err)
	}
	var found *key
	for _, k := range s.keys {
		if id != "" && k.id != id {
			continue
		}
		if found != nil && id == "" {
			return nil, refuse("the ID token does not say which of its issuer's keys signed it (no kid)")
		}
		if found != nil {
			return nil, refuse("the ID token names key %.100q, and its issuer has two of that name", id)
		}
		found = k
	}
	switch {
	case found != nil:
		return found, nil
	case s.err != nil: // the key may be new, and we cannot ask
		return nil, s.unavailable(s.err)
	}
	return nil, refuse("the ID token was signed by key %.100q, which its issuer does not publish; if it has just changed its keys, try again in %s", id, askEvery)
}

func (s *source) unavailable(cause error) *ca.Error {
	return &ca.Error{
		Kind: ca.Unavailable, Message: "the keys of issuer " + s.url + " cannot be had at the moment", Err: cause, RetryAfter: retryEvery,
	}
}

// health reports on the keys. Name and URL are the caller's to know.
func (s *source) health() IssuerHealth {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := IssuerHealth{Age: -1, Keys: len(s.keys), Failures: s.failed}
	switch {
	case s.err != nil:
		h.Error = issuerhttp.Explain(s.err)
	case len(s.keys) == 0:
		h.Error = "the issuer publishes no key that can be used"
	}
	if !s.fetched.IsZero() {
		h.Age = s.now().Sub(s.fetched)
		h.OK = len(s.keys) > 0 && h.Age <= s.maxStale
	}
	return h
}
