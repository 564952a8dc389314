//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// world is all that takes part in a run.
type world struct {
	root    string // of the repository
	dir     string // on a real disk
	idp     *devidp.Server
	people  []*person
	daemons []*daemon
	bare    *daemon
	config  bareConfig
}

// person signs in once and keeps the key of that sign-in.
type person struct {
	subject string
	key     ssh.Signer
	random  []byte // behind the nonce of the ID tokens
}

// daemon is a running hallpassd, or the bare server.
type daemon struct {
	name    string
	method  string // that issues certificates
	dir     string
	address client.Address
	*process
}

func newWorld(b *testing.B) *world {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	must(b, err)
	w := &world{root: root, dir: realDir(b, root)}
	w.idp, err = devidp.New(devidp.Config{})
	must(b, err)
	must(b, w.idp.Listen("127.0.0.1:0"))
	b.Cleanup(func() { _ = w.idp.Close() })
	for i := range maxClients {
		w.people = append(w.people, newPerson(b, i))
	}
	built := filepath.Join(w.dir, "hallpassd")
	command(b, exec.Command("go", "build", "-trimpath", "-o", built, "./cmd/hallpassd"), w.root)
	w.daemons = append(w.daemons, w.startDaemon(b, "this", built, 0))
	if records, _ := strconv.ParseUint(os.Getenv("HALLPASS_BENCH_RECORDS"), 10, 64); records > 0 {
		w.daemons = append(w.daemons, w.startDaemon(b, "full", built, records))
	}
	if base := os.Getenv("HALLPASS_BENCH_BASE"); base != "" {
		w.daemons = append(w.daemons, w.startDaemon(b, "base", base, 0))
	}
	w.bare = startBare(b, w.config)
	return w
}

func newPerson(b *testing.B, i int) *person {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(b, err)
	key, err := ssh.NewSignerFromKey(private)
	must(b, err)
	p := &person{subject: fmt.Sprintf("u-%08d", i), key: key, random: make([]byte, 32)}
	rand.Read(p.random)
	return p
}

// startDaemon makes a CA, with a log of so many records if that is not 0, and runs it. Of the first one it looks at the record of a
// certificate.
func (w *world) startDaemon(b *testing.B, name, binary string, records uint64) *daemon {
	d := &daemon{name: name, method: pb.CertificateService_Issue_FullMethodName, dir: filepath.Join(w.dir, name)}
	out := command(b, exec.Command(binary, "init", "--dir", d.dir, "--listen", "127.0.0.1:0", "--name", "localhost",
		"--issuer", w.idp.URL(), "--client-id", "hallpass"), w.root)
	pin := regexp.MustCompile(`#sha256:\S+?'`).FindString(out)
	config, err := os.OpenFile(filepath.Join(d.dir, "hallpassd.yaml"), os.O_WRONLY|os.O_APPEND, 0)
	must(b, err)
	_, err = config.WriteString("limits: {identity_rate: 1000000, identity_burst: 1000000}\n")
	must(b, err)
	must(b, config.Close())
	if records > 0 {
		must(b, seed.Fill(b.Context(), seed.Params{Dir: d.dir, Records: records}))
	}
	d.run(b, binary, pin)
	if w.config.Dir == "" {
		w.config = w.bareConfig(b, d)
		d.stop()
		w.config.Record = lastRecord(b, d.dir)
		d.run(b, binary, pin)
	}
	return d
}

// run starts the daemon and connects to it.
func (d *daemon) run(b *testing.B, binary, pin string) {
	// As under systemd: what it logs goes somewhere, and the daemon does not wait for it.
	log, err := os.Create(filepath.Join(d.dir, "stderr"))
	must(b, err)
	defer log.Close()
	cmd := exec.Command(binary, "run", "--dir", d.dir)
	cmd.Stderr = log
	must(b, cmd.Start())
	d.process = &process{cmd: cmd}
	b.Cleanup(d.stop)
	listening := regexp.MustCompile(`"msg":"listening","address":"127.0.0.1:(\d+)"`)
	for {
		text, err := os.ReadFile(log.Name())
		must(b, err)
		if found := listening.FindSubmatch(text); found != nil {
			address, err := client.ParseAddress("localhost:" + string(found[1]) + strings.TrimSuffix(pin, "'"))
			must(b, err)
			d.address = address
			d.connect(b, address)
			return
		}
		if !d.alive() {
			b.Fatalf("hallpassd ended:\n%s", text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lastRecord reads the log of a daemon that does not run.
func lastRecord(b *testing.B, dir string) []byte {
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	must(b, err)
	log, err := bolt.Open(filepath.Join(dir, "log.db"), bolt.Config{LogKey: key})
	must(b, err)
	defer log.Close()
	size, err := log.Size(context.Background())
	must(b, err)
	records, err := log.Records(context.Background(), size-1, 1)
	must(b, err)
	return records[0]
}

// realDir returns a new folder that is not in memory, where a sync would cost nothing.
func realDir(b *testing.B, root string) string {
	dir := b.TempDir()
	var fs unix.Statfs_t
	must(b, unix.Statfs(dir, &fs))
	if fs.Type != unix.TMPFS_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp(root, ".bench-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// describe says what was measured on what.
func (w *world) describe(b *testing.B) string {
	var fs unix.Statfs_t
	kind := "unknown"
	if unix.Statfs(w.dir, &fs) == nil {
		kind = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
			unix.OVERLAYFS_SUPER_MAGIC: "overlayfs"}[int64(fs.Type)] //nolint:unconvert // the type of the field differs between architectures
	}
	load, _ := os.ReadFile("/proc/loadavg")
	asked := w.issue(b, point{"reused", 1, 1})[0]
	token, err := w.idToken(w.people[0], time.Now())
	must(b, err)
	return fmt.Sprintf("\n%s, %.0f cores, %s, data on %s, load of the machine at the end %s\nrequest %d B with a token of %d B, answer %d B, record %d B\n",
		processor(), cores(), runtime.Version(), kind, firstWord(load), len(asked.body), len(token), w.config.Answer, len(w.config.Record))
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return runtime.GOARCH
}

func firstWord(text []byte) string {
	word, _, _ := bytes.Cut(text, []byte(" "))
	return string(word)
}

// process is a program that answers calls, with the connections to it.
type process struct {
	cmd *exec.Cmd
	connections
}

// cpu is what the process used so far, user and system, from its CPU clock (clock_getcpuclockid(3)): what /proc/PID/stat shows,
// without rounding to ticks.
func (p *process) cpu(b *testing.B) time.Duration {
	var t unix.Timespec
	must(b, unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t))
	return time.Duration(t.Nano())
}

// alive says whether the process still runs, or can still be asked to end.
func (p *process) alive() bool {
	return p.cmd.ProcessState == nil && p.cmd.Process.Signal(syscall.Signal(0)) == nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	if p.cmd.ProcessState != nil {
		return
	}
	p.close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// ownCPU is what this process used so far.
func ownCPU(b *testing.B) time.Duration {
	var usage unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// statusField returns a number from /proc/PID/status.
func statusField(b *testing.B, pid int, name string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	m := regexp.MustCompile(`(?m)^` + name + `:\s*(\d+)`).FindSubmatch(text)
	if m == nil {
		b.Fatalf("/proc/%d/status has no %s", pid, name)
	}
	return string(m[1])
}

func command(b *testing.B, cmd *exec.Cmd, dir string) string {
	b.Helper()
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
