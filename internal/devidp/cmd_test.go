package devidp_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

// TestMain lets the test binary be the program hallpass-devidp, so that the tests run a real process.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_DEVIDP") == "" {
		os.Exit(runTests(m))
	}
	if err := devidp.Command().Execute(); err != nil {
		os.Stderr.WriteString("hallpass-devidp: " + err.Error() + "\n")
		os.Exit(1)
	}
}

// keyFile is shared by the tests' servers: to make RSA keys takes longer than all they do with them.
var keyFile string

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "devidp")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	keyFile = filepath.Join(dir, "keys.pem")
	return m.Run()
}

func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "RUN_DEVIDP=1")
	return cmd
}

func TestProgramServesUntilItIsTold(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	serve := program(t, "serve", "--listen", "127.0.0.1:0", "--ready-file", ready)
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	serve.Stderr = &stderr
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the program printed no URL: %v, %s", err, serve.Wait())
	}
	issuer := strings.TrimSpace(line)
	if text, err := os.ReadFile(ready); err != nil || string(text) != line {
		t.Errorf("ready file holds %q, %v; want %q", text, err, line)
	}

	token, err := program(t, "token", "--issuer", issuer, "--audience", "a", "ci").Output()
	if err != nil || strings.Count(string(token), ".") != 2 {
		t.Errorf("token: %q, %v", token, err)
	}

	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("ended with %v: %s", err, &stderr)
	}
	if _, err := os.Stat(ready); !os.IsNotExist(err) {
		t.Errorf("the ready file is still there: %v", err)
	}
}

func TestProgramEndsWithItsParent(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	// The shell ends when the program is ready. The program holds the shell's output open, so Output returns only when
	// both have ended.
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	shell := program(t)
	shell.Args = []string{"sh", "-c", `"$0" serve --with-parent --ready-file "$1" & until [ -s "$1" ]; do sleep 0.05; done`, shell.Path, ready}
	shell.Path = sh
	if out, err := shell.Output(); err != nil || !strings.HasPrefix(string(out), "http://127.0.0.1:") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := os.Stat(ready); !os.IsNotExist(err) {
		t.Errorf("the ready file is still there: %v", err)
	}
}

func TestProgramSignsIn(t *testing.T) {
	server := start(t, devidp.Config{})
	rp := newRelyingParty(t, server, nil)
	jar := filepath.Join(t.TempDir(), "jar")
	pkce := oauth2.S256ChallengeOption("v")
	out, err := program(t, "sign-in", "--jar", jar, "alice", rp.AuthCodeURL("s", pkce)).CombinedOutput()
	if err != nil || string(out) != "signed in as alice\n" {
		t.Errorf("%q, %v", out, err)
	}
	if query := <-rp.callbacks; query.Get("code") == "" || query.Get("state") != "s" {
		t.Errorf("callback brought %v", query)
	}
	none := oauth2.SetAuthURLParam("prompt", "none")
	if out, err := program(t, "sign-in", "--jar", jar, "alice", rp.AuthCodeURL("s", pkce, none)).CombinedOutput(); err != nil {
		t.Errorf("with the jar: %q, %v", out, err)
	}
	<-rp.callbacks
	out, err = program(t, "sign-in", "alice", rp.AuthCodeURL("s", pkce, none)).CombinedOutput()
	if err == nil || string(out) != "hallpass-devidp: sign in as alice: login_required: Nobody is signed in.\n" {
		t.Errorf("without the jar: %q, %v", out, err)
	}
	out, err = program(t, "nonsense").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `unknown command "nonsense"`) {
		t.Errorf("%q, %v", out, err)
	}
}
