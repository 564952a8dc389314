package policy_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// bundle makes a bundle of names and texts.
func bundle(files ...string) *policy.Bundle {
	b := &policy.Bundle{Files: map[string][]byte{}, Source: "the test"}
	for i := 0; i+1 < len(files); i += 2 {
		b.Files[files[i]] = []byte(files[i+1])
	}
	return b
}

// compile compiles policy.yaml.
func compile(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(bundle("policy.yaml", text))
	if err != nil {
		t.Fatalf("compile:\n%v\n%s", err, text)
	}
	return p
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// question is alice, a developer who signed in an hour ago, asking for deploy on a staging host.
func question(t testing.TB) ca.Question {
	t.Helper()
	return ca.Question{
		Identity: ca.Identity{
			Issuer: "https://idp.example.com", Subject: "alice", Kind: ca.Person, Email: "alice@example.com",
			Groups: []string{"developers"}, Claims: map[string]any{},
		},
		Token: ca.Token{Bound: true, AuthTime: noon.Add(-time.Hour), IssuedAt: noon.Add(-time.Minute)},
		Request: ca.Request{
			PublicKey: ed25519Key(t), Login: "deploy", Host: "app1.staging.example.com",
			SourceIP: netip.MustParseAddr("192.0.2.7"),
		},
		Now: noon,
	}
}

func ed25519Key(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// skKey is an sk-ed25519 key as an authenticator would make it.
func skKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func decide(p *policy.Policy, q ca.Question) ca.Decision { return p.Decide(context.Background(), q) }

var _ ca.Rules = (*policy.Policy)(nil)

func TestEngineIsTheOneInUse(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimPrefix(policy.Engine, "cel-go ")
	if !strings.Contains(string(mod), "\tgithub.com/google/cel-go "+version+"\n") {
		t.Errorf("Engine is %q, which go.mod does not require", policy.Engine)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test has no build information")
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/google/cel-go" && m.Version != version {
			t.Errorf("Engine is %q, linked is %s", policy.Engine, m.Version)
		}
	}
}

func TestManifestNamesThePolicy(t *testing.T) {
	files := []string{"policy.yaml", "version: 1\ninclude: [teams/*.yaml]\n", "teams/a.yaml", "allow: []\n", "teams/b.yaml", "deny: []\n"}
	first, err := policy.Compile(bundle(files...))
	if err != nil {
		t.Fatal(err)
	}
	blobs := first.Blobs()
	if len(blobs) != 4 {
		t.Fatalf("got %d blobs, want the manifest and three files", len(blobs))
	}
	var paths []string
	for i, line := range strings.Split(strings.TrimSuffix(string(blobs[0]), "\n"), "\n") {
		digest, path, _ := strings.Cut(line, "  ")
		if digest != sha256Hex(blobs[i+1]) {
			t.Errorf("the manifest says %q, the blob at its place has %s", line, sha256Hex(blobs[i+1]))
		}
		paths = append(paths, path)
	}
	if got := strings.Join(paths, " "); got != "policy.yaml teams/a.yaml teams/b.yaml" {
		t.Errorf("the manifest lists %s", got)
	}
	digest := first.Ref().Digest
	if sha256Hex(blobs[0]) != hexOf(digest[:]) {
		t.Error("the digest is not that of the manifest")
	}

	other, err := policy.Compile(bundle(append(files, "unrelated.yaml", "x: 1")...))
	if err != nil {
		t.Fatal(err)
	}
	if other.Ref() != first.Ref() {
		t.Error("a file that the policy does not include changed its digest")
	}
	files[5] += "# a comment\n"
	changed, err := policy.Compile(bundle(files...))
	if err != nil {
		t.Fatal(err)
	}
	if changed.Ref() == first.Ref() {
		t.Error("a changed file left the digest as it was")
	}
}

func TestRefCitesTheBundle(t *testing.T) {
	b := bundle("policy.yaml", "version: 1\n")
	b.Revision, b.Dirty = "0123456789abcdef0123456789abcdef01234567", true
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	if ref := p.Ref(); ref.Revision != b.Revision || !ref.Dirty {
		t.Errorf("got %+v", ref)
	}
}

func TestEnvironmentsAndAuthorities(t *testing.T) {
	p := compile(t, `
version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod:    {hosts: ["*.prod.example.com", bastion.example.com], max_ttl: 2h, authority: prod}
`)
	if got := strings.Join(p.Authorities(), " "); got != "default prod" {
		t.Errorf("authorities: %s", got)
	}
	if got := p.Environments(); len(got) != 2 || got[0].Name != "prod" || got[0].MaxTTL != 2*time.Hour || got[0].Authority != "prod" ||
		len(got[0].Hosts) != 2 || got[1].Name != "staging" || got[1].Authority != "default" {
		t.Errorf("environments: %+v", got)
	}
	if e, ok := p.EnvironmentOf("DB1.Prod.example.com."); !ok || e.Name != "prod" {
		t.Errorf("environment of a host in capitals with a dot: %+v, %v", e, ok)
	}
	if e, ok := p.EnvironmentOf("db1.example.org"); ok {
		t.Errorf("environment of an unknown host: %+v", e)
	}
}

func TestRoles(t *testing.T) {
	p := compile(t, `
version: 1
claims: {staff: {type: bool}}
roles:
  auditor: '"security" in identity.groups && identity.kind == "person"'
  admin: claims.staff
`)
	for _, tt := range []struct {
		name   string
		role   string
		change func(*ca.Question)
		want   bool
		err    string
	}{
		{"a role whose condition is true", "auditor", func(q *ca.Question) { q.Identity.Groups = []string{"security"} }, true, ""},
		{"a role whose condition is false", "auditor", func(*ca.Question) {}, false, ""},
		{"a workload in the right group", "auditor", func(q *ca.Question) { q.Identity.Groups, q.Identity.Kind = []string{"security"}, ca.Workload }, false, ""},
		{"a role with a claim that is true", "admin", func(q *ca.Question) { q.Identity.Claims["staff"] = true }, true, ""},
		{"a role that asks for a claim which the token lacks", "admin", func(*ca.Question) {}, false, "no claim staff"},
		{"a role that asks for a claim of another type", "admin", func(q *ca.Question) { q.Identity.Claims["staff"] = "yes" }, false, "claim staff"},
		{"a role that the policy does not give", "owner", func(*ca.Question) {}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			tt.change(&q)
			got, err := p.Role(context.Background(), tt.role, q)
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want one with %q", err, tt.err)
			}
		})
	}
}
