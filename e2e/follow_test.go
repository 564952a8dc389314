package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/rogpeppe/go-internal/testscript"
)

// follow is `follow KEY`: the daemon of the stack follows, from here on, a bare copy of its policy's repository, which is served over
// smart HTTP and is the remote "origin" of the work tree in $STACK/policy. Commits need the signature of KEY, a public key.
func follow(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: follow KEY.pub")
	}
	dir := ts.Getenv("STACK")
	bare := filepath.Join(dir, "policy.git")
	ts.Check(ts.Exec("git", "clone", "-q", "--bare", filepath.Join(dir, "policy"), bare))
	ts.Check(ts.Exec("git", "-C", filepath.Join(dir, "policy"), "remote", "add", "origin", bare))
	server, err := gitrepo.Listen(bare, filepath.Join(dir, "ca", "git-roots.pem"))
	ts.Check(err)
	ts.Defer(server.Close)
	ts.Check(os.WriteFile(filepath.Join(dir, "ca", "git-password"), []byte(gitrepo.Password), 0o600))
	key := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(filepath.Join(dir, "ca", "allowed_signers"), []byte("alice@example.com namespaces=\"git\" "+key), 0o600))

	config := filepath.Join(dir, "ca", "hallpassd.yaml")
	text, err := os.ReadFile(config)
	ts.Check(err)
	before, rest, _ := strings.Cut(string(text), "policy:\n")
	_, issuers, ok := strings.Cut(rest, "issuers:\n")
	if !ok {
		ts.Fatalf("the configuration has no policy before its issuers:\n%s", text)
	}
	policy := fmt.Sprintf("policy:\n  repository: {url: %q, poll: 1s, ca_file: git-roots.pem, username: %s, password_file: git-password}\n"+
		"  allowed_signers: allowed_signers\n  run_tests: true\n", server.URL, gitrepo.Username)
	ts.Check(os.WriteFile(config, []byte(before+policy+"issuers:\n"+issuers), 0o600))
	restart(ts, dir)
}

// restart ends the daemon of a stack and starts it again, on the same port.
func restart(ts *testscript.TestScript, dir string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(filepath.Join(dir, "daemon.pid"))))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
	for deadline := time.Now().Add(15 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon does not end")
		}
	}
	logFile, err := os.Create(filepath.Join(dir, "daemon.log"))
	ts.Check(err)
	defer logFile.Close()
	cmd := exec.Command(filepath.Join(root, "bin", "hallpassd"), "run", "--dir", filepath.Join(dir, "ca"))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	ts.Check(cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	ts.Defer(func() { _ = cmd.Process.Signal(syscall.SIGTERM); <-ended })
	ts.Check(os.WriteFile(filepath.Join(dir, "daemon.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(ts.ReadFile(logFile.Name()), `"msg":"listening"`); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			ts.Fatalf("the daemon ended:\n%s", ts.ReadFile(logFile.Name()))
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon does not listen:\n%s", ts.ReadFile(logFile.Name()))
		}
	}
}

// setVariable is `var NAME COMMAND ARGS...`: NAME is what the command prints.
func setVariable(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: var NAME COMMAND [ARGS...]")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// awaitSuccess is `await COMMAND ARGS...`: the command, again and again until it ends well.
func awaitSuccess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await COMMAND [ARGS...]")
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
	}
}

// decided is `decided RULE COMMIT`: the log has decisions by RULE, and each cites COMMIT.
func decided(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: decided RULE COMMIT")
	}
	ts.Check(ts.Exec("hallpass", "audit", "list", "-o", "json"))
	var records []struct {
		Index  string
		Rule   string
		Detail struct{ Policy struct{ Revision string } }
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &records))
	found := false
	for _, r := range records {
		if r.Rule != args[0] {
			continue
		}
		found = true
		ts.Check(ts.Exec("hallpass", "audit", "show", r.Index))
		if !strings.Contains(ts.ReadFile("stdout"), args[1]) || r.Detail.Policy.Revision != args[1] {
			ts.Fatalf("record %s, by the rule %s, cites %s, not %s", r.Index, args[0], r.Detail.Policy.Revision, args[1])
		}
	}
	if !found {
		ts.Fatalf("the log has no decision by the rule %s", args[0])
	}
}
