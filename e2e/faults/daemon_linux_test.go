package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

// patience bounds every wait for something that must happen.
const patience = 2 * time.Minute

// The programs under test: the daemon, and the tool, which verifies what the daemon wrote; and the keys of the providers.
var hallpassd, hallpass, signingKeys string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run builds the programs, without the race detector: what is looked for here is not in their memory. They are built as make build
// does, which has compiled all of it.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hallpass-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a folder for the programs:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	hallpassd, hallpass, signingKeys = filepath.Join(dir, "hallpassd"), filepath.Join(dir, "hallpass"), filepath.Join(dir, "keys.pem")
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "../../cmd/hallpassd", "../../cmd/hallpass")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// trialPolicy lets developers into staging. Everything else that the clients ask for, it denies.
const trialPolicy = `version: 1
environments:
  staging: {hosts: ["*.staging.example.com"], authority: default}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
allow:
- name: developers-on-staging
  when: environment == "staging" && "developers" in identity.groups
  grant: {logins: [deploy], ttl: 2h, extensions: [permit-pty]}
- name: sre-on-prod
  when: environment == "prod" && "sre" in identity.groups
  grant: {logins: [deploy], ttl: 1h}
roles:
  auditor: '"security" in identity.groups'
  admin: '"security" in identity.groups'
`

// An authority is a CA: its folder, the provider that its callers sign in at, and what its clients have seen.
type authority struct {
	dir   string
	idp   *devidp.Server
	roots *x509.CertPool // the TLS certificate of the daemon
	pin   []byte         // the SHA-256 of its public key
	seen  seen
	disk  *disk    // that its folder is on, if it has one of its own
	old   *history // what it once was, if a fault asks for that
	clock *clock   // of its daemon, if that runs in this process
	past  []byte   // checkpoints of the states that it was checked in
	// borrowed says that its log was begun by somebody else.
	borrowed bool
	// recorded is how many requests that got no answer had their record all the same, as the next daemon knew.
	recorded int
	// What the last check found: how many records, and how many certificates that no client has received.
	records, unclaimed int
}

// newAuthority makes a CA in dir, which must not exist or be empty, whose clients may ask as often as they like.
func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := initAuthority(t, dir)
	// Clients that never rest are not what the limits are for.
	a.configure(t, func(config string) string {
		return config + "limits: {identity_rate: 1000000, identity_burst: 1000000}\n"
	})
	return a
}

// initAuthority makes a CA in dir by `hallpassd init`, through wrapper if one is given, and a provider.
func initAuthority(t *testing.T, dir string, wrapper ...string) *authority {
	t.Helper()
	a := &authority{dir: dir, roots: x509.NewCertPool()}
	var err error
	if a.idp, err = devidp.New(devidp.Config{Users: users(), KeyFile: signingKeys}); err != nil {
		t.Fatal(err)
	}
	if err := a.idp.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.idp.Close(); err != nil {
			t.Error(err)
		}
	})
	policy := t.TempDir()
	if err := os.WriteFile(filepath.Join(policy, "policy.yaml"), []byte(trialPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clone(wrapper), hallpassd, "init", "--dir", dir, "--listen", "127.0.0.1:0", "--name", "localhost",
		"--issuer", a.idp.URL(), "--client-id", "hallpass", "--policy", policy)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("hallpassd init: %v\n%s", err, out)
	}
	certificate := readCertificate(t, filepath.Join(dir, "tls", "cert.pem"))
	a.roots.AddCert(certificate)
	pin := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	a.pin = pin[:]
	return a
}

func readCertificate(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no PEM", name)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// configure edits the configuration file.
func (a *authority) configure(t *testing.T, edit func(string) string) {
	t.Helper()
	path := filepath.Join(a.dir, "hallpassd.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := edit(string(config))
	if edited == string(config) {
		t.Fatalf("the edit changes nothing in:\n%s", config)
	}
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
}

// log is the file of the log.
func (a *authority) log() string { return filepath.Join(a.dir, "log.db") }

// A process is a daemon that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has ended; then cmd.ProcessState is set

	mu      sync.Mutex // guards what follows
	address string
	stderr  bytes.Buffer
	changed chan struct{} // closed and replaced with each line on stderr
}

// launch starts the daemon, through wrapper if one is given: a program with arguments that runs another as its own process.
func (a *authority) launch(t *testing.T, wrapper ...string) *process {
	t.Helper()
	args := slices.Concat(wrapper, []string{hallpassd, "run", "--dir", a.dir})
	p := &process{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start the daemon: %v", err)
	}
	go p.watch(stderr)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // unless it has ended
		<-p.ended
		if t.Failed() {
			t.Logf("daemon %d: %v\n%s", p.cmd.Process.Pid, p.cmd.ProcessState, last(p.output(), 1000)) // there may be many
		}
	})
	return p
}

// last returns the end of s, at most n bytes.
func last(s string, n int) string { return s[max(0, len(s)-n):] }

// watch reads what the daemon says until it ends.
func (p *process) watch(stderr io.Reader) {
	defer close(p.ended)
	for lines := bufio.NewReader(stderr); ; {
		line, err := lines.ReadBytes('\n')
		p.heard(line)
		if err != nil {
			break
		}
	}
	_ = p.cmd.Wait() // cmd.ProcessState tells how it ended
}

func (p *process) heard(line []byte) {
	var said struct{ Msg, Address string }
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stderr.Write(line)
	if json.Unmarshal(line, &said) == nil && said.Msg == "listening" {
		p.address = said.Address
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// listening waits until the daemon serves, and returns its address; empty if it ended before.
func (p *process) listening() string {
	for {
		p.mu.Lock()
		address, changed := p.address, p.changed
		p.mu.Unlock()
		if address != "" {
			return address
		}
		select {
		case <-changed:
		case <-p.ended:
			return ""
		}
	}
}

// start starts the daemon as launch does, and waits until it serves.
func (a *authority) start(t *testing.T, wrapper ...string) *process {
	t.Helper()
	p := a.launch(t, wrapper...)
	if p.listening() == "" {
		t.Fatalf("the daemon does not start: %v\n%s", p.cmd.ProcessState, p.output())
	}
	return p
}

// signal sends a signal to the daemon, which is a child of this process.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal the daemon: %v", err)
	}
}

// kill ends the daemon as a crash does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

// wait returns the exit code of the daemon once it has ended, -1 if a signal ended it.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		t.Fatalf("the daemon has not ended:\n%s", last(p.output(), 4000))
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the daemon as an administrator does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != 0 {
		t.Errorf("the daemon ended with %d, want 0:\n%s", code, last(p.output(), 4000))
	}
}

// says checks that the daemon told the operators why.
func (p *process) says(t *testing.T, want string) {
	t.Helper()
	if out := p.output(); !strings.Contains(out, want) {
		t.Errorf("the daemon says nothing of %q:\n%s", want, last(out, 4000))
	}
}
