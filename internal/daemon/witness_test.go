package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
)

// kept is a witness over HTTP.
type kept struct {
	mu     sync.Mutex // guards what follows
	status int
	tokens []string
	notes  []string
}

func (k *kept) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	k.tokens = append(k.tokens, r.Header.Get("Authorization"))
	if k.status == http.StatusOK {
		k.notes = append(k.notes, string(body))
	}
	w.WriteHeader(k.status)
}

func (k *kept) set(status int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = status
}

func (k *kept) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string{}, k.notes...)
}

func TestWitnessesGetTheCheckpoints(t *testing.T) {
	t.Parallel()
	witness := &kept{status: http.StatusServiceUnavailable}
	server := httptest.NewServer(witness)
	defer server.Close()
	hangs := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hangs }))
	defer hanging.Close()
	defer close(hangs)
	dir := t.TempDir()
	file, token := filepath.Join(dir, "witness.txt"), filepath.Join(dir, "token")
	write(t, token, "s3cret\n")
	repo := filepath.Join(dir, "repo.git")
	gitOutput(t, dir, "init", "-q", "--bare", repo)
	s := stack.New(t, "", fmt.Sprintf("witnesses:\n- {file: %q, every: 1s}\n- {git: "+repo+", every: 1s}\n- {url: %q, token_file: %q, every: 1s}\n- {url: %q, every: 1s}\n",
		file, server.URL, token, hanging.URL))
	from := s.Output.Len()
	s.Run()
	s.Output.Await(t, from, "a witness does not get")
	alice, c := s.Login("alice"), s.Client()
	get := func() {
		t.Helper()
		began := time.Now()
		if _, err := c.Issue(t.Context(), alice.SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"}); ca.KindOf(err) != ca.Denied && err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("a request took %s while a witness hangs", took)
		}
	}
	get()
	from = s.Output.Len()
	witness.set(http.StatusOK)
	s.Output.Await(t, from, "the witness gets the checkpoints of the log again")
	get()
	s.Stop() // what is newest is pushed at the end

	key, err := audit.LoadLogKey(filepath.Join(s.Dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(len(s.Records()))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "\n\n")
	last := strings.Join(parts[len(parts)-2:], "\n\n")
	posted := witness.all()
	committed := gitOutput(t, repo, "show", "hallpass-checkpoints:checkpoint")
	if n := strings.Count(gitOutput(t, repo, "log", "--format=%H", "hallpass-checkpoints"), "\n"); n < 2 {
		t.Errorf("the repository has %d commits", n)
	}
	gitOutput(t, repo, "fsck", "--strict")
	for _, newest := range []string{last, posted[len(posted)-1], committed} {
		checkpoint, err := audit.OpenCheckpoint([]byte(newest), key.Verifier())
		if err != nil || checkpoint.Size != size {
			t.Errorf("the witness has %v (%v), want the %d records of the log", checkpoint, err, size)
		}
	}
	for _, got := range witness.tokens {
		if got != "Bearer s3cret" {
			t.Errorf("authorization: %q", got)
		}
	}
	if strings.Contains(s.Output.String(), "s3cret") {
		t.Error("the daemon wrote the token")
	}
	// Another run has nothing new to say until something happens.
	before := string(text)
	s.Run()
	s.Stop()
	after, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(after), before) {
		t.Errorf("what was kept before was changed: %v", err)
	}
}

func gitOutput(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %q: %v", args, err)
	}
	return string(out)
}

// TestAWitnessThatIsNoRegularFile is told of, and holds up neither the daemon nor its end.
func TestAWitnessThatIsNoRegularFile(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s := stack.New(t, "", fmt.Sprintf("witnesses: [{file: %q, every: 1s}]\n", pipe))
	s.Run()
	if line := s.Output.Await(t, 0, "a witness does not get"); !strings.Contains(line, pipe+" is not a regular file: name one") {
		t.Errorf("the operators were told: %s", line)
	}
	s.Stop()
}

func TestWitnessesThatAreNone(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{"{}", "give one of file, url and git"},
		{"{file: a, url: 'https://b'}", "give one of file, url and git"},
		{"{file: a, token_file: b}", "for a url"},
		{"{url: 'http://witness.example.com'}", "must be https"},
		{"{url: 'http://localhost.example.com'}", "must be https"},
		{"{url: witness}", "not the address"},
		{"{url: 'https://user:password@witness.example.com'}", "not the address"},
		{"{file: a, git: b}", "give one of"},
		{"{git: a, ca_file: b}", "for a url"},
		{"{file: a, every: 10ms}", "less than 1s"},
		{"{file: a, often: 1s}", "often"},
	} {
		t.Run(tt.config, func(t *testing.T) {
			s := stack.New(t, "", "witnesses: ["+tt.config+"]\n")
			if _, err := daemon.LoadConfig(s.Config()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
