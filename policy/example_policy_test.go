package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

func TestExamplePolicy(t *testing.T) {
	dir := t.TempDir()
	if err := policy.WriteExample(dir, policy.ExampleParams{Login: "null"}); err != nil {
		t.Fatal(err)
	}
	b, err := policy.ReadDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Authorities(), " "); got != "default prod" {
		t.Errorf("authorities: %s", got)
	}
	const staging, prod = "app1.staging.example.com", "db1.prod.example.com"
	for _, tt := range []struct {
		name   string
		groups []string
		host   string
		login  string
		change func(*ca.Question)
		want   ca.Outcome
	}{
		{"alice, a developer, on staging", []string{"developers"}, staging, "deploy", same, ca.Allow},
		{"alice as the extra login", []string{"developers"}, staging, "null", same, ca.Allow},
		{"alice on prod", []string{"developers"}, prod, "deploy", same, ca.Deny},
		{"bob, an SRE, on prod", []string{"sre", "developers"}, prod, "deploy", same, ca.Allow},
		{"bob with a token that is not bound", []string{"sre", "developers"}, prod, "deploy", func(q *ca.Question) { q.Token.Bound = false }, ca.Deny},
		{"a contractor among the SREs", []string{"sre"}, prod, "deploy", func(q *ca.Question) { q.Identity.Claims["contractor"] = true }, ca.Deny},
		{"dave, of no group, on staging", nil, staging, "deploy", same, ca.Deny},
		{"bob as root", []string{"sre"}, prod, "root", same, ca.Deny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			q.Identity.Groups, q.Request.Host, q.Request.Login = tt.groups, tt.host, tt.login
			tt.change(&q)
			d := decide(p, q)
			if d.Outcome != tt.want {
				t.Errorf("got %d: %s", d.Outcome, d.Message)
			}
			if d.Outcome == ca.Allow && d.TTL != 2*time.Hour {
				t.Errorf("for %s, want 2h", d.TTL)
			}
		})
	}
	for role, group := range map[string]string{"auditor": "security", "admin": "ca-admins"} {
		q := question(t)
		if yes, err := p.Role(t.Context(), role, q); yes || err != nil {
			t.Errorf("a developer is %s: %v, %v", role, yes, err)
		}
		q.Identity.Groups = []string{group}
		if yes, err := p.Role(t.Context(), role, q); !yes || err != nil {
			t.Errorf("%s is %s: %v, %v", group, role, yes, err)
		}
	}
}

func TestWriteExampleReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := policy.WriteExample(dir, policy.ExampleParams{}); err == nil {
		t.Error("an existing policy was no obstacle")
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "mine" {
		t.Errorf("the file is now %q, %v", got, err)
	}
}

func TestWriteExampleRefusesWhatIsNoLogin(t *testing.T) {
	err := policy.WriteExample(t.TempDir(), policy.ExampleParams{Login: `x"], ttl: 1h`})
	if err == nil || !strings.Contains(err.Error(), "is not a login") {
		t.Errorf("got %v", err)
	}
}
