package ca

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// The bounds that no configuration can pass.
const (
	hardMaxTTL  = 24 * time.Hour
	hardMaxSkew = 5 * time.Minute
	// clockTolerance is how far the clock of a caller may be off.
	clockTolerance = 5 * time.Minute
	// recordTimeout bounds a record that is written although the caller may be gone.
	recordTimeout = 10 * time.Second
	// maxDecisions bounds how often one request is decided because the policy changed under it.
	maxDecisions = 4
)

// CA issues certificates. Its fields are its configuration and what it stands on; make one with New and change nothing
// afterwards. Its methods are safe for concurrent use.
type CA struct {
	// Authenticate verifies an ID token at a time. A Caller with issuer, subject and kind that comes with an error is a known identity whose
	// refusal is recorded (the rule for emails, say); an error without one is that of a stranger. Required.
	Authenticate func(ctx context.Context, token string, now time.Time) (Caller, error)
	// Parse reads the wire form of a request. It is called only after the signature over these bytes was checked. Required.
	Parse func(signed []byte) (Request, error)
	// ParsePossession reads the wire form of a proof of possession, likewise. Required.
	ParsePossession func(signed []byte) (Possession, error)
	// Rules returns the policy in force. Required; while it returns nil nothing is issued.
	Rules func() Rules
	// Lists returns what is at hand of the lists that these rules want fetched, sorted by name. It MUST NOT wait for anything.
	// Nil means that there are none.
	Lists func(Rules) []FetchedList
	// Newer waits until Rules returns another policy than this one, which the log says is no longer in force, or until ctx is done.
	// Nil is for rules that are never behind the log.
	Newer func(ctx context.Context, than PolicyRef)
	// Log makes attempts durable. Required.
	Log Log
	// Authorities sign, by name. At least one; every key has one purpose, see CheckDistinct.
	Authorities map[string]*Authority
	// ServerNames are the names under which callers may have dialled this CA. At least one.
	ServerNames []string
	// MaxTTL is a cap above every policy. Zero means 24 hours, which is also the most it can be.
	MaxTTL time.Duration
	// Skew backdates certificates for servers whose clocks are behind. Zero means one minute; at most five.
	Skew time.Duration
	// SignTimeout bounds one signature, so that a dead signer cannot pile up calls. Zero means 10 seconds.
	SignTimeout time.Duration
	// Admit limits the rate of one identity. What it refuses is counted by it and not recorded. Nil admits all.
	Admit func(Caller, netip.Addr) error
	// Stranger is told of each call that no identity stands behind and where it came from, and says what the caller is told: the
	// reason, or that there were too many. Nil gives the reason.
	Stranger func(from netip.Addr, reason error) error
	// Observer is told what happens, for metrics and traces. Nothing depends on it.
	Observer Observer
	// Now is the clock, read once for each call. Nil means time.Now.
	Now func() time.Time
	// Rand is the source of certificate nonces and signatures. Nil means crypto/rand.
	Rand io.Reader
	// Logger gets faults of the daemon, never a token. Nil discards them.
	Logger *slog.Logger
}

// New checks c and fills in its defaults.
func New(c CA) (*CA, error) {
	switch {
	case c.Authenticate == nil || c.Parse == nil || c.ParsePossession == nil || c.Rules == nil || c.Log == nil:
		return nil, errors.New("make CA: Authenticate, Parse, ParsePossession, Rules and Log are required")
	case len(c.Authorities) == 0:
		return nil, errors.New("make CA: no Authority to sign with")
	case len(c.ServerNames) == 0 || slices.Contains(c.ServerNames, ""):
		return nil, errors.New("make CA: no server name, or an empty one: requests are made for a server by its name")
	case c.MaxTTL < 0 || c.MaxTTL > hardMaxTTL:
		return nil, fmt.Errorf("make CA: the cap of %v on lifetimes is not within 0 and %v", c.MaxTTL, hardMaxTTL)
	case c.Skew < 0 || c.Skew > hardMaxSkew || c.Skew%time.Second != 0:
		return nil, fmt.Errorf("make CA: backdating by %v is not within 0 and %v in whole seconds", c.Skew, hardMaxSkew)
	}
	for name, a := range c.Authorities {
		if a == nil || a.Name != name {
			return nil, fmt.Errorf("make CA: the Authority listed as %q is another", name)
		}
	}
	if err := CheckDistinct(c.Authorities, nil); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	c.MaxTTL = cmp.Or(c.MaxTTL, hardMaxTTL)
	c.Skew = cmp.Or(c.Skew, time.Minute)
	c.SignTimeout = cmp.Or(c.SignTimeout, 10*time.Second)
	if c.Newer == nil {
		c.Newer = func(context.Context, PolicyRef) {}
	}
	if c.Admit == nil {
		c.Admit = func(Caller, netip.Addr) error { return nil }
	}
	if c.Stranger == nil {
		c.Stranger = func(_ netip.Addr, reason error) error { return reason }
	}
	if c.Lists == nil {
		c.Lists = func(Rules) []FetchedList { return nil }
	}
	c.Observer = c.Observer.withDefaults()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &c, nil
}
