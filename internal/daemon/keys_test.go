package daemon_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"golang.org/x/crypto/ssh"
)

// logSeed returns the secret of the log key: PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed> (golang.org/x/mod/sumdb/note).
func logSeed(t *testing.T, dir string) []byte {
	t.Helper()
	parts := strings.SplitN(strings.TrimSpace(string(read(t, filepath.Join(dir, "keys", "log")))), "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil {
		t.Fatal(err)
	}
	return seed[1:]
}

// replaceKey makes key the CA key "default", encrypted if there is a passphrase: in one round of its hash, not in the 16 or more that
// make guessing slow, and tests too.
func replaceKey(t *testing.T, dir string, key crypto.PrivateKey, passphrase string) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "keys", "ca-default")
	if err := os.Remove(file + ".pub"); err != nil {
		t.Fatal(err)
	}
	write(t, file, string(pem.EncodeToMemory(block)))
	if passphrase == "" {
		return
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-a", "1", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("encrypt the key: %v\n%s", err, out)
	}
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A CA key of each sort, wherever it lives, signs what sshd takes; the client of the product verifies it.
func TestCAKeys(t *testing.T) {
	const passphrase = "correct horse battery staple"
	for _, tt := range []struct {
		name      string
		make      func(t *testing.T, s *stack.Stack)
		algorithm string
	}{
		{"made by init", func(*testing.T, *stack.Stack) {}, ssh.KeyAlgoED25519},
		{"RSA", func(t *testing.T, s *stack.Stack) {
			key, err := rsa.GenerateKey(rand.Reader, 3072)
			if err != nil {
				t.Fatal(err)
			}
			replaceKey(t, s.Dir, key, "")
		}, ssh.KeyAlgoRSASHA512},
		{"ECDSA", func(t *testing.T, s *stack.Stack) { replaceKey(t, s.Dir, newECDSA(t), "") }, ssh.KeyAlgoECDSA384},
		{"encrypted, its passphrase in a file", func(t *testing.T, s *stack.Stack) {
			replaceKey(t, s.Dir, newECDSA(t), passphrase)
			write(t, filepath.Join(s.Dir, "keys", "passphrase"), passphrase+"\n")
			edit(t, s.Dir, "{key: keys/ca-default}", "{key: keys/ca-default, passphrase_file: keys/passphrase}")
		}, ssh.KeyAlgoECDSA384},
		{"encrypted, its passphrase a credential of systemd", func(t *testing.T, s *stack.Stack) {
			credentials := t.TempDir()
			t.Setenv("CREDENTIALS_DIRECTORY", credentials)
			write(t, filepath.Join(credentials, "ca-passphrase"), passphrase)
			replaceKey(t, s.Dir, newECDSA(t), passphrase)
			edit(t, s.Dir, "{key: keys/ca-default}", "{key: keys/ca-default, passphrase_file: 'credential:ca-passphrase'}")
		}, ssh.KeyAlgoECDSA384},
		{"in an ssh-agent", func(t *testing.T, s *stack.Stack) {
			socket := startAgent(t, filepath.Join(s.Dir, "keys", "ca-default"))
			if err := os.Remove(filepath.Join(s.Dir, "keys", "ca-default")); err != nil {
				t.Fatal(err)
			}
			edit(t, s.Dir, "{key: keys/ca-default}", "{agent: "+socket+", public_key: keys/ca-default.pub}")
		}, ssh.KeyAlgoED25519},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stack.New(t, "")
			tt.make(t, s)
			s.Run()
			issued, err := s.Client().Issue(t.Context(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			if got := issued.Certificate.Signature.Format; got != tt.algorithm {
				t.Errorf("signed with %s, want %s", got, tt.algorithm)
			}
			s.Stop()
			for where, text := range map[string]string{"output": s.Output.String(), "log": string(read(t, filepath.Join(s.Dir, "log.db")))} {
				if strings.Contains(text, passphrase) {
					t.Errorf("the passphrase is in the %s of the daemon", where)
				}
			}
		})
	}
}

func TestPassphrasesThatCannotBeHad(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string) (passphraseFile string)
		want string
	}{
		{"none configured", func(*testing.T, string) string { return "" }, "configure where its passphrase comes from"},
		{"the wrong one", func(t *testing.T, dir string) string { write(t, filepath.Join(dir, "p"), "wrong"); return "p" }, "decrypt"},
		{"no file", func(*testing.T, string) string { return "nowhere" }, "nowhere"},
		{"a file that others can read", func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "p"), "right")
			if err := os.Chmod(filepath.Join(dir, "p"), 0o644); err != nil {
				t.Fatal(err)
			}
			return "p"
		}, "chmod 600"},
		{"a credential without systemd", func(t *testing.T, _ string) string {
			t.Setenv("CREDENTIALS_DIRECTORY", "")
			return "credential:p"
		}, "LoadCredential"},
		{"a credential of somebody else's", func(t *testing.T, dir string) string {
			t.Setenv("CREDENTIALS_DIRECTORY", filepath.Join(dir, "keys"))
			write(t, filepath.Join(dir, "p"), "right")
			return "credential:../p"
		}, "no such credential"},
		{"a credential that is the folder", func(t *testing.T, dir string) string {
			t.Setenv("CREDENTIALS_DIRECTORY", filepath.Join(dir, "keys"))
			return "credential:.."
		}, "no such credential"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := initialised(t)
			replaceKey(t, dir, newECDSA(t), "right")
			if file := tt.make(t, dir); file != "" {
				edit(t, dir, "{key: keys/ca-default}", "{key: keys/ca-default, passphrase_file: '"+file+"'}")
			}
			err := run(t, dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"default"`) {
				t.Errorf("got %v, want an error about %q of the key \"default\"", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "right") {
				t.Errorf("the error tells the passphrase: %v", err)
			}
		})
	}
}

// An agent that is not there, or does not hold the key, is found by a check. The daemon starts all the same: the agent may come later.
func TestAgentsWithoutTheCAKey(t *testing.T) {
	for _, tt := range []struct {
		name  string
		agent func(t *testing.T, dir string) (socket string)
		want  string
	}{
		{"one that is not there", func(*testing.T, string) string { return "nowhere.sock" }, "nowhere.sock"},
		{"one with another key", func(t *testing.T, dir string) string { return startAgent(t, filepath.Join(dir, "keys", "ca-prod")) }, "does not hold the key"},
	} {
		s := stack.New(t, "")
		edit(t, s.Dir, "{key: keys/ca-default}", "{agent: '"+tt.agent(t, s.Dir)+"', public_key: keys/ca-default.pub}")
		cfg, err := daemon.LoadConfig(s.Config())
		if err != nil {
			t.Fatal(err)
		}
		if err := daemon.Check(cfg); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"default"`) {
			t.Errorf("%s: check says %v, want the authority and %q", tt.name, err, tt.want)
		}
		s.Run()
		s.Stop()
	}
}

// startAgent starts an ssh-agent that holds a key, and returns its socket.
func startAgent(t *testing.T, key string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatalf("start ssh-agent: %v", err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	var said bytes.Buffer
	add.Stderr = &said
	if err := add.Run(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, &said)
	}
	return socket
}
