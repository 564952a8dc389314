package ca_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

func TestIssueGrantsWhatTheRuleGrants(t *testing.T) {
	s := newStand(t)
	cert, issued := s.issued(s.ask())
	if cert.CertType != ssh.UserCert || cert.Serial != issued.Index+1 || issued.Serial != cert.Serial {
		t.Errorf("type %d serial %d, issued %d at %d", cert.CertType, cert.Serial, issued.Serial, issued.Index)
	}
	if got := cert.ValidPrincipals; len(got) != 1 || got[0] != "deploy" {
		t.Errorf("principals %q", got)
	}
	now := uint64(s.now.Unix())
	if cert.ValidAfter != now-60 || cert.ValidBefore != now+uint64((2*time.Hour)/time.Second) {
		t.Errorf("valid from now%+d to now%+d", int64(cert.ValidAfter-now), int64(cert.ValidBefore-now))
	}
	if want := fmt.Sprintf("hallpass1 i=%d s=alice r=developers-on-prod p=3f2a9c1d0b7e", issued.Index); cert.KeyId != want {
		t.Errorf("key ID %q, want %q", cert.KeyId, want)
	}
	record := s.log.last()
	if !bytes.HasPrefix(issued.Certificate, record.toBeSigned) {
		t.Error("the certificate does not begin with the recorded bytes")
	}
	if record.attempt.Caller.Claims != nil {
		t.Error("the attempt carries claims that no policy declared")
	}
	if !record.proven || !record.attempt.Caller.Token.Bound || record.attempt.Authority != "default" {
		t.Errorf("recorded %+v", record.attempt)
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return s.now }}
	if err := checker.CheckCert("deploy", cert); err != nil {
		t.Error(err)
	}
}

// The lists that a policy sees are those for it, and are in the record; what is refused before a policy is asked saw none.
func TestFetchedListsAreRecorded(t *testing.T) {
	lists := []ca.FetchedList{{Name: "oncall", Fetched: time.Date(2026, 11, 23, 11, 59, 0, 0, time.UTC), Members: []string{"alice@example.com"}}}
	var asked []ca.FetchedList
	s := newStand(t, func(c *ca.CA) {
		c.Lists = func(of ca.Rules) []ca.FetchedList {
			if of.Ref() != c.Rules().Ref() {
				t.Error("asked for lists of another policy")
			}
			return lists
		}
	})
	s.setRules(&rules{decide: func(q ca.Question) ca.Decision {
		asked = q.Lists
		return ca.Decision{Outcome: ca.Deny, Message: "no"}
	}})
	if _, err := s.Issue(t.Context(), s.ask()); err == nil {
		t.Fatal("not refused")
	}
	recorded := s.log.last().attempt.Lists
	if !reflect.DeepEqual(asked, lists) || !reflect.DeepEqual(recorded, lists) {
		t.Errorf("asked with %v, recorded %v", asked, recorded)
	}
	call := s.ask()
	call.SSHSIG = nil
	if _, err := s.Issue(t.Context(), call); err == nil {
		t.Fatal("not refused")
	}
	if got := s.log.last().attempt.Lists; got != nil {
		t.Errorf("a refusal without a policy has lists: %v", got)
	}
}

func TestDryRunRecordsAndSignsNothing(t *testing.T) {
	s := newStand(t)
	plan, err := s.DryRun(t.Context(), s.ask())
	if err != nil {
		t.Fatal(err)
	}
	if plan.TTL != 2*time.Hour || len(plan.Principals) != 1 || plan.Principals[0] != "deploy" || plan.Decision.Outcome != ca.Allow {
		t.Errorf("planned %+v", plan)
	}
	if s.log.size() != 0 || s.signer.signed.Load() != 0 {
		t.Errorf("%d records, %d signatures", s.log.size(), s.signer.signed.Load())
	}
}
