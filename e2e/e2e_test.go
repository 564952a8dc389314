// Package e2e drives the real programs, a real OIDC provider, a real sshd, ssh-agent and git through the scenarios that users
// meet. The scripts in testdata are documentation too: testscript, one scenario a file.
//
// A script begins with `stack`, which starts a trial stack of its own (scripts/dev up) and ends it afterwards.
package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite the screens in testdata")

// root is the top of the repository.
var root string

func TestMain(m *testing.M) {
	// The scripts mostly wait: for programs, for the disk, and for time that passes on purpose.
	err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))) // unless the command line says otherwise
	if err == nil {
		root, err = filepath.Abs("..")
	}
	if err == nil {
		err = build()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// build makes the programs that scripts/dev starts.
func build() error {
	cmd := exec.Command("make", "-s", "build")
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the programs: %w", err)
	}
	return nil
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"stack":  startStack,
			"as":     as,
			"login":  login,
			"device": device,
			"agent":  startAgent,
			"status": exitStatus,
			"json":   jsonOutput,
			"follow": follow,

			"var":     setVariable,
			"await":   awaitSuccess,
			"decided": decided,
			"screen":  screen,
			"sleep":   sleep,
			"forge":   forge,
			"erase":   erase,
			"seed":    seedLog,

			"transcript": transcript,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("REPO", root)
			env.Setenv("SSH_SK_PROVIDER", securityKey())
			return nil
		},
	})
}

// securityKey is a security key in software: the provider of OpenSSH's own tests (Debian: openssh-tests).
func securityKey() string {
	if file := os.Getenv("HALLPASS_SK_DUMMY"); file != "" {
		return file
	}
	return "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so"
}

// startStack is `stack [ARGS...]`: scripts/dev up with these arguments, and its exports in the environment of the script.
func startStack(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: stack [arguments of scripts/dev up]")
	}
	dir, err := os.MkdirTemp("", "hallpass-e2e-") // a short path: agents and sshd have sockets and limits
	ts.Check(err)
	dev := filepath.Join(root, "scripts", "dev")
	ts.Defer(func() {
		if out, err := exec.Command(dev, "down", "--dir", dir).CombinedOutput(); err != nil {
			ts.Logf("scripts/dev down: %v\n%s", err, out)
			_ = os.RemoveAll(dir) // what could not be ended cleanly
		}
	})
	cmd := exec.Command(dev, append([]string{"up", "--dir", dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("scripts/dev up: %v\n%s", err, out)
	}
	exports(ts, filepath.Join(dir, "env"))
	ts.Setenv("STACK", dir)
	ts.Setenv("LOGIN", ts.Getenv("HALLPASS_DEV_LOGIN"))
	ts.Setenv("NO_COLOR", "1")
}

// exports reads the export lines of a shell file.
func exports(ts *testscript.TestScript, file string) {
	f, err := os.Open(file)
	ts.Check(err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		if !ok {
			continue
		}
		value = strings.Trim(value, `"`)
		value = strings.ReplaceAll(value, "$PATH", ts.Getenv("PATH"))
		ts.Setenv(name, value)
	}
}

// as is `as USER`: from here on, commands run with the sign-in of USER.
func as(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: as USER")
	}
	ts.Setenv("XDG_STATE_HOME", filepath.Join(ts.Getenv("STACK"), "client", args[0]))
	ts.Setenv("BROWSER", filepath.Join(root, "scripts", "dev-browser")+" "+args[0])
}

// login is `login USER [ARGS...]`: as USER, and hallpass login.
func login(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: login USER [arguments of hallpass login]")
	}
	as(ts, false, args[:1])
	ts.Check(ts.Exec("hallpass", append([]string{"login"}, args[1:]...)...))
}

// verificationURL finds the address at which a device login is approved.
var verificationURL = regexp.MustCompile(`https?://\S*user_code=\S+`)

// device is `device USER`: hallpass login --device, approved by USER in a browser elsewhere.
func device(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: device USER")
	}
	as(ts, false, args)
	cmd := exec.Command(filepath.Join(root, "bin", "hallpass"), "login", "--device")
	cmd.Env = environ(ts)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	approved := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		ts.Logf("[hallpass login --device] %s", lines.Text())
		if url := verificationURL.FindString(lines.Text()); url != "" && !approved {
			approved = true
			ts.Check(ts.Exec(filepath.Join(root, "scripts", "dev-browser"), args[0], url))
		}
	}
	ts.Check(cmd.Wait())
}

// environ is the environment of the script, for commands that are not run by it.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{
		"PATH", "HOME", "HALLPASS_SERVER", "HALLPASS_CONFIG", "HALLPASS_KEYRING", "HALLPASS_SSH_CONFIG",
		"XDG_STATE_HOME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "BROWSER", "NO_COLOR",
	} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// startAgent is `agent`: a fresh ssh-agent for the rest of the script.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: agent")
	}
	socket := filepath.Join(ts.Getenv("STACK"), fmt.Sprintf("agent-%d", os.Getpid()))
	_ = os.Remove(socket)
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for wait := 0; ; wait++ {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if wait == 2000 {
			ts.Fatalf("ssh-agent made no socket at %s", socket)
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Setenv("SSH_AUTH_SOCK", socket)
}

// exitStatus is `status CODE COMMAND ARGS...`: the command ends with exactly this code.
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARGS...]")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		code = fmt.Sprint(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("%s: exit code %s, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// What differs from one stack to the next on a screen.
var (
	screenPolicy = regexp.MustCompile(`(?m)^(  policy +)[0-9a-f]{12}$`)
	screenRecord = regexp.MustCompile(`(?m)^(  record +|.*record:)[0-9]+$`)
)

// screen is `screen CODE FILE COMMAND ARGS...`: the command ends with this code, and FILE holds what it wrote to stderr, on at most
// 15 lines.
func screen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: screen CODE FILE COMMAND [ARGS...]")
	}
	exitStatus(ts, false, append(args[:1:1], args[2:]...))
	text := ts.ReadFile("stderr")
	if n := strings.Count(text, "\n"); n > 15 {
		ts.Fatalf("%d lines are more than a screen at 3 am", n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(screenOf(text)), 0o600))
}

// screenOf takes out of a refusal what differs from one stack to the next.
func screenOf(text string) string {
	return screenRecord.ReplaceAllString(screenPolicy.ReplaceAllString(text, "${1}POLICY"), "${1}N")
}

// seedLog is `seed RECORDS DAYS DIR`: what scripts/seed-log does.
func seedLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: seed RECORDS DAYS DIR")
	}
	records, err := strconv.ParseUint(args[0], 10, 32)
	ts.Check(err)
	days, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(seed.Fill(context.Background(), seed.Params{Dir: ts.MkAbs(args[2]), Records: records, Days: days}))
}

// sleep is `sleep SECONDS`.
func sleep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sleep SECONDS")
	}
	d, err := time.ParseDuration(args[0] + "s")
	ts.Check(err)
	time.Sleep(d)
}

// jsonOutput is `json stdout|stderr [PATH=REGEXP...]`: what the last command wrote is JSON - of stderr, its last line - and the
// values at these paths match as a whole.
func jsonOutput(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: json stdout|stderr [PATH=REGEXP...]")
	}
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	if args[0] == "stderr" {
		text = text[strings.LastIndexByte(text, '\n')+1:]
	}
	var document any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		ts.Fatalf("%s is no JSON: %v", args[0], err)
	}
	for _, arg := range args[1:] {
		path, want, _ := strings.Cut(arg, "=")
		value := document
		for name := range strings.SplitSeq(path, ".") {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		got, ok := value.(string)
		if !ok {
			raw, err := json.Marshal(value)
			ts.Check(err)
			got = string(raw)
		}
		if !regexp.MustCompile(`^(?:` + want + `)$`).MatchString(got) {
			ts.Fatalf("%s: %s is %q, want %s", args[0], path, got, want)
		}
	}
}
