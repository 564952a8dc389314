package faults_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/long"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"google.golang.org/grpc"
)

// An sshAgent is a running ssh-agent that holds a CA key.
type sshAgent struct {
	process *os.Process
	socket  string
}

// moveKey moves the CA key of the environment staging into an ssh-agent.
func (a *authority) moveKey(t *testing.T) *sshAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-") // a socket has a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start ssh-agent: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	file := filepath.Join(a.dir, "keys", "ca-default")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	conn := dialAgent(t, socket)
	defer conn.Close()
	if err := agent.NewClient(conn).Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600)); err != nil {
		t.Fatal(err)
	}
	a.configure(t, func(config string) string {
		return strings.Replace(config, "{key: keys/ca-default}", "{agent: "+strconv.Quote(socket)+", public_key: keys/ca-default.pub}", 1)
	})
	return &sshAgent{cmd.Process, socket}
}

func (g *sshAgent) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := g.process.Signal(s); err != nil {
		t.Fatalf("signal ssh-agent: %v", err)
	}
}

// dialAgent waits until the agent listens.
func dialAgent(t *testing.T, socket string) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			return conn
		}
	}
	t.Fatalf("reach ssh-agent: %v", err)
	return nil
}

// trace returns the wrapper that makes strace write what the daemon does to file. The daemon stays a child of this process.
func trace(file string, expressions ...string) []string {
	wrapper := []string{"strace", "-D", "-f", "-qq", "-yy", "-s", "0", "-e", "signal=none", "-o", file}
	for _, e := range expressions {
		wrapper = append(wrapper, "-e", e)
	}
	return wrapper
}

// Lines of a trace. With -f each begins with the thread. A call during which others happened is on two lines, the second of which
// says "resumed" and holds the result.
var (
	openLine   = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumeLine = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	resultOf   = regexp.MustCompile(`= (-?\d+)\D*.*$`)
)

// An event is the begin or the end of a system call.
type event struct {
	call      string
	arguments string
	ended     bool
	result    int // -1 for an error, and before the end
}

// events reads a trace in its order: for each call its begin, and its end.
func events(t *testing.T, file string) []event {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []event
	under := map[string]string{} // arguments of the calls under way, by thread
	for line := range strings.SplitSeq(string(text), "\n") {
		if m := openLine.FindStringSubmatch(line); m != nil {
			all = append(all, event{call: m[2], arguments: m[3], result: -1})
			if strings.Contains(m[3], "<unfinished ...>") {
				under[m[1]] = m[3]
				continue
			}
			all = append(all, event{m[2], m[3], true, result(m[3])})
		} else if m := resumeLine.FindStringSubmatch(line); m != nil {
			all = append(all, event{m[2], under[m[1]] + m[3], true, result(m[3])})
		}
	}
	return all
}

func result(s string) int {
	if m := resultOf.FindStringSubmatch(s[strings.LastIndex(s, " = ")+1:]); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return -1
}

// size is how much a call is to write.
var size = regexp.MustCompile(`, (\d+)(?:\)| <unfinished)`)

// steps puts a trace in letters: a sync of the log has returned (s), or has failed (f); the agent is called (c) and written to (a);
// a certificate, or more, is written to a client (t).
func steps(t *testing.T, a *authority, agent *sshAgent, file string) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events(t, file) {
		wanted := 0
		if m := size.FindStringSubmatch(e.arguments); m != nil {
			wanted, _ = strconv.Atoi(m[1])
		}
		switch {
		case e.call == "fdatasync" && e.ended && strings.Contains(e.arguments, a.log()):
			if e.result == 0 {
				b.WriteByte('s')
			} else {
				b.WriteByte('f')
			}
		case e.call == "connect" && !e.ended && strings.Contains(e.arguments, agent.socket):
			b.WriteByte('c')
		case e.call == "write" && !e.ended && strings.Contains(e.arguments, "<UNIX-STREAM:"):
			b.WriteByte('a')
		case e.call == "write" && !e.ended && strings.Contains(e.arguments, "<TCP:") && wanted >= certificateSize:
			b.WriteByte('t')
		}
	}
	// Before the first record there are only connections.
	return strings.TrimLeft(b.String(), "t")
}

// certificateSize is less than the size of the certificates here, and more than that of all else that the daemon writes to a client
// whose connection stands.
const certificateSize = 380

const tracedCalls = "trace=fdatasync,connect,write,writev,sendto,sendmsg"

// TestRecordIsDurableThenSignedThenAnswered watches the system calls of the daemon. For each certificate both syncs of the commit
// have returned before anything is asked of the agent that holds the CA key: first for its keys, then for the signature. Then the
// certificate is on its way. One that is asked for again is signed again, with no other record.
func TestRecordIsDurableThenSignedThenAnswered(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	agent := a.moveKey(t)
	a.start(t).stop(t) // records the policy
	file := filepath.Join(t.TempDir(), "trace")
	p := a.start(t, trace(file, tracedCalls)...)
	conn, c := a.connect(t, p), a.signIn(t, "user0")
	const certificates = 5
	var again *request
	for range certificates {
		again = a.send(t, conn, c, nil)
	}
	a.send(t, conn, c, again)
	p.stop(t)
	a.check(t)
	if got, want := a.seen.counts(), (counts{granted: certificates + 1}); got != want {
		t.Fatalf("the client got %+v, want %+v", got, want)
	}
	want := strings.Repeat("sscaat", certificates) + "caat"
	if got := steps(t, a, agent, file); got != want {
		t.Errorf("the calls came in the order %s, want %s", got, want)
	}
}

// send sends a request, a fresh one if none is given.
func (a *authority) send(t *testing.T, conn *grpc.ClientConn, c *caller, r *request) *request {
	t.Helper()
	if r == nil {
		var err error
		if r, err = c.ask("app1.staging.example.com"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.seen.send(t.Context(), conn, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestNothingIsSignedOnceASyncFailed lets a sync fail, each of a commit's two: after that the agent hears nothing any more.
func TestNothingIsSignedOnceASyncFailed(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	agent := a.moveKey(t)
	a.start(t).stop(t)
	order := regexp.MustCompile(`^(sscaat)*s?ft*$`) // a connection that is ended and told why may get as much as a certificate
	for n := range long.Rounds(4, 20) {
		file := filepath.Join(t.TempDir(), "trace")
		p := a.start(t, trace(file, tracedCalls, "inject=fdatasync:error=EIO:when="+strconv.Itoa(n+1)+"+")...)
		conn, c := a.connect(t, p), a.signIn(t, "user0")
		for before := a.seen.counts().granted; ; before++ {
			if a.send(t, conn, c, nil); a.seen.counts().granted == before {
				break
			}
		}
		if code := p.wait(t); code != 1 {
			t.Errorf("sync %d fails: the daemon ended with %d, want 1", n+1, code)
		}
		if got := steps(t, a, agent, file); !order.MatchString(got) {
			t.Errorf("sync %d fails: the calls came in the order %s, want %s", n+1, got, order)
		}
		a.seen.doubt()
		p = a.start(t)
		a.repeat(t, p)
		p.stop(t)
	}
	a.check(t)
}
