package server

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/time/rate"
)

// Rates says how much is allowed. Zero fields take the default.
type Rates struct {
	// Identity is how many requests one identity may make per second, on average; default 50.
	Identity rate.Limit
	// IdentityBurst is how many it may make at once; default 1000, which is Ansible on 500 hosts, twice.
	IdentityBurst int
	// Strangers is how many failed authentications of one address are told their reason per second; default 5. Those above
	// it are told to come again later. What they cost is bounded by the connections and streams of an address.
	Strangers rate.Limit
	// StrangersBurst is how many are told at once; default 100.
	StrangersBurst int
}

func (r Rates) withDefaults() Rates {
	if r.Identity == 0 {
		r.Identity = 50
	}
	if r.IdentityBurst == 0 {
		r.IdentityBurst = 1000
	}
	if r.Strangers == 0 {
		r.Strangers = 5
	}
	if r.StrangersBurst == 0 {
		r.StrangersBurst = 100
	}
	return r
}

// maxTracked bounds each table of limiters. Past it, the entries that are full again are dropped: they allow what a new one would.
const maxTracked = 20000

// Limiter holds the rate limits, and counts what they and failed authentication keep out of the log until it is summed up.
type Limiter struct {
	rates Rates

	mu         sync.Mutex // guards all below
	identities map[identityKey]*rate.Limiter
	addresses  map[netip.Prefix]*rate.Limiter
	strangers  map[string]uint64
	refused    map[identityKey]*Refused
	since      time.Time
	totals     Totals
}

// Totals is what a Limiter counted since it was made.
type Totals struct {
	Strangers map[string]uint64 // by what was wrong with them
	// Identities and Addresses are how many calls were above the rate of an identity, and of an address of strangers.
	Identities, Addresses uint64
}

type identityKey struct{ issuer, subject string }

// Refused counts requests of one identity that were above the rate limit.
type Refused struct {
	Caller ca.Caller
	Count  uint64
}

// Tally is what was kept out of the log in an interval.
type Tally struct {
	From, To  time.Time
	Strangers map[string]uint64 // by reason
	Refused   []Refused
}

// NewLimiter returns a limiter that begins to count now.
func NewLimiter(rates Rates, now time.Time) *Limiter {
	return &Limiter{
		rates:      rates.withDefaults(),
		identities: map[identityKey]*rate.Limiter{},
		addresses:  map[netip.Prefix]*rate.Limiter{},
		strangers:  map[string]uint64{},
		refused:    map[identityKey]*Refused{},
		since:      now,
		totals:     Totals{Strangers: map[string]uint64{}},
	}
}

// Admit says whether an identity may make another request now. What it refuses, it counts.
func (l *Limiter) Admit(caller ca.Caller, _ netip.Addr) error {
	key := identityKey{caller.Identity.Issuer, caller.Identity.Subject}
	l.mu.Lock()
	defer l.mu.Unlock()
	if take(l.identities, key, l.rates.Identity, l.rates.IdentityBurst) {
		return nil
	}
	if l.refused[key] == nil {
		l.refused[key] = &Refused{Caller: caller}
	}
	l.refused[key].Count++
	l.totals.Identities++
	return &ca.Error{
		Kind:       ca.Exhausted,
		Message:    "too many requests: this identity is above its rate limit",
		RetryAfter: time.Duration(float64(time.Second) / float64(l.rates.Identity)),
	}
}

// Stranger counts a call that no identity stands behind, and returns what its caller is told. Past the limit of its address that
// is no more than to come again later. Only the call that is at fault counts against the address, and not one whose issuer's
// keys cannot be had; and whoever has a good token is never held back by others behind the same address.
func (l *Limiter) Stranger(addr netip.Addr, reason error) error {
	kind := ca.KindOf(reason)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strangers[kind.String()]++
	l.totals.Strangers[kind.String()]++
	if kind != ca.Unauthenticated || take(l.addresses, network(addr), l.rates.Strangers, l.rates.StrangersBurst) {
		return reason
	}
	l.totals.Addresses++
	return &ca.Error{
		Kind:       ca.Exhausted,
		Message:    "too many failed authentications from this address",
		Err:        reason,
		RetryAfter: time.Duration(float64(time.Second) / float64(l.rates.Strangers)),
	}
}

// Totals returns what was counted so far.
func (l *Limiter) Totals() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.totals
	t.Strangers = maps.Clone(t.Strangers)
	return t
}

// Drain returns what was counted since the last Drain, and begins anew.
func (l *Limiter) Drain(now time.Time) Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	tally := Tally{From: l.since, To: now, Strangers: l.strangers}
	for _, r := range l.refused {
		tally.Refused = append(tally.Refused, *r)
	}
	l.strangers, l.refused, l.since = map[string]uint64{}, map[identityKey]*Refused{}, now
	return tally
}

// take takes a token of key's bucket. The caller holds the lock.
func take[K comparable](table map[K]*rate.Limiter, key K, limit rate.Limit, burst int) bool {
	bucket, ok := table[key]
	if !ok {
		if len(table) >= maxTracked {
			forgetFull(table, burst)
		}
		bucket = rate.NewLimiter(limit, burst)
		table[key] = bucket
	}
	return bucket.Allow()
}

// forgetFull drops the buckets that are full, and all of them if none is: a flood of addresses must not fill the memory.
func forgetFull[K comparable](table map[K]*rate.Limiter, burst int) {
	for key, bucket := range table {
		if bucket.Tokens() >= float64(burst) {
			delete(table, key)
		}
	}
	if len(table) >= maxTracked {
		clear(table)
	}
}
