package agentkey_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const skProvider = "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so"

// startAgent runs a real ssh-agent and returns its socket.
func startAgent(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir makes paths that are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket, "-P", "*")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run runs an OpenSSH program.
func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func newFolder(t testing.TB, socket string) agentkey.Folder {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return agentkey.Folder{Path: filepath.Join(dir, "certs"), Runtime: filepath.Join(dir, "run"), Socket: socket, Stderr: io.Discard}
}

func newKey(t testing.TB) *agentkey.Candidate {
	t.Helper()
	key, err := agentkey.New()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// checkSigns shows that the folder signs with key what others can verify.
func checkSigns(t testing.TB, f agentkey.Folder, key ssh.PublicKey) {
	t.Helper()
	message := []byte("a message")
	blob, err := f.Sign(t.Context(), key, "test@hallpass", message)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := sshsig.Verify(bytes.NewReader(message), sig, key, sshsig.HashSHA512, "test@hallpass"); err != nil {
		t.Fatal(err)
	}
}

// privateFiles lists the files below dirs that hold a private key.
func privateFiles(t testing.TB, dirs ...string) (found []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte("PRIVATE KEY")) {
				found = append(found, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestAFreshKeyLivesInTheAgentOnly(t *testing.T) {
	f := newFolder(t, startAgent(t))
	key := newKey(t)
	note, err := f.Install(t.Context(), key, time.Hour)
	if err != nil || note != "" {
		t.Fatalf("got note %q, error %v", note, err)
	}
	checkSigns(t, f, key.Public)
	if found := privateFiles(t, f.Path, f.Runtime); len(found) > 0 {
		t.Errorf("private keys on disk: %q", found)
	}
	listed := run(t, []string{"SSH_AUTH_SOCK=" + f.Socket}, "ssh-add", "-l")
	if !strings.Contains(listed, ssh.FingerprintSHA256(key.Public)) {
		t.Errorf("the agent does not list the key: %s", listed)
	}
	public, err := f.Public()
	if err != nil || !bytes.Equal(public.Marshal(), key.Public.Marshal()) {
		t.Errorf("key.pub: %v, %v", public, err)
	}
}

func TestTheLifetimeEndsTheKey(t *testing.T) {
	f := newFolder(t, startAgent(t))
	key := newKey(t)
	// ssh-agent counts in whole seconds: of a lifetime of one, next to nothing may be left when it is asked for the key.
	if note, err := f.Install(t.Context(), key, 3*time.Second); err != nil || note != "" {
		t.Fatalf("got note %q, error %v", note, err)
	}
	for f.Held(t.Context(), key.Public) == nil {
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := f.Sign(t.Context(), key.Public, "test@hallpass", nil); !errors.Is(err, agentkey.ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

func TestANewSignInRemovesOnlyTheKeyBefore(t *testing.T) {
	f := newFolder(t, startAgent(t))
	env := []string{"SSH_AUTH_SOCK=" + f.Socket}
	own := filepath.Join(t.TempDir(), "id")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", own)
	run(t, env, "ssh-add", "-q", own)
	first, second := newKey(t), newKey(t)
	for _, key := range []*agentkey.Candidate{first, second} {
		if _, err := f.Install(t.Context(), key, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	listed := run(t, env, "ssh-add", "-l")
	if strings.Contains(listed, ssh.FingerprintSHA256(first.Public)) || !strings.Contains(listed, ssh.FingerprintSHA256(second.Public)) ||
		!strings.Contains(listed, "mine") {
		t.Errorf("the agent holds\n%s", listed)
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if listed := run(t, env, "ssh-add", "-l"); strings.Count(listed, "\n") != 1 || !strings.Contains(listed, "mine") {
		t.Errorf("after Remove the agent holds\n%s", listed)
	}
	if _, err := f.Public(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("key.pub is still there: %v", err)
	}
}

func TestWithoutAnAgentTheKeyIsAPrivateRuntimeFile(t *testing.T) {
	f := newFolder(t, "")
	key := newKey(t)
	note, err := f.Install(t.Context(), key, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(note, f.Runtime) {
		t.Errorf("the note does not name the file: %q", note)
	}
	checkSigns(t, f, key.Public)
	file, err := os.Readlink(f.Identity())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Stat(f.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o700 {
		t.Errorf("modes %v in %v, want 0600 in 0700", info.Mode(), dir.Mode())
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := privateFiles(t, f.Path, f.Runtime); len(found) > 0 {
		t.Errorf("private keys after Remove: %q", found)
	}
}

// Agents that cannot be trusted with the key, or do not keep it as asked, are passed over, and the user is told why.
func TestAgentsThatDoNotServe(t *testing.T) {
	for _, tt := range []struct {
		name   string
		socket func(t *testing.T) string
		want   string
	}{
		{"a socket that does not exist", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, "no such file"},
		{"a socket that nobody serves", func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "dead")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}, "connect to the agent"},
		{"an agent that is locked", func(t *testing.T) string {
			socket := startAgent(t)
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := agent.NewClient(conn).Lock([]byte("secret")); err != nil {
				t.Fatal(err)
			}
			return socket
		}, "is it locked"},
		{"an agent that refuses a lifetime", func(t *testing.T) string { return serveAgent(t, refuseLifetime{agent.NewKeyring()}) }, "lifetime"},
		{"an agent that drops the key", func(t *testing.T) string { return serveAgent(t, dropKeys{agent.NewKeyring()}) }, "does not list it"},
		{"an agent of another user", func(t *testing.T) string {
			if os.Getuid() != 0 {
				return "/etc/passwd" // belongs to root
			}
			socket := startAgent(t)
			if err := os.Chown(socket, 65534, -1); err != nil {
				t.Fatal(err)
			}
			return socket
		}, "another user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFolder(t, tt.socket(t))
			key := newKey(t)
			note, err := f.Install(t.Context(), key, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(note, tt.want) {
				t.Errorf("got the note %q, want one with %q", note, tt.want)
			}
			checkSigns(t, f, key.Public)
		})
	}
}

type refuseLifetime struct{ agent.Agent }

func (r refuseLifetime) Add(key agent.AddedKey) error {
	if key.LifetimeSecs != 0 {
		return errors.New("no constraints here")
	}
	return r.Agent.Add(key)
}

type dropKeys struct{ agent.Agent }

func (dropKeys) Add(agent.AddedKey) error { return nil }

// serveAgent speaks the agent protocol on a socket.
func serveAgent(t testing.TB, a agent.Agent) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done; os.RemoveAll(dir) })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(a, conn) // ends with the connection
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// The user's own keys, of every kind, from a file or an agent.
func TestOwnKeys(t *testing.T) {
	for _, tt := range []struct {
		name    string
		keygen  []string
		inAgent bool
	}{
		{"an Ed25519 file", []string{"-t", "ed25519"}, false},
		{"an RSA file", []string{"-t", "rsa", "-b", "3072"}, false},
		{"an ECDSA key in the agent", []string{"-t", "ecdsa"}, true},
		{"an RSA key in the agent", []string{"-t", "rsa", "-b", "3072"}, true},
		{"an sk key file", []string{"-t", "ed25519-sk", "-w", skProvider}, false},
		{"an sk key in the agent", []string{"-t", "ecdsa-sk", "-w", skProvider}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket := ""
			t.Setenv("SSH_AUTH_SOCK", "")
			t.Setenv("SSH_SK_PROVIDER", skProvider)
			file := filepath.Join(t.TempDir(), "id")
			run(t, nil, "ssh-keygen", append([]string{"-q", "-N", "", "-f", file}, tt.keygen...)...)
			if tt.inAgent {
				socket = startAgent(t)
				run(t, []string{"SSH_AUTH_SOCK=" + socket}, "ssh-add", "-q", file)
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			f := newFolder(t, socket)
			key, err := agentkey.Own(file + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			if note, err := f.Install(t.Context(), key, time.Hour); err != nil || note != "" {
				t.Fatalf("got note %q, error %v", note, err)
			}
			checkSigns(t, f, key.Public)
			if err := f.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tt.inAgent {
				run(t, []string{"SSH_AUTH_SOCK=" + socket}, "ssh-add", "-T", file+".pub")
			} else if _, err := os.Stat(file); err != nil {
				t.Errorf("Remove took the user's own key: %v", err)
			}
		})
	}
}

func TestOwnRefuses(t *testing.T) {
	dir := t.TempDir()
	id := filepath.Join(dir, "id")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", id)
	run(t, nil, "ssh-keygen", "-q", "-s", id, "-I", "x", "-n", "u", id+".pub")
	public, err := os.ReadFile(id + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text, want string
	}{
		{"a certificate", "", "it is a certificate"},
		{"two keys", string(public) + string(public), "not one public key"},
		{"a line with options", `command="x" ` + string(public), "not one public key"},
		{"nothing", "\n", "not one public key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := id + "-cert.pub"
			if tt.text != "" {
				file = filepath.Join(t.TempDir(), "id.pub")
				if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := agentkey.Own(file); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestAnOwnKeyThatNobodyHoldsIsNotUsable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	key, err := agentkey.Own(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, startAgent(t))
	if err := f.Usable(t.Context(), key); err == nil || !strings.Contains(err.Error(), "neither beside") {
		t.Errorf("got %v, want it refused", err)
	}
	if _, err := f.Install(t.Context(), key, time.Hour); err == nil {
		t.Error("it was installed")
	}
}

func TestAKeyWithAPassphraseIsNotAskedForByMatch(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	file := filepath.Join(t.TempDir(), "id")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "correct horse", "-f", file)
	key, err := agentkey.Own(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, "")
	f.NoPrompt = true
	if _, err := f.Install(t.Context(), key, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Sign(t.Context(), key.Public, "test@hallpass", nil); err == nil || !strings.Contains(err.Error(), "ssh-keygen") {
		t.Errorf("got %v, want an error of ssh-keygen", err)
	}
}
