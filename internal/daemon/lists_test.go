package daemon_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// keeper is who keeps a roster: a web service that says what it is told to.
type keeper struct {
	*httptest.Server
	asked atomic.Int64

	mu      sync.Mutex // guards what follows
	handler http.HandlerFunc
	headers []http.Header
}

func keep(t *testing.T, members string) *keeper {
	t.Helper()
	k := &keeper{}
	k.says(members)
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		handler := k.handler
		k.headers = append(k.headers, r.Header.Clone())
		k.mu.Unlock()
		handler(w, r)
		k.asked.Add(1)
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *keeper) does(h http.HandlerFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handler = h
}

func (k *keeper) says(answer string) {
	k.does(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
}

// onCall is a policy with a list that k keeps.
func onCall(k *keeper) string {
	return `
version: 1
environments: {staging: {hosts: ["*.staging.example.com"]}}
lists: {oncall: {url: "` + k.URL + `/oncall", max_age: 15m, field: users, member: email}}
allow:
- {name: on-call, when: identity.email.orValue("") in lists.oncall, grant: {logins: [deploy], ttl: 1h}}
`
}

const insecureLists = "lists: {insecure: true}\n"

// A fetched list decides while it is fresh, and is in the log: who decides again from the log alone comes to the same. When it is too
// old, rules that ask for it fail.
func TestFetchedLists(t *testing.T) {
	k := keep(t, `{"users": [{"email": "alice@example.com"}]}`)
	s := stack.New(t, onCall(k), insecureLists)
	var ahead atomic.Int64
	s.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s.Run()
	s.Output.Await(t, 0, "list fetched")
	alice, c := s.Login("alice").SignIn, s.Client()
	ask := func() error {
		_, err := c.Issue(t.Context(), alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		return err
	}
	for range 2 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	k.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	ahead.Store(int64(4 * time.Minute)) // the sign-in and the clock of the request allow no more than five
	if err := ask(); err != nil {
		t.Errorf("with a list that is four minutes old: %v", err)
	}
	s.Stop()
	key, err := audit.LoadLogKey(filepath.Join(s.Dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Open(filepath.Join(s.Dir, "log.db"), bolt.Config{LogKey: key, Now: s.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	records, err := log.Records(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string]bool{}
	for _, b := range records {
		r, err := audit.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		d := r.GetDecided()
		if d == nil {
			continue
		}
		blobs[string(d.GetLists())] = true
		again(t, log, d)
	}
	if len(blobs) != 1 {
		t.Errorf("%d blobs of a list that did not change", len(blobs))
	}
}

// again decides a recorded decision again, now and with the list gone stale.
func again(t *testing.T, log *bolt.Store, d *pb.Decided) {
	t.Helper()
	blob := func(digest []byte) []byte {
		b, err := log.Blob(t.Context(), [sha256.Size]byte(digest))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	q, err := audit.Question(d, blob(d.GetCaller().GetSnapshot()), blob(d.GetLists()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alice@example.com"}, q.Lists[0].Members); diff != "" || q.Lists[0].Name != "oncall" {
		t.Errorf("the log has the list %q: %s", q.Lists[0].Name, diff)
	}
	ref := ca.PolicyRef{Digest: [sha256.Size]byte(d.GetPolicy().GetDigest())}
	bundle, err := policy.ReadManifest(ref, func(digest [sha256.Size]byte) ([]byte, error) { return log.Blob(t.Context(), digest) })
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Decide(t.Context(), q); got.Outcome != ca.Allow || got.Rule != d.GetDecision().GetRule() {
		t.Errorf("decided again: %v by %q", got.Outcome, got.Rule)
	}
	q.Now = q.Now.Add(15 * time.Minute)
	if got := p.Decide(t.Context(), q); got.Outcome != ca.Deny || !strings.Contains(fmt.Sprint(got.Failed), "at most 15m is allowed") {
		t.Errorf("decided with an old list: %v, failed %v", got.Outcome, got.Failed)
	}
}

// Whatever the keeper does, no decision waits for it, nobody gets in by it, and what it says is not in the daemon's output.
func TestKeepersOfListsThatDoHarm(t *testing.T) {
	elsewhere := keep(t, `{"users": [{"email": "alice@example.com"}]}`)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "status 403"},
		{"no content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "status 204"},
		{"an answer of another form", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"users": ["S3CRET"]}`) }, "no object with a field email"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>S3CRET") }, "not JSON"},
		{"an answer without end", func(w http.ResponseWriter, _ *http.Request) {
			for range 1 << 11 {
				fmt.Fprint(w, strings.Repeat(" ", 1<<10))
			}
		}, "longer than"},
		{"a redirect to another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/oncall", http.StatusFound)
		}, "another host"},
		{"a connection that breaks", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"users": [{"email": "alice@example.com"}]}`)
		}, "EOF"},
		{"silence", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := keep(t, "")
			k.does(tt.handler)
			s := stack.Start(t, onCall(k), insecureLists)
			if tt.want != "" {
				if line := s.Output.Await(t, 0, "list cannot be fetched"); !strings.Contains(line, tt.want) {
					t.Errorf("the daemon says %s", line)
				}
			}
			start := time.Now()
			_, err := s.Client().Issue(t.Context(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
			if err == nil || !strings.Contains(err.Error(), "on-call") {
				t.Errorf("alice: %v", err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("the decision took %s", took)
			}
			if strings.Contains(s.Output.String(), "S3CRET") {
				t.Error("what the keeper said is in the output")
			}
			s.Stop()
		})
	}
	if n := elsewhere.asked.Load(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

// A token goes to where the configuration says, wherever the policy sends the daemon.
func TestTokensOfLists(t *testing.T) {
	for _, tt := range []struct {
		name, covers, path, want string
	}{
		{"at the path", "/team", "/team", "Bearer t0ken"},
		{"below the path", "/team", "/team/oncall?schedule=1", "Bearer t0ken"},
		{"at the root", "", "/oncall", "Bearer t0ken"},
		{"beside the path", "/team", "/teams", ""},
		{"out of the path by dots", "/team", "/team/../admin", ""},
		{"out of the path by dots that are escaped", "/team", "/team/%2e%2e/admin", ""},
		{"out of the path by an escaped slash", "/team", "/team/..%2fadmin", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := keep(t, `{"users": []}`)
			text := strings.Replace(onCall(k), k.URL+"/oncall", k.URL+tt.path, 1)
			s := stack.New(t, text, "lists: {insecure: true, tokens: [{url: \""+k.URL+tt.covers+"\", token_file: pager.token}]}\n")
			write(t, filepath.Join(s.Dir, "pager.token"), "t0ken\n")
			s.Run()
			s.Output.Await(t, 0, "list fetched")
			k.mu.Lock()
			got := k.headers[0].Get("Authorization")
			k.mu.Unlock()
			if got != tt.want {
				t.Errorf("Authorization %q, want %q", got, tt.want)
			}
			if strings.Contains(s.Output.String(), "t0ken") {
				t.Error("the token is in the output")
			}
		})
	}
}

// Without the word of the operator plain http is not spoken, though the policy wants it.
func TestListsOverPlainHTTP(t *testing.T) {
	k := keep(t, `{"users": []}`)
	s := stack.Start(t, onCall(k))
	if line := s.Output.Await(t, 0, "list cannot be fetched"); !strings.Contains(line, "http is allowed for a trial") {
		t.Errorf("the daemon says %s", line)
	}
	if n := k.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// A new policy has its lists fetched at once; one that is no longer wanted is left alone.
func TestListsOfTheNextPolicy(t *testing.T) {
	k := keep(t, `{"users": [{"email": "alice@example.com"}]}`)
	s := stack.Start(t, first, insecureLists)
	source := filepath.Join(filepath.Dir(s.Dir), "policy")
	for line := range strings.Lines(string(read(t, s.Config()))) {
		if text, ok := strings.CutPrefix(line, "  source: "); ok {
			source = strings.Trim(strings.TrimSpace(text), `"`)
		}
	}
	stack.WritePolicy(t, source, onCall(k))
	from := s.Output.Len()
	hangup(t, s, "policy in force")
	s.Output.Await(t, from, "list fetched")
	_, err := s.Client().DryRun(context.Background(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
	if err != nil {
		t.Error(err)
	}
}
