package ca_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

// I1: whenever the agent is asked to sign, these very bytes are in the log.
func TestNothingIsSignedBeforeItIsRecorded(t *testing.T) {
	s := newStand(t)
	s.signer.sign = func(data []byte) (*ssh.Signature, error) {
		if s.log.size() == 0 || !bytes.Equal(s.log.last().toBeSigned, data) {
			t.Error("asked to sign what is not in the log")
		}
		return s.signer.signer.Sign(nil, data)
	}
	for range 3 {
		s.issued(s.ask())
	}
	if got := s.signer.signed.Load(); got != 3 {
		t.Errorf("%d signatures for 3 certificates", got)
	}
}

func TestALogThatCannotBeWrittenIssuesNothing(t *testing.T) {
	for _, row := range []struct {
		name string
		call func(*stand) ca.Call
		fail error
	}{
		{"a grant", func(s *stand) ca.Call { return s.ask() }, &ca.Error{Kind: ca.Unavailable, Message: "in doubt", RetryAfter: time.Second}},
		{"a grant, for a reason nobody classified", func(s *stand) ca.Call { return s.ask() }, errors.New("disk on fire")},
		{"a refusal", func(s *stand) ca.Call { return s.ask(func(r *pb.CertificateRequest) { r.Login = "" }) }, errors.New("disk on fire")},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			s.log.record = func(*ca.Attempt) error { return row.fail }
			s.refused(row.call(s), ca.Unavailable, "nothing was issued", 0)
			s.log.record = nil
			s.issued(s.ask())
		})
	}
}

func TestTheSameBytesLeadToTheSameOutcome(t *testing.T) {
	s := newStand(t)
	c := s.ask()
	first, issued := s.issued(c)
	s.now = s.now.Add(time.Minute)
	again, repeated := s.issued(c)
	if first.Serial != again.Serial || issued.Index != repeated.Index || !bytes.Equal(first.Nonce, again.Nonce) || first.ValidBefore != again.ValidBefore {
		t.Errorf("serials %d and %d", first.Serial, again.Serial)
	}
	if s.log.size() != 1 {
		t.Errorf("%d records", s.log.size())
	}
	s.now = s.now.Add(5 * time.Minute)
	s.refused(c, ca.Invalid, "6m0s behind", 1)

	s = newStand(t)
	s.setRules(&rules{decide: func(ca.Question) ca.Decision { return ca.Decision{Outcome: ca.Deny, Message: "not today"} }})
	c = s.ask()
	s.refused(c, ca.Denied, "not today", 1)
	s.setRules(&rules{decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: time.Hour})})
	s.refused(c, ca.Denied, "not today", 0)
}

func TestARecordIsNotSignedByAnotherKeyThanItNames(t *testing.T) {
	s := newStand(t)
	c := s.ask()
	s.issued(c)
	replaced, _ := fileAuthority(t, "default")
	s.Authorities["default"] = replaced
	_, err := s.Issue(t.Context(), c)
	wantError(t, err, ca.Unavailable, "another CA key")
}

func TestTheAddressOfAPeerIsNotTheCallersToChoose(t *testing.T) {
	s := newStand(t, func(c *ca.CA) {
		c.Parse = func(signed []byte) (ca.Request, error) {
			r, err := parseRequest(signed)
			r.SourceIP, r.Digest = netip.MustParseAddr("127.0.0.1"), [32]byte{1}
			return r, err
		}
	})
	s.setRules(&rules{decide: func(q ca.Question) ca.Decision {
		return ca.Decision{Outcome: ca.Deny, Message: q.Request.SourceIP.String()}
	}})
	c := s.ask()
	c.SourceIP = netip.MustParseAddr("192.0.2.1")
	s.refused(c, ca.Denied, "192.0.2.1", 1)
	if got := s.log.last().attempt.Request.Digest; got != sha256.Sum256(c.Signed) {
		t.Errorf("recorded digest %x", got)
	}
}

func TestTheSameNonceWithOtherBytesIsRefused(t *testing.T) {
	s, signer := newStand(t), newSigner(t)
	token, random := s.person("alice", signer.PublicKey())
	r := s.request(signer.PublicKey(), random)
	s.issued(call(t, token, r, signer, ca.RequestNamespace))
	r.Reason = "another"
	s.refused(call(t, token, r, signer, ca.RequestNamespace), ca.Conflict, "nonce", 1)
}

func TestTwinsThatRaceGetOneSerial(t *testing.T) {
	s := newStand(t)
	c := s.ask()
	var wg sync.WaitGroup
	var mu sync.Mutex
	serials := map[uint64]int{}
	for range 16 {
		wg.Go(func() {
			issued, err := s.Issue(context.Background(), c)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			serials[issued.Serial]++
		})
	}
	wg.Wait()
	if len(serials) != 1 || s.log.size() != 1 {
		t.Errorf("serials %v, %d records", serials, s.log.size())
	}
}

func TestAPolicyThatChangesUnderARequestIsAskedAgain(t *testing.T) {
	s := newStand(t)
	next := &rules{digest: 1, decide: func(ca.Question) ca.Decision { return ca.Decision{Outcome: ca.Deny, Message: "no more"} }}
	old := s.rules.Load().decide
	s.rules.Store(&rules{decide: func(q ca.Question) ca.Decision {
		s.setRules(next) // while the old one grants
		return old(q)
	}})
	s.refused(s.ask(), ca.Denied, "no more", 1)
	if got := s.log.last().attempt.Policy.Digest; got != next.Ref().Digest {
		t.Errorf("recorded policy %x", got)
	}

	s = newStand(t)
	s.log.record = func(a *ca.Attempt) error {
		if a.Proven {
			return ca.ErrPolicyChanged
		}
		return nil
	}
	s.refused(s.ask(), ca.Unavailable, "keeps changing", 1)
}

// The rules may be behind the log for a moment. A request that is told so waits for them instead of asking the old ones again.
func TestARequestWaitsForThePolicyThatTheLogHas(t *testing.T) {
	next := &rules{digest: 1, decide: grant(ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeAny, TTL: time.Hour})}
	var s *stand
	var waited []ca.PolicyRef
	s = newStand(t, func(c *ca.CA) {
		c.Newer = func(_ context.Context, than ca.PolicyRef) {
			waited = append(waited, than)
			s.rules.Store(next) // the log has had it since before
		}
	})
	old := s.rules.Load()
	s.log.putInForce(next.Ref())
	issued, err := s.Issue(t.Context(), s.ask())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]ca.PolicyRef{old.Ref()}, waited); diff != "" || issued.Policy != next.Ref() {
		t.Errorf("decided by %x; waited for a newer one than (-want +got):\n%s", issued.Policy.Digest, diff)
	}
}

func TestACallerThatGoesAwayAfterTheRecord(t *testing.T) {
	s := newStand(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.log.recorded = cancel
	if issued, err := s.Issue(ctx, s.ask()); err != nil || issued == nil {
		t.Errorf("Issue = %v, %v; want the certificate that the record promises", issued, err)
	}
}

func TestACallerThatGoesAwayIsRefusedAllTheSame(t *testing.T) {
	s := newStand(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Issue(ctx, s.ask(func(r *pb.CertificateRequest) { r.Login = "" }))
	wantError(t, err, ca.Invalid, "login")
	if s.log.size() != 1 {
		t.Errorf("%d records", s.log.size())
	}
	if issued, err := s.Issue(ctx, s.ask()); err == nil || s.signer.signed.Load() != 0 {
		t.Errorf("Issue = %v, %v for a caller that had gone", issued, err)
	}
}

func TestNoRandomnessIssuesNothing(t *testing.T) {
	s := newStand(t, func(c *ca.CA) { c.Rand = bytes.NewReader(nil) })
	s.refused(s.ask(), ca.Unavailable, "randomness", 1)
	if s.signer.signed.Load() != 0 {
		t.Error("signed")
	}
}
