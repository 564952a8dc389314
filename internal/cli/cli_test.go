package cli_test

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hallpass-ssh/hallpass/internal/cli"
	"github.com/hallpass-ssh/hallpass/internal/login"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hallpass": func() { os.Exit(cli.Run(context.Background(), os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			for name, value := range map[string]string{
				"HOME": home, "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": filepath.Join(env.WorkDir, "state"), "HALLPASS_KEYRING": "off",
				"XDG_RUNTIME_DIR": "", "SSH_AUTH_SOCK": "", "PATH": env.Getenv("PATH") + ":/usr/sbin",
				"GORACE": os.Getenv("GORACE"),
			} {
				env.Setenv(name, value)
			}
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": wantStatus,
			"daemon": daemonCommand,
			"signin": signIn,
			"age":    age,
		},
	})
}

// wantStatus is `status CODE COMMAND...`: the command must end with this exit code.
func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status code command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // testscript returns it bare
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%q ended with %d, want %d", args[1:], got, want)
	}
}

// age is `age FILE DURATION`: makes the file that much older.
func age(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[1])
	ts.Check(err)
	file := ts.MkAbs(args[0])
	info, err := os.Stat(file)
	ts.Check(err)
	then := info.ModTime().Add(-d)
	ts.Check(os.Chtimes(file, then, then))
}

// signIn is `signin`: a session as `hallpass login` leaves it, at the daemon of the script.
func signIn(ts *testscript.TestScript, _ bool, _ []string) {
	state := filepath.Join(ts.Getenv("XDG_STATE_HOME"), "hallpass")
	ts.Check(os.MkdirAll(state, 0o700))
	key, err := agentkey.New()
	ts.Check(err)
	folder := agentkey.Folder{Path: filepath.Join(state, "certs"), Socket: ts.Getenv("SSH_AUTH_SOCK")}
	_, err = folder.Install(context.Background(), key, time.Hour)
	ts.Check(err)
	ts.Check(login.Open(state).Save(context.Background(), login.Session{
		Server:     ts.Getenv("HALLPASS_SERVER"),
		Issuer:     login.Provider{Issuer: "https://login.example.com", ClientID: "hallpass"},
		Subject:    "u-1",
		Email:      "alice@example.com",
		PublicKey:  key.Public.Marshal(),
		Expiry:     time.Now().Add(time.Hour),
		KeyExpires: time.Now().Add(time.Hour),
		IDToken:    "header.payload.signature",
	}))
	d := daemonOf(ts)
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(d.authority.PublicKey())), " hallpass-default\n"...)
	ts.Check(os.WriteFile(filepath.Join(state, "ca_keys"), line, 0o600))
	ts.Check(saveLogKey(state, ts.Getenv("HALLPASS_SERVER"), d))
}

// saveLogKey pins the log of a daemon, as a login does.
func saveLogKey(state, server string, d *daemon) error {
	address, _, _ := strings.Cut(server, "#")
	if err := os.MkdirAll(filepath.Join(state, "log"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, "log", url.QueryEscape(address)+".key"), []byte(d.log.Key.Verifier()+"\n"), 0o600)
}

func TestSetupIsTakenBackToTheByte(t *testing.T) {
	const none = "none"
	for _, tt := range []struct{ name, before string }{
		{"no configuration", none},
		{"an empty one", ""},
		{"one without a last newline", "Host a\n    User b"},
		{"one with CRLF", "Host a\r\n    User b\r\n"},
		{"one that begins with an empty line", "\nHost a\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDaemon()
			address, stop, err := d.serve()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			dir := t.TempDir()
			config := filepath.Join(dir, "ssh", "config")
			for name, value := range map[string]string{
				"HOME": dir, "XDG_STATE_HOME": filepath.Join(dir, "state"), "HALLPASS_SERVER": address, "HALLPASS_SSH_CONFIG": config,
				"HALLPASS_CONFIG": filepath.Join(dir, "config.yaml"), "HALLPASS_KEYRING": "off", "XDG_RUNTIME_DIR": "", "SSH_AUTH_SOCK": "",
			} {
				t.Setenv(name, value)
			}
			if tt.before != none {
				if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(config, []byte(tt.before), 0o640); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(config, 0o640); err != nil { // whatever the umask is
					t.Fatal(err)
				}
			}
			saveSession(t, d)
			for _, args := range [][]string{{"setup"}, {"setup"}, {"setup", "--undo"}, {"setup", "--undo"}} {
				if code := cli.Run(t.Context(), args); code != 0 {
					t.Fatalf("hallpass %v: exit code %d", args, code)
				}
			}
			after, err := os.ReadFile(config)
			if tt.before == none {
				if !os.IsNotExist(err) {
					t.Fatalf("the configuration is there: %v, %q", err, after)
				}
				return
			}
			if err != nil || string(after) != tt.before {
				t.Errorf("got %q, %v; want %q", after, err, tt.before)
			}
			if info, err := os.Stat(config); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("the mode changed: %v, %v", info.Mode(), err)
			}
			left, err := filepath.Glob(filepath.Join(dir, "ssh", "*"))
			if err != nil || len(left) != 1 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}

// saveSession is signIn for tests without a script.
func saveSession(t testing.TB, d *daemon) {
	t.Helper()
	state := filepath.Join(os.Getenv("XDG_STATE_HOME"), "hallpass")
	key, err := agentkey.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := (agentkey.Folder{Path: filepath.Join(state, "certs")}).Install(t.Context(), key, time.Hour); err != nil {
		t.Fatal(err)
	}
	session := login.Session{
		Server: os.Getenv("HALLPASS_SERVER"), Subject: "u-1", PublicKey: key.Public.Marshal(), IDToken: "a.b.c",
		Expiry: time.Now().Add(time.Hour), KeyExpires: time.Now().Add(time.Hour),
	}
	if err := login.Open(state).Save(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(d.authority.PublicKey()))) + "\n"
	if err := os.WriteFile(filepath.Join(state, "ca_keys"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := saveLogKey(state, os.Getenv("HALLPASS_SERVER"), d); err != nil {
		t.Fatal(err)
	}
}
