package server_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/server"
)

var now = time.Date(2026, time.November, 23, 9, 0, 0, 0, time.UTC)

func caller(subject string) ca.Caller {
	return ca.Caller{Identity: ca.Identity{Issuer: "https://login.example.com", Subject: subject, Kind: ca.Person}}
}

func TestAnIdentityAboveItsRateIsRefusedCountedAndAlone(t *testing.T) {
	l := server.NewLimiter(server.Rates{Identity: 0.001, IdentityBurst: 3}, now)
	addr := netip.MustParseAddr("127.0.0.1")
	for i := range 3 {
		if err := l.Admit(caller("alice"), addr); err != nil {
			t.Fatalf("request %d within the burst: %v", i, err)
		}
	}
	for range 2 {
		if err := l.Admit(caller("alice"), addr); ca.KindOf(err) != ca.Exhausted {
			t.Fatalf("a request above the rate: got %v, want kind exhausted", err)
		}
	}
	if err := l.Admit(caller("bob"), addr); err != nil {
		t.Errorf("another identity: %v", err)
	}

	later := now.Add(time.Minute)
	want := server.Tally{From: now, To: later, Strangers: map[string]uint64{}, Refused: []server.Refused{{Caller: caller("alice"), Count: 2}}}
	if diff := cmp.Diff(want, l.Drain(later)); diff != "" {
		t.Errorf("tally (-want +got):\n%s", diff)
	}
	if got := l.Drain(later); len(got.Refused) != 0 || got.From != later {
		t.Errorf("a second drain returns %+v, want an empty tally from %s on", got, later)
	}
	if got := l.Totals(); got.Identities != 2 || got.Addresses != 0 {
		t.Errorf("the totals after that are %+v", got)
	}
}

func TestAnAddressIsHeldBackByItsOwnFailuresOnly(t *testing.T) {
	l := server.NewLimiter(server.Rates{Strangers: 0.001, StrangersBurst: 2}, now)
	bad, good := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	expired, down := ca.Errorf(ca.Unauthenticated, "expired"), ca.Errorf(ca.Unavailable, "issuer down")
	for range 2 {
		if err := l.Stranger(bad, expired); !errors.Is(err, expired) || ca.KindOf(err) != ca.Unauthenticated {
			t.Fatalf("a stranger within the burst of its address is told %v, want the reason", err)
		}
	}
	if err := l.Stranger(bad, expired); ca.KindOf(err) != ca.Exhausted {
		t.Errorf("a stranger above it: got %v, want kind exhausted", err)
	}
	if err := l.Stranger(bad, down); ca.KindOf(err) != ca.Unavailable {
		t.Errorf("a stranger whose issuer is down: got %v, want the reason", err)
	}
	if err := l.Stranger(good, expired); ca.KindOf(err) != ca.Unauthenticated {
		t.Errorf("a stranger at another address: got %v, want the reason", err)
	}
	want := map[string]uint64{"unauthenticated": 4, "unavailable": 1}
	if diff := cmp.Diff(want, l.Drain(now).Strangers); diff != "" {
		t.Errorf("strangers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(server.Totals{Strangers: want, Addresses: 1}, l.Totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}
