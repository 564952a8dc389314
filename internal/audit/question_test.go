package audit_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
)

// What the policy was asked comes back from the record and its blobs alone.
func TestQuestionIsWhatThePolicyWasAsked(t *testing.T) {
	a := refusal()
	a.Caller.Identity.Email, a.Caller.Identity.Groups = "alice@example.com", []string{"developers", "sre"}
	a.Caller.Identity.Claims = map[string]any{"contractor": true, "level": int64(3), "team": "db", "sites": []string{"b", "a"}}
	a.Caller.Token = ca.Token{Digest: [32]byte{1}, AuthTime: noon.Add(-time.Minute), IssuedAt: noon, Expires: noon.Add(time.Hour), Bound: true}
	a.Request = ca.Request{
		PublicKey: ca.DescribedKey("ssh-ed25519"), Login: "deploy", Host: "db1.prod.example.com", TTL: time.Hour, Reason: "INC-1",
		Rule: "sre-on-prod", BreakGlass: true, ClientTime: noon, Nonce: [16]byte{2}, SourceIP: netip.MustParseAddr("192.0.2.1"), Digest: [32]byte{3},
	}
	a.Now = noon.Add(123456789)
	a.Policy = ca.PolicyRef{Digest: [32]byte{4}}
	a.Lists = []ca.FetchedList{
		{Name: "empty", Fetched: noon.Add(-time.Hour), Members: []string{}},
		{Name: "oncall", Fetched: noon.Add(-time.Minute), Members: []string{"alice@example.com", "bob@example.com"}},
	}
	snapshot, err := audit.Snapshot(a.Caller.Identity, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := parse(t, marshal(t, audit.Decided(a, audit.Digest(snapshot), nil), 1)).GetDecided()
	got, err := audit.Question(d, snapshot, audit.Lists(a.Lists))
	if err != nil {
		t.Fatal(err)
	}
	want := ca.Question{Identity: a.Caller.Identity, Token: a.Caller.Token, Request: a.Request, Now: a.Now, Lists: a.Lists}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("question (-asked +recorded):\n%s", diff)
	}
	if _, err := audit.Question(d, nil, audit.Lists(a.Lists)); !errors.Is(err, audit.ErrErased) {
		t.Errorf("without its snapshot: %v", err)
	}
	if _, err := audit.Question(d, snapshot, nil); err == nil || errors.Is(err, audit.ErrErased) {
		t.Errorf("without its fetched lists, which are never erased: %v", err)
	}
	other := audit.Lists([]ca.FetchedList{a.Lists[1]})
	if _, err := audit.Question(d, snapshot, other); err == nil {
		t.Error("lists that the record does not cite are believed")
	}
	snapshot[len(snapshot)-1] ^= 1
	if _, err := audit.Question(d, snapshot, audit.Lists(a.Lists)); err == nil {
		t.Error("a snapshot that the record does not cite is believed")
	}
}
