package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"github.com/hallpass-ssh/hallpass/policy"
)

// The README is run by testdata/readme.txtar, docs/policy.md by package policy. Here are the blocks of the other pages.

// block returns the n-th code block of a page in docs, counting from 1, that begins with the fence.
func block(t testing.TB, page, fence string, n int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	rest := "\n" + string(text)
	for seen := 0; ; {
		_, after, ok := strings.Cut(rest, "\n```")
		if !ok {
			t.Fatalf("docs/%s has no block %d of ```%s", page, n, fence)
		}
		opening, body, _ := strings.Cut(after, "\n")
		code, following, _ := strings.Cut(body, "\n```")
		if opening == fence {
			if seen++; seen == n {
				return code + "\n"
			}
		}
		rest = following
	}
}

// TestRefusalsOfThePage: docs/why.md shows refusals as they are held in testdata.
func TestRefusalsOfThePage(t *testing.T) {
	screens, err := os.ReadFile(filepath.Join("testdata", "refusal-screen.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		text := block(t, "why.md", "text screen", n+1)
		if held := screenOf(text); !strings.Contains(string(screens), ".golden --\n"+held) {
			t.Errorf("docs/why.md shows a screen that no program prints:\n%s", held)
		}
	}
}

func TestConfigurationReference(t *testing.T) {
	whole := block(t, "hallpassd.md", "yaml", 1)
	job := block(t, "providers.md", "yaml", 1)
	for name, text := range map[string]string{
		"hallpassd.md": whole,
		"providers.md": whole + strings.Replace(job, "name: github", "name: jobs", 1),
		// The policies in these blocks stand in place of the one in the whole file.
		"hallpassd.md, https":  withPolicy(t, whole, block(t, "hallpassd.md", "yaml", 2)),
		"hallpassd.md, ssh":    withPolicy(t, whole, block(t, "hallpassd.md", "yaml", 3)),
		"policy-repository.md": withPolicy(t, whole, block(t, "policy-repository.md", "yaml", 1)),
	} {
		file := filepath.Join(t.TempDir(), daemon.ConfigName)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := daemon.LoadConfig(file); err != nil {
			t.Errorf("docs/%s: %v", name, err)
		}
	}
}

// withPolicy puts another policy into a configuration.
func withPolicy(t testing.TB, config, policy string) string {
	t.Helper()
	before, rest, _ := strings.Cut(config, "policy:\n")
	_, after, ok := strings.Cut(rest, "metrics:\n")
	if !ok {
		t.Fatal("docs/hallpassd.md has no metrics behind its policy")
	}
	return before + policy + "metrics:\n" + after
}

// The file of docs/policy-repository.md can be read, its git commands sign, and its other commands are there.
func TestPolicyRepositoryPage(t *testing.T) {
	signers := block(t, "policy-repository.md", "allowed_signers", 1)
	if _, err := policy.ParseSigners("allowed_signers", []byte(signers)); err != nil {
		t.Error(err)
	}
	r, key := gitrepo.New(t), gitrepo.NewSigner(t, "ed25519", "")
	r.Write("policy.yaml", "version: 1")
	r.Git("add", ".")
	for line := range strings.Lines(strings.ReplaceAll(block(t, "policy-repository.md", "sh", 2), "~/.ssh/id_ed25519", key.File)) {
		command, message, quoted := strings.Cut(strings.TrimSpace(line), ` "`)
		args := strings.Fields(command)[1:]
		if quoted {
			args = append(args, strings.TrimSuffix(message, `"`))
		}
		r.Git(args...)
	}
	if raw := r.Git("cat-file", "commit", "HEAD"); !strings.Contains(raw, "BEGIN SSH SIGNATURE") {
		t.Errorf("the commit is not signed:\n%s", raw)
	}
	for _, n := range []int{1, 3} {
		for line := range strings.Lines(block(t, "policy-repository.md", "sh", n)) {
			words := strings.Fields(line)
			out, err := exec.Command(filepath.Join(root, "bin", words[0]), words[1], words[2], "--help").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "hallpass policy "+words[2]) {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
	}
}

// docServer is an sshd with the configuration of docs/servers.md.
func docServer(t testing.TB, ca string, more ...string) *sshd.Server {
	t.Helper()
	in := func(text string) string { return strings.ReplaceAll(text, "/etc/ssh/", "{dir}/") }
	lines := strings.Split(strings.TrimSpace(in(block(t, "servers.md", "", 1))), "\n")
	server := sshd.Run(t, sshd.Config{
		Lines: append(lines, more...),
		Files: map[string]string{
			"hallpass_ca.pub": publicKey(t, ca), "krl": "",
			"principals/deploy": block(t, "servers.md", "", 2),
		},
	})
	if login := server.Accounts()[0]; login != "deploy" {
		write(t, server, "principals/"+login, strings.ReplaceAll(block(t, "servers.md", "", 2), "deploy@", login+"@"))
	}
	return server
}

// write replaces a file of the server.
func write(t testing.TB, server *sshd.Server, name, text string) {
	t.Helper()
	if err := server.WriteFile(name, text); err != nil {
		t.Fatal(err)
	}
}

// publicKey reads the line that belongs to a private key file.
func publicKey(t testing.TB, key string) string {
	t.Helper()
	line, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

// keygen runs ssh-keygen.
func keygen(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

// Every line of the configuration that docs/servers.md recommends does what the page says.
func TestServersPage(t *testing.T) {
	dir := t.TempDir()
	ca, ecdsa := filepath.Join(dir, "ca"), filepath.Join(dir, "ecdsa")
	keygen(t, "-t", "ed25519", "-N", "", "-f", ca)
	keygen(t, "-t", "ecdsa", "-N", "", "-f", ecdsa)
	server := docServer(t, ca, "RevokedKeys {dir}/krl")
	login := server.Accounts()[0]
	scoped := login + "@db1.prod.example.com"
	tests := []struct {
		name       string
		key        []string // arguments of ssh-keygen
		signer     string
		principals string
		krl        string
		accepted   bool
		log        string
	}{
		{"a principal of the file lets in, and the log has serial and key ID", []string{"-t", "ed25519"}, ca, scoped, "", true, `ID "hallpass1 doc" (serial 7)`},
		{"the account's own name does not", []string{"-t", "ed25519"}, ca, login, "", false, "Certificate does not contain an authorized principal"},
		{"nor does an RSA key that is too short", []string{"-t", "rsa", "-b", "2048"}, ca, scoped, "", false, "Invalid key length"},
		{"nor a CA key of an algorithm that is not listed", []string{"-t", "ed25519"}, ecdsa, scoped, "", false, ""},
		{"a damaged list of revoked keys locks everybody out", []string{"-t", "ed25519"}, ca, scoped, "garbage", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := filepath.Join(t.TempDir(), "id")
			keygen(t, append(tt.key, "-N", "", "-f", key)...)
			keygen(t, "-s", tt.signer, "-I", "hallpass1 doc", "-z", "7", "-n", tt.principals, "-V", "-1m:+5m", key+".pub")
			write(t, server, "krl", tt.krl)
			write(t, server, "hallpass_ca.pub", publicKey(t, tt.signer))
			result, err := server.Login(t.Context(), sshd.Login{Key: key})
			if err != nil {
				t.Fatal(err)
			}
			if result.Accepted != tt.accepted || !strings.Contains(result.LogText(), tt.log) {
				t.Errorf("accepted %v, want %v with %q in the log:\n%s", result.Accepted, tt.accepted, tt.log, result.LogText())
			}
		})
	}
}

// A key in the account's home does not let in past the CA.
func TestServersPageLeavesNoOtherKeys(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca")
	keygen(t, "-t", "ed25519", "-N", "", "-f", ca)
	server := docServer(t, ca)
	home := filepath.Join("home", server.Accounts()[0], ".ssh", "authorized_keys")
	write(t, server, home, publicKey(t, ca))
	result, err := server.Login(t.Context(), sshd.Login{Key: ca})
	if err != nil {
		t.Fatal(err)
	}
	if result.Accepted {
		t.Errorf("a key of the home folder was accepted:\n%s", result.LogText())
	}
}
