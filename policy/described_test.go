package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

func TestReadIdentity(t *testing.T) {
	got, err := policy.ReadIdentity("alice.yaml", []byte(`
email: alice@example.com
groups: [developers, "on-call"]
claims: {contractor: true, level: 3, unix_name: al, teams: [a, b]}
issuer: https://login.example.com
`))
	if err != nil {
		t.Fatal(err)
	}
	want := ca.Caller{
		Identity: ca.Identity{
			Issuer: "https://login.example.com", Subject: "alice@example.com", Kind: ca.Person, Email: "alice@example.com",
			Groups: []string{"developers", "on-call"},
		},
		Claims: map[string]any{"contractor": true, "level": json.Number("3"), "unix_name": "al", "teams": []any{"a", "b"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	p := compile(t, "version: 1\nclaims: {level: {type: int}, teams: {type: strings}}\n")
	id, err := p.Declare(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"level": int64(3), "teams": []string{"a", "b"}}, id.Claims); diff != "" {
		t.Error(diff)
	}
}

func TestReadIdentitiesReportsEveryMistake(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nobody", "- groups: [a]\n", []string{"users.yaml:1:3: the identity has neither email nor subject"}},
		{"a key that is none", "- emial: a@example.com\n", []string{"no key \"emial\"", "did you mean email?", "neither email nor subject"}},
		{"a kind that is none", "- {subject: a, kind: robot}\n", []string{"kind is person or workload, not \"robot\""}},
		{"groups that are no list", "- {subject: a, groups: x}\n", []string{"groups must be a list, not text"}},
		{"a claim that no policy can declare", "- {subject: a, claims: {x: {y: 1}}}\n", []string{"a claim must be text, a whole number, true, false, or a list"}},
		{"a control character", "- {subject: \"a\\e\"}\n", []string{"subject must be one printable line"}},
		{"no list", "email: a@example.com\n", []string{"the file must be a list, not a mapping"}},
		{"two mistakes", "- {subject: a, kind: robot}\n- {subject: b, groups: x}\n", []string{"users.yaml:1:", "users.yaml:2:"}},
		{"an alias", "- &a {subject: a}\n- *a\n", []string{"anchors and aliases are not supported"}},
		{"no YAML", "- {", []string{"not YAML"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.ReadIdentities("users.yaml", []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want one with %q", err, want)
				}
			}
		})
	}
}

func TestKeyOfTypeIsWhatConditionsSee(t *testing.T) {
	p := compile(t, `
version: 1
environments: {staging: {hosts: ["*.staging.example.com"]}}
allow:
- {name: ed25519, when: 'request.key_type == "ed25519"', grant: {logins: [deploy], ttl: 1h}}
- {name: sk-ed25519, when: 'request.key_type == "sk-ed25519"', grant: {logins: [deploy], ttl: 1h}}
- {name: ecdsa, when: 'request.key_type == "ecdsa"', grant: {logins: [deploy], ttl: 1h}}
- {name: sk-ecdsa, when: 'request.key_type == "sk-ecdsa"', grant: {logins: [deploy], ttl: 1h}}
- {name: rsa, when: 'request.key_type == "rsa"', grant: {logins: [deploy], ttl: 1h}}
`)
	for _, name := range []string{"ed25519", "sk-ed25519", "ecdsa", "sk-ecdsa", "rsa"} {
		key, err := policy.KeyOfType(name)
		if err != nil {
			t.Fatal(err)
		}
		q := question(t)
		q.Request.PublicKey = key
		if d := decide(p, q); d.Rule != name {
			t.Errorf("a described %s key: %s", name, d.Message)
		}
		if key.Verify(nil, nil) == nil {
			t.Errorf("a described %s key verifies", name)
		}
	}
	if _, err := policy.KeyOfType("ed25591"); err == nil || !strings.Contains(err.Error(), "did you mean ed25519?") {
		t.Errorf("got %v", err)
	}
}
