package tokens_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// rules let developers deploy on staging, sre on production with a bound token, and jobs on staging. carol may read the log.
const rules = `version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
allow:
- name: developers
  when: environment == "staging" && "developers" in identity.groups
  grant: {logins: [deploy], ttl: 2h}
- name: sre
  when: environment == "prod" && "sre" in identity.groups && token.bound
  grant: {logins: [deploy], ttl: 1h, scope: environment}
- name: jobs
  when: environment == "staging" && identity.kind == "workload"
  grant: {logins: [deploy], ttl: 10m}
roles:
  auditor: '"security" in identity.groups || "developers" in identity.groups'
  admin: 'false'
`

const (
	alice = "u-7f3a9c21"
	dave  = "u-0d46b8fa"
)

func staging() ca.Request { return ca.Request{Login: "deploy", Host: "app1.staging.example.com"} }

// stolen is the same token in the hands of somebody with a key of their own. Whatever else was on the wire is stolen with it.
func stolen(t *testing.T, from stack.Person) client.SignIn {
	thief := stack.As(from.Token, from.TokenNonce, stack.NewKey(t))
	thief.CAKeys, thief.Log = from.CAKeys, from.Log
	return thief
}

// theft is a token in other hands, and how it is refused.
type theft struct {
	name   string
	steal  func(t *testing.T, s *stack.Stack) client.SignIn
	reason string
}

var thefts = []theft{
	{"a token of the code flow", func(t *testing.T, s *stack.Stack) client.SignIn {
		return stolen(t, s.Login("alice"))
	}, "this ID token is bound to another key"},
	{"a token of the code flow without the random bytes of its nonce", func(t *testing.T, s *stack.Stack) client.SignIn {
		thief := stolen(t, s.Login("alice"))
		thief.TokenNonce = nil
		return thief
	}, "this ID token is bound to another key"},
	{"a refreshed token that its owner never used", func(t *testing.T, s *stack.Stack) client.SignIn {
		owner := s.Login("alice")
		issue(t, s, owner.SignIn)
		return stolen(t, s.Refresh(owner))
	}, "this sign-in is bound to another key"},
	{"a refreshed token that its owner used", func(t *testing.T, s *stack.Stack) client.SignIn {
		owner := s.Login("alice")
		issue(t, s, owner.SignIn)
		refreshed := s.Refresh(owner)
		issue(t, s, refreshed.SignIn)
		return stolen(t, refreshed)
	}, "this sign-in is bound to another key"},
	{"a token of the device flow that its owner used", func(t *testing.T, s *stack.Stack) client.SignIn {
		owner := s.Device("alice")
		issue(t, s, owner.SignIn)
		return stolen(t, owner)
	}, "this ID token was first used with another key"},
	{"a token of a job that used it", func(t *testing.T, s *stack.Stack) client.SignIn {
		owner := s.Workload("ci")
		issue(t, s, owner.SignIn)
		return stolen(t, owner)
	}, "this ID token has served"},
}

// Each stolen token is refused wherever it is shown, with its own reason. What Issue and the methods with a table refuse is in
// the log, as not proven.
func TestStolenTokensOpenNothing(t *testing.T) {
	for _, tt := range thefts {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := stack.Start(t, rules)
			thief := tt.steal(t, s)
			c := s.Client()
			_, err := c.Issue(t.Context(), thief, staging())
			refused(t, "Issue", err, ca.Unauthenticated, tt.reason)
			_, err = c.DryRun(t.Context(), thief, staging())
			refused(t, "DryRun", err, ca.Unauthenticated, tt.reason)
			_, err = c.ListEnvironments(t.Context(), thief)
			refused(t, "ListEnvironments", err, ca.Unauthenticated, tt.reason)
			_, err = c.GetRecord(t.Context(), thief, 0)
			refused(t, "GetRecord", err, ca.Unauthenticated, tt.reason)
			_, err = c.ListRecords(t.Context(), thief, &pb.ListRecordsRequest{})
			refused(t, "ListRecords", err, ca.Unauthenticated, tt.reason)
			err = c.FollowRecords(t.Context(), thief, &pb.FollowRecordsRequest{}, func(*pb.Entry) error { return nil })
			refused(t, "FollowRecords", err, ca.Unauthenticated, tt.reason)

			want := []string{"Issue", "ListEnvironments", "GetRecord", "ListRecords", "FollowRecords"}
			if diff := cmp.Diff(want, recorded(t, s, pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED, tt.reason)); diff != "" {
				t.Errorf("refusals in the log (-want +got):\n%s", diff)
			}
		})
	}
}

// The theft changes nothing for the owner: the thief can neither use the token up nor bind a key to it.
func TestOwnersGoOnAfterATheft(t *testing.T) {
	s := stack.Start(t, rules)
	c := s.Client()
	for _, tt := range []struct {
		name string
		sign func() stack.Person
	}{
		{"after a sign-in in the browser", func() stack.Person { return s.Login("alice") }},
		{"after a refresh", func() stack.Person {
			first := s.Login("bob")
			issue(t, s, first.SignIn)
			return s.Refresh(first)
		}},
	} {
		owner := tt.sign()
		if _, err := c.Issue(t.Context(), stolen(t, owner), staging()); err == nil {
			t.Fatalf("%s: the thief got a certificate", tt.name)
		}
		issue(t, s, owner.SignIn)
	}
}

// Until the first use of a token of the device flow, nobody's key is known: the first one wins, and the log says which it was.
func TestTheFirstKeyToUseADeviceTokenIsTheOnlyOne(t *testing.T) {
	s := stack.Start(t, rules)
	owner := s.Device("alice")
	thief := stolen(t, owner)
	issue(t, s, thief)
	_, err := s.Client().Issue(t.Context(), owner.SignIn, staging())
	refused(t, "the owner", err, ca.Unauthenticated, "this ID token was first used with another key")
	got := recorded(t, s, pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED, "first used with another key")
	if diff := cmp.Diff([]string{"Issue"}, got); diff != "" {
		t.Errorf("refusals in the log (-want +got):\n%s", diff)
	}
}

func TestATokenOfAJobServesOnce(t *testing.T) {
	s := stack.Start(t, rules)
	job := s.Workload("ci")
	issue(t, s, job.SignIn)
	_, err := s.Client().Issue(t.Context(), job.SignIn, staging())
	refused(t, "a second use by its owner", err, ca.Unauthenticated, "this ID token has served")
	if got := recorded(t, s, pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED, "has served"); len(got) != 1 {
		t.Errorf("the log has the refusals %v, want one", got)
	}
}

// People whom the policy or the rule for emails refuses are known, and so is their refusal. A token that does not verify is a
// stranger's.
func TestPeopleWhoAreRefused(t *testing.T) {
	s := stack.Start(t, rules)
	hourAgo := time.Now().Add(-time.Hour).Unix()
	for _, tt := range []struct {
		name   string
		who    client.SignIn
		kind   ca.Kind
		reason string
		known  bool
	}{
		{"mallory, whose email is not verified", s.Login("mallory").SignIn, ca.Denied, "not verified", true},
		{"dave, who is in no group", s.Login("dave").SignIn, ca.Denied, "rule", true},
		{"a token that expired", s.Forge("alice", map[string]any{"iat": hourAgo - 3600, "exp": hourAgo}), ca.Unauthenticated, "expired", false},
		{"a token for another audience", s.Forge("alice", map[string]any{"aud": "other", "azp": "other"}), ca.Unauthenticated, "audience", false},
		{"a token for people at the issuer of jobs", stack.As(s.SignToken(s.IDP.Workloads(), map[string]any{
			"iss": s.IDP.Workloads().URL(), "sub": alice, "aud": stack.ClientID, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		}), nil, stack.NewKey(t)), ca.Unauthenticated, "audience", false},
		{"a token of the issuer of people, signed by that of jobs", stack.As(s.SignToken(s.IDP.Workloads(), map[string]any{
			"iss": s.IDP.URL(), "sub": alice, "aud": stack.ClientID, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		}), nil, stack.NewKey(t)), ca.Unauthenticated, "ID token", false},
	} {
		_, err := s.Client().Issue(t.Context(), tt.who, staging())
		refused(t, tt.name, err, tt.kind, tt.reason)
		refusal, ours := err.(*client.Refusal) //nolint:errorlint // Issue returns it bare
		if !ours || (refusal.Index != "") != tt.known {
			t.Errorf("%s: refused as %#v, want a record: %v", tt.name, err, tt.known)
		}
	}
	var known []string
	var strangers uint64
	for _, r := range s.Records() {
		if d := r.GetDecided(); d != nil {
			known = append(known, d.GetCaller().GetSubject())
		}
		for _, c := range r.GetStrangersCounted().GetCounts() {
			strangers += c.GetCount()
		}
	}
	if diff := cmp.Diff([]string{"u-e1738a55", dave}, known); diff != "" {
		t.Errorf("subjects of the decisions in the log (-want +got):\n%s", diff)
	}
	if strangers != 4 {
		t.Errorf("the log counts %d strangers, want 4", strangers)
	}
}

func issue(t *testing.T, s *stack.Stack, who client.SignIn) *client.Issued {
	t.Helper()
	issued, err := s.Client().Issue(t.Context(), who, staging())
	if err != nil {
		t.Fatalf("the owner is refused: %v", err)
	}
	return issued
}

func refused(t *testing.T, what string, err error, kind ca.Kind, reason string) {
	t.Helper()
	if err == nil || ca.KindOf(err) != kind || !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: got %v (%v), want %v with %q", what, err, ca.KindOf(err), kind, reason)
	}
}

// recorded returns the short names of the methods whose refusal, of this kind and with this reason, the log holds. None of the
// decisions may count as proven.
func recorded(t *testing.T, s *stack.Stack, kind pb.ErrorKind, reason string) []string {
	t.Helper()
	var methods []string
	for _, r := range s.Records() {
		method, refusal := "Issue", r.GetDecided().GetRefusal()
		if a := r.GetAccessRefused(); a != nil {
			method, refusal = a.GetMethod()[strings.LastIndex(a.GetMethod(), "/")+1:], a.GetRefusal()
		}
		if refusal == nil {
			continue
		}
		if refusal.GetKind() != kind || !strings.Contains(refusal.GetMessage(), reason) {
			t.Errorf("record %d refuses %s with %v, want %v with %q", r.GetIndex(), method, refusal, kind, reason)
		}
		if d := r.GetDecided(); d.GetProven() || len(d.GetToBeSigned()) > 0 {
			t.Errorf("record %d, of a theft, is proven: %v, with %d bytes to be signed", r.GetIndex(), d.GetProven(), len(d.GetToBeSigned()))
		}
		methods = append(methods, method)
	}
	return methods
}
