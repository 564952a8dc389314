package server_test

import (
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
}

func TestAnAddressIsHeldBackByItsOwnFailuresOnly(t *testing.T) {
	l := server.NewLimiter(server.Rates{Strangers: 0.001, StrangersBurst: 2}, now)
	bad, good := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	for range 2 {
		if err := l.AdmitAddress(bad); err != nil {
			t.Fatalf("an address within its burst of failures: %v", err)
		}
		l.Stranger(bad, ca.Errorf(ca.Unauthenticated, "expired"))
	}
	if err := l.AdmitAddress(bad); ca.KindOf(err) != ca.Exhausted {
		t.Errorf("an address above its failures: got %v, want kind exhausted", err)
	}
	if err := l.AdmitAddress(good); err != nil {
		t.Errorf("another address: %v", err)
	}
	want := map[string]uint64{"unauthenticated": 2, "address above the limit of failed authentications": 1}
	if diff := cmp.Diff(want, l.Drain(now).Strangers); diff != "" {
		t.Errorf("strangers (-want +got):\n%s", diff)
	}
}
