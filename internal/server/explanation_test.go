package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestARefusalExplainsItself: with the error of a refusal comes why, the same as a dry run says, and nothing of others.
func TestARefusalExplainsItself(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, `
version: 1
environments: {staging: {hosts: ["*.staging.example.com"]}}
allow:
- name: the-others
  owner: team-others
  when: environment == "staging" && identity.email.orValue("") in ["secret1@example.com", "secret2@example.com"]
  grant: {logins: [deploy], ttl: 1h}
- name: the-secret-group
  when: environment == "staging" && "secret3" in identity.groups
  grant: {logins: [deploy], ttl: 1h}
- name: with-reason
  owner: team-a
  when: environment == "staging" && "developers" in identity.groups
  require: {reason: true}
  grant: {logins: [readonly], ttl: 1h}
`)
	alice, c := s.Login("alice").SignIn, s.Client()
	request := ca.Request{Login: "deploy", Host: "app1.staging.example.com"}
	_, err := c.Issue(t.Context(), alice, request)
	refusal, ok := errors.AsType[*client.Refusal](err)
	if !ok || refusal.Index == "" {
		t.Fatalf("got %v, want a refusal on record", err)
	}
	want := &pb.Explanation{
		Reason: "no rule lets you log in as deploy on app1.staging.example.com",
		Rules: []*pb.ExplainedRule{
			{Name: "the-others", Owner: "team-others", Lacks: []string{"it does not hold for your email"}},
			{Name: "the-secret-group", Lacks: []string{"you are not in the group that it asks for"}},
			{Name: "with-reason", Owner: "team-a", Lacks: []string{"it lets you log in as readonly, not as deploy", "it asks for a reason"}},
		},
		Missing: []string{"a condition that holds for you"},
		Ask:     "team-others, who answers for the rule the-others",
	}
	if diff := cmp.Diff(want.String(), refusal.Explanation.String()); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
	answer, err := c.DryRun(t.Context(), alice, request)
	if err != nil || !proto.Equal(answer.GetExplanation(), refusal.Explanation) {
		t.Errorf("a dry run says %v, error %v", answer.GetExplanation(), err)
	}
	request.Login = "readonly"
	if _, err = c.Issue(t.Context(), alice, request); ca.KindOf(err) != ca.Needs {
		t.Fatal(err)
	}
	refusal, _ = errors.AsType[*client.Refusal](err)
	if got := refusal.Explanation.GetNext(); got != "hallpass cert --reason '...' readonly@app1.staging.example.com" {
		t.Errorf("advice %q", got)
	}
	request.Reason = "INC-42"
	if answer, err = c.DryRun(t.Context(), alice, request); err != nil || answer.GetExplanation() != nil {
		t.Errorf("a yes is explained: %v, error %v", answer, err)
	}
}

// TestExplanationsFitIntoErrors: whatever a policy and a caller say, the error of a refusal is one that proxies pass on.
func TestExplanationsFitIntoErrors(t *testing.T) {
	t.Parallel()
	var rules strings.Builder
	long := strings.Repeat("é", 200)
	rules.WriteString("version: 1\nenvironments: {staging: {hosts: [\"*.staging.example.com\"]}}\ndeny:\n")
	for i := range 20 {
		fmt.Fprintf(&rules, "- {name: d%s%d, owner: \"%s\", message: \"%s\", when: 'request.login == \"deploy\" || request.reason == identity.subject || now < token.issued_at'}\n",
			strings.Repeat("d", 60), i, long, long)
	}
	rules.WriteString("allow:\n")
	for i := range 20 {
		fmt.Fprintf(&rules, "- {name: a%s%d, owner: \"%s\", when: '!(identity.issuer == identity.subject || request.host == \"x\" || request.key_type == \"rsa\")', grant: {logins: [l%s%d], ttl: 1h}}\n",
			strings.Repeat("a", 60), i, long, strings.Repeat("l", 25), i)
	}
	s := stack.Start(t, rules.String())
	alice, conn := s.Login("alice").SignIn, s.Dial()
	for _, request := range []*pb.CertificateRequest{
		stack.Request(alice),
		{Login: strings.Repeat("x", 32), Host: "app1.staging.example.com"},
		{Login: "x", Host: strings.Repeat("a.", 110) + "staging.example.com"},
	} {
		r := stack.Request(alice)
		r.Login, r.Host = request.GetLogin(), request.GetHost()
		in := &pb.IssueRequest{}
		in.Request, in.Sshsig = stack.Sign(t, alice, ca.RequestNamespace, r)
		_, err := pb.NewCertificateServiceClient(conn).Issue(stack.Bearer(t.Context(), alice.Token), in)
		st := status.Convert(err)
		explained := false
		for _, detail := range st.Details() {
			if x, ok := detail.(*pb.Explanation); ok {
				explained = true
				if size := proto.Size(x); size > 2048 {
					t.Errorf("%s: an explanation of %d bytes", r.GetLogin(), size)
				}
			}
		}
		if !explained {
			t.Errorf("%s: not explained: %v", r.GetLogin(), err)
		}
		if size := proto.Size(st.Proto()); size > 5000 {
			t.Errorf("%s: an error of %d bytes", r.GetLogin(), size)
		}
	}
}

func TestListIdentities(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	c, carol := s.Client(), auditor(s)
	for _, name := range []string{"alice", "bob", "dave", "alice"} {
		who := s.Login(name).SignIn
		_, err := c.Issue(t.Context(), who, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		if kind := ca.KindOf(err); err != nil && kind != ca.Denied {
			t.Fatal(err)
		}
	}
	for _, size := range []uint32{0, 1, 2, 3, 1 << 31} {
		found, calls := map[string]int{}, 0
		page := &pb.ListIdentitiesRequest{PageSize: size}
		for {
			answer, err := c.ListIdentities(t.Context(), carol, page)
			if err != nil {
				t.Fatal(err)
			}
			if answer.GetErased() != 0 {
				t.Errorf("%d are erased", answer.GetErased())
			}
			for _, snapshot := range answer.GetSnapshots() {
				id, err := audit.Identity(snapshot)
				if err != nil {
					t.Fatal(err)
				}
				found[id.Email]++
			}
			calls++
			if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" || calls > 10 {
				break
			}
		}
		want := map[string]int{"alice@example.com": 1, "bob@example.com": 1, "dave@example.com": 1}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", size, diff)
		}
	}
	for _, token := range []string{"next", "00", strings.Repeat("0", 63), strings.Repeat("0", 66)} {
		_, err := c.ListIdentities(t.Context(), carol, &pb.ListIdentitiesRequest{PageToken: token})
		if ca.KindOf(err) != ca.Invalid || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%q: got %v, want kind invalid, about page_token", token, err)
		}
	}
}
