package daemon_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

func program(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var both bytes.Buffer
	code = daemon.Main(args, &both, &both)
	return code, both.String()
}

func TestInitThenCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "ca")
	args := []string{"init", "--dir", dir, "--issuer", "https://login.example.com", "--client-id", "hallpass", "--name", "ca.example.com"}
	if code, out := program(t, args...); code != 0 || !strings.Contains(out, "hallpass login --server 'ca.example.com:7443#sha256:") {
		t.Fatalf("init: code %d, %s", code, out)
	}
	if code, out := program(t, "check", "--dir", dir); code != 0 {
		t.Errorf("check: code %d, %s", code, out)
	}
	before := files(t, dir)
	if code, out := program(t, args...); code != 1 || !strings.Contains(out, "is not empty") {
		t.Errorf("init again: code %d, %s", code, out)
	}
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Error("init again changed files")
	}
	for path := range before {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		private := !strings.HasSuffix(path, ".pub") && !strings.Contains(path, "/policy/")
		if private && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
	}
}

func TestInitLeavesNothingBehind(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "policy")
	stack.WritePolicy(t, bad, "version: 1\nalow: []\n")
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for _, tt := range []struct {
		name   string
		change func(*daemon.InitParams)
		want   string
	}{
		{"a policy with a mistake", func(p *daemon.InitParams) { p.Policy = bad }, "alow"},
		{"a policy that is not there", func(p *daemon.InitParams) { p.Policy = filepath.Join(bad, "nowhere") }, "nowhere"},
		{"a folder that cannot be made", func(p *daemon.InitParams) { p.Dir = filepath.Join(file, "ca") }, "file"},
		{"an address without a port", func(p *daemon.InitParams) { p.Listen = "localhost" }, "--listen"},
		{"an issuer over plain http", func(p *daemon.InitParams) { p.Issuer = "http://login.example.com" }, "https://"},
		{"an issuer of every organisation", func(p *daemon.InitParams) { p.Issuer = "https://login.microsoftonline.com/common/v2.0" }, "every organisation"},
	} {
		parent := t.TempDir()
		p := daemon.InitParams{Dir: filepath.Join(parent, "ca"), Issuer: "https://login.example.com", ClientID: "hallpass", Listen: "127.0.0.1:0"}
		tt.change(&p)
		if _, err := daemon.Init(t.Context(), p); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error about %q", tt.name, err, tt.want)
		}
		if left := files(t, parent); len(left) > 0 {
			t.Errorf("%s: left %v behind", tt.name, left)
		}
	}
}

const first = `version: 1
environments: {staging: {hosts: ["*.staging.example.com"]}}
allow:
- {name: developers, when: '"developers" in identity.groups', grant: {logins: [deploy], ttl: 1h}}
roles: {auditor: 'false', admin: 'false'}
`

// hangup lets the daemon load its policy anew and waits until it says what became of it.
func hangup(t *testing.T, s *stack.Stack, says string) {
	t.Helper()
	from := s.Output.Len()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.Output.Await(t, from, says)
}

// A good policy replaces the one in force; a bad one does not, neither while the daemon runs nor when it starts. Both are in the log.
func TestPoliciesThatComeAndGo(t *testing.T) {
	s := stack.Start(t, first)
	var source string
	for line := range strings.Lines(string(read(t, s.Config()))) {
		if text, ok := strings.CutPrefix(line, "  source: "); ok {
			source = strings.Trim(strings.TrimSpace(text), `"`)
		}
	}
	alice := s.Login("alice").SignIn
	rule := func() string {
		t.Helper()
		plan, err := s.Client().DryRun(t.Context(), alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		return plan.GetDecision().GetRule()
	}
	second := strings.Replace(first, "name: developers", "name: second", 1)
	stack.WritePolicy(t, source, second)
	if got := rule(); got != "developers" {
		t.Errorf("before the signal the rule is %q", got)
	}
	hangup(t, s, "policy in force")
	if got := rule(); got != "second" {
		t.Errorf("after the signal the rule is %q", got)
	}
	stack.WritePolicy(t, source, second+"alow: []\n")
	hangup(t, s, "policy refused")
	stack.WritePolicy(t, source, strings.Replace(second, `{hosts:`, `{authority: nowhere, hosts:`, 1))
	hangup(t, s, "policy refused")
	if got := rule(); got != "second" {
		t.Errorf("after bad policies the rule is %q", got)
	}
	s.Stop()
	s.Run()
	if got := rule(); got != "second" {
		t.Errorf("after a start with a bad policy the rule is %q", got)
	}
	var history []string
	for _, r := range s.Records() {
		switch e := r.GetEvent().(type) {
		case *pb.Record_PolicyLoaded:
			history = append(history, "loaded by "+e.PolicyLoaded.GetCause())
		case *pb.Record_PolicyRefused:
			_, reason, _ := strings.Cut(e.PolicyRefused.GetMessage(), "policy.yaml")
			history = append(history, "refused")
			if !strings.Contains(reason, "alow") && !strings.Contains(e.PolicyRefused.GetMessage(), `"nowhere"`) {
				t.Errorf("refused because of %q", e.PolicyRefused.GetMessage())
			}
		}
	}
	if diff := cmp.Diff([]string{"loaded by start", "loaded by reload", "refused", "refused", "refused"}, history); diff != "" {
		t.Errorf("policies in the log (-want +got):\n%s", diff)
	}
}

// Neither what the daemon writes nor what it keeps holds a token or a private key.
func TestNoSecretIsWritten(t *testing.T) {
	s := stack.Start(t, "")
	c := s.Client()
	var secrets []string
	for _, user := range []string{"alice", "dave", "mallory"} {
		who := s.Login(user)
		_, err := c.Issue(t.Context(), who.SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com", Reason: "because of " + user})
		if (err == nil) != (user == "alice") {
			t.Errorf("%s: %v", user, err)
		}
		_, _ = c.GetRecord(t.Context(), who.SignIn, 0) // refused, which is recorded too
		secrets = append(append(secrets, stack.Secrets(who.Token)...), who.Tokens.RefreshToken)
	}
	expired := s.Forge("alice", map[string]any{"exp": 1, "iat": 0})
	_, _ = c.Issue(t.Context(), expired, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}) // refused
	secrets = append(secrets, stack.Secrets(expired.Token)...)
	s.Records() // stops the daemon
	for _, name := range []string{"keys/ca-default", "keys/ca-prod", "keys/log", "tls/key.pem"} {
		for line := range strings.Lines(string(read(t, filepath.Join(s.Dir, name)))) {
			if line = strings.TrimSpace(line); len(line) > 40 {
				secrets = append(secrets, line)
			}
		}
	}
	seed := logSeed(t, s.Dir)
	secrets = append(secrets, string(seed), base64.StdEncoding.EncodeToString(seed))
	output, log := s.Output.String(), string(read(t, filepath.Join(s.Dir, "log.db")))
	for _, secret := range secrets {
		if secret == "" || strings.Contains(output, secret) || strings.Contains(log, secret) {
			t.Errorf("the daemon wrote a secret of %d bytes", len(secret))
		}
	}
	if strings.Contains(output, "because of") {
		t.Error("the reason that a caller gave is in the daemon's output")
	}
}

// A daemon starts while its issuer is down, says so, and recovers.
func TestAnIssuerThatIsDownAtStart(t *testing.T) {
	t.Parallel()
	s := stack.New(t, first)
	address := strings.TrimPrefix(s.IDP.URL(), "http://")
	if err := s.IDP.Close(); err != nil {
		t.Fatal(err)
	}
	s.Run()
	s.Output.Await(t, 0, "issuer cannot be used")
	if err := s.IDP.Listen(address); err != nil {
		t.Fatal(err)
	}
	s.Output.Await(t, 0, "issuer can be used again")
	if _, err := s.Client().Issue(t.Context(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); err != nil {
		t.Error(err)
	}
}
