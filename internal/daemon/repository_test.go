package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// ruled is a policy whose one rule has this name, with alice as admin.
func ruled(name string) string {
	return strings.Replace(strings.Replace(first, "name: developers", "name: "+name, 1), "admin: 'false'", `admin: '"developers" in identity.groups'`, 1)
}

const itsTests = `defaults: {now: 2026-11-23T12:00:00Z}
cases:
- {name: developers get in, identity: {groups: [developers]}, request: {login: deploy, host: app1.staging.example.com}, expect: {outcome: allow}}
`

// followed is a daemon that follows a repository.
type followed struct {
	*stack.Stack
	repo    *gitrepo.Repo
	alice   client.SignIn
	signers string // file
	key     gitrepo.Signer
}

// configure makes the daemon of s follow url, with more lines for the repository and for the policy.
func configure(t *testing.T, s *stack.Stack, url, repository, more string) {
	t.Helper()
	config := string(read(t, s.Config()))
	begin := strings.Index(config, "policy:\n")
	end := begin + strings.Index(config[begin:], "issuers:\n")
	write(t, s.Config(), config[:begin]+fmt.Sprintf("policy:\n  repository:\n    url: %q\n    poll: 1s\n    timeout: 3s\n%s%smetrics: {listen: \"127.0.0.1:0\"}\n", url, repository, more)+config[end:])
}

// follow starts a daemon that follows a repository whose first commit is signed and tested.
func follow(t *testing.T, url func(*gitrepo.Repo) (url, repository string)) *followed {
	t.Helper()
	f := &followed{Stack: stack.New(t, first), repo: gitrepo.New(t), key: gitrepo.NewSigner(t, "ed25519", "")}
	f.signers = filepath.Join(f.Dir, "allowed_signers")
	write(t, f.signers, "alice@example.com "+f.key.Public+"\n")
	f.repo.Write("policy.yaml", ruled("first"))
	f.repo.Write("policy_test.yaml", itsTests)
	f.repo.CommitSigned("Begin", f.key)
	address, repository := url(f.repo)
	configure(t, f.Stack, address, repository, "  allowed_signers: allowed_signers\n  run_tests: true\n")
	f.Append("limits: {identity_rate: 1000000, identity_burst: 1000000}\n") // alice asks as fast as the machine can
	f.Run()
	f.alice = f.Login("alice").SignIn
	return f
}

func byPath(r *gitrepo.Repo) (string, string) { return r.Bare, "" }

// rule is the rule that decides about alice, and the commit that is cited.
func (f *followed) rule(t *testing.T) (rule, revision string) {
	t.Helper()
	plan, err := f.Client().DryRun(t.Context(), f.alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	return plan.GetDecision().GetRule(), plan.GetPolicy().GetRevision()
}

// metric returns the value of a metric, as it is written with its labels.
func (f *followed) metric(t *testing.T, name string) (float64, bool) {
	t.Helper()
	answer, err := http.Get(watchURL(t, f.Stack, "/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// await waits until a metric has a value.
func (f *followed) await(t *testing.T, name string, want float64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		got, ok := f.metric(t, name)
		if ok && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v (%v), want %v\n%s", name, got, ok, want, f.Output)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func alarm(word string) string { return fmt.Sprintf("hallpass_policy_alarm{fault=%q}", word) }

// refusals returns, of the log, the commit and the fault of each refusal, and the causes of all loads.
func refusals(records []*pb.Record) (refused []string, loads []string) {
	for _, r := range records {
		if e := r.GetPolicyRefused(); e != nil {
			refused = append(refused, fmt.Sprintf("%.12s %s", e.GetRevision(), e.GetFault()))
		}
		if e := r.GetPolicyLoaded(); e != nil {
			loads = append(loads, fmt.Sprintf("%.12s %s", e.GetPolicy().GetRevision(), e.GetCause()))
		}
	}
	return refused, loads
}

// Whatever is wrong with a commit, the policy before it stays in force; there is one record that names the commit and the fault, and
// an alarm, until the next good commit.
func TestBadCommitsLeaveThePolicyInForce(t *testing.T) {
	other := gitrepo.NewSigner(t, "ed25519", "")
	signed := func(change func(f *followed)) func(t *testing.T, f *followed) {
		return func(_ *testing.T, f *followed) {
			change(f)
			f.repo.CommitSigned("Bad", f.key)
		}
	}
	for _, tt := range []struct {
		name  string
		bad   func(t *testing.T, f *followed)
		fault pb.PolicyFault
		want  string
	}{
		{"unsigned", func(_ *testing.T, f *followed) { f.repo.Commit("Bad") }, pb.PolicyFault_POLICY_FAULT_UNSIGNED, "is not signed"},
		{"signed by somebody else", func(_ *testing.T, f *followed) { f.repo.CommitSigned("Bad", other) }, pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER, "which is not in"},
		{"signed by somebody whose time is over", func(t *testing.T, f *followed) {
			write(t, f.signers, "alice@example.com "+f.key.Public+"\nbob@example.com valid-before=\"20260101Z\" "+other.Public+"\n")
			f.repo.CommitSigned("Bad", other)
		}, pb.PolicyFault_POLICY_FAULT_EXPIRED_SIGNER, "was valid until"},
		{"changed after it was signed", func(t *testing.T, f *followed) {
			// It is pushed only once it is changed: the daemon might see the good one.
			f.repo.Git("-c", "gpg.format=ssh", "-c", "user.signingkey="+f.key.File, "commit", "-q", "-S", "--allow-empty", "-m", "Good")
			f.repo.Point(f.repo.Object("commit", strings.Replace(f.repo.Git("cat-file", "commit", "HEAD")+"\n", "Good", "Bad", 1)))
		}, pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE, "does not verify"},
		{"broken", signed(func(f *followed) { f.repo.Write("policy.yaml", ruled("bad")+"alow: []\n") }), pb.PolicyFault_POLICY_FAULT_BROKEN, "alow"},
		{"for an authority that is not there", signed(func(f *followed) {
			f.repo.Write("policy.yaml", strings.Replace(ruled("bad"), "{hosts:", "{authority: nowhere, hosts:", 1))
		}), pb.PolicyFault_POLICY_FAULT_BROKEN, `"nowhere"`},
		{"with a huge file", signed(func(f *followed) { f.repo.Write("huge.yaml", strings.Repeat("#", 2<<20)) }), pb.PolicyFault_POLICY_FAULT_BROKEN, "huge.yaml"},
		{"with a link", signed(func(f *followed) { _ = os.Symlink("/etc", filepath.Join(f.repo.Dir, "teams")) }), pb.PolicyFault_POLICY_FAULT_BROKEN, "symbolic link"},
		{"failing its own tests", signed(func(f *followed) {
			f.repo.Write("policy_test.yaml", strings.Replace(itsTests, "groups: [developers]", "groups: [strangers]", 1))
		}), pb.PolicyFault_POLICY_FAULT_TESTS_FAILED, "developers get in"},
		{"with tests that cannot be read", signed(func(f *followed) { f.repo.Write("policy_test.yaml", "cases: {}") }), pb.PolicyFault_POLICY_FAULT_TESTS_FAILED, "policy_test.yaml"},
		{"set back", func(_ *testing.T, f *followed) {
			f.repo.Git("reset", "-q", "--hard", "HEAD~1")
			f.repo.Push()
		}, pb.PolicyFault_POLICY_FAULT_NOT_A_DESCENDANT, "was set back"},
		{"rewritten", func(_ *testing.T, f *followed) {
			f.repo.Git("checkout", "-q", "--orphan", "other")
			f.repo.CommitSigned("Bad", f.key)
		}, pb.PolicyFault_POLICY_FAULT_NOT_A_DESCENDANT, "was rewritten"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, byPath)
			f.repo.Write("policy.yaml", ruled("second"))
			good := f.repo.CommitSigned("Second", f.key)
			f.await(t, fmt.Sprintf("hallpass_policy_refused_total{fault=%q}", word(tt.fault)), 0)
			f.Output.Await(t, 0, `policy in force","source":"`+f.repo.Bare+` main","cause":"poll","revision":"`+good)
			tt.bad(t, f)
			bad := strings.Fields(f.repo.Git("ls-remote", f.repo.Bare, "main"))[0]
			f.await(t, alarm(word(tt.fault)), 1)
			if rule, revision := f.rule(t); rule != "second" || revision != good {
				t.Errorf("the rule %s of %s decides", rule, revision)
			}
			time.Sleep(2200 * time.Millisecond) // two more looks
			f.await(t, fmt.Sprintf("hallpass_policy_refused_total{fault=%q}", word(tt.fault)), 1)
			f.Stop()
			f.Run()
			f.await(t, alarm(word(tt.fault)), 1)
			if rule, revision := f.rule(t); rule != "second" || revision != good {
				t.Errorf("after a restart, the rule %s of %s decides", rule, revision)
			}
			f.repo.Git("checkout", "-q", "-B", "mended", good)
			f.repo.Git("clean", "-q", "-d", "-f")
			f.repo.Write("policy.yaml", ruled("third"))
			mended := f.repo.CommitSigned("Mend", f.key)
			f.await(t, alarm(word(tt.fault)), 0)
			if rule, revision := f.rule(t); rule != "third" || revision != mended {
				t.Errorf("mended, the rule %s of %s decides", rule, revision)
			}
			records := f.Records()
			refused, _ := refusals(records)
			if diff := cmp.Diff([]string{fmt.Sprintf("%.12s %s", bad, tt.fault)}, refused); diff != "" {
				t.Errorf("refusals in the log (-want +got):\n%s", diff)
			}
			for _, r := range records {
				if e := r.GetPolicyRefused(); e != nil && (!strings.Contains(e.GetMessage(), tt.want) || e.GetCommit().GetAuthor() == "") {
					t.Errorf("the record says %q of %v, want %q", e.GetMessage(), e.GetCommit(), tt.want)
				}
			}
		})
	}
}

func word(f pb.PolicyFault) string {
	return strings.ToLower(strings.TrimPrefix(f.String(), "POLICY_FAULT_"))
}

// The daemon takes a commit by itself, and the log tells of it.
func TestCommitsAreTaken(t *testing.T) {
	t.Parallel()
	var server *gitrepo.Server
	f := follow(t, func(r *gitrepo.Repo) (string, string) {
		server = gitrepo.Serve(t, r)
		password := filepath.Join(t.TempDir(), "password")
		write(t, password, gitrepo.Password+"\n")
		return server.URL, fmt.Sprintf("    ca_file: %q\n    username: %q\n    password_file: %q\n    max_age: 2s\n", server.CAFile, gitrepo.Username, password)
	})
	if rule, _ := f.rule(t); rule != "first" {
		t.Errorf("at first, %s decides", rule)
	}
	f.repo.Write("policy.yaml", ruled("second"))
	second := f.repo.CommitSigned("Go on", f.key)
	f.await(t, fmt.Sprintf("hallpass_policy_info{digest=%q,revision=%q}", digest(t, f, second), second), 1)
	if rule, revision := f.rule(t); rule != "second" || revision != second {
		t.Errorf("then, %s of %s decides", rule, revision)
	}
	for name, fault := range map[string]http.HandlerFunc{"gone": gitrepo.Gone, "hanging": gitrepo.Hang} {
		from := f.Output.Len()
		server.Fail(fault)
		f.await(t, alarm("unreadable"), 1)
		f.await(t, "hallpass_policy_source_stale", 1)
		f.Output.Await(t, from, "the policy may be out of date")
		if rule, _ := f.rule(t); rule != "second" {
			t.Errorf("%s: %s decides", name, rule)
		}
		server.Fail(nil)
		f.await(t, alarm("unreadable"), 0)
		f.await(t, "hallpass_policy_source_stale", 0)
	}
	server.Fail(gitrepo.Gone)
	f.Stop()
	f.Run()
	if rule, revision := f.rule(t); rule != "second" || revision != second {
		t.Errorf("started while the remote is gone, %s of %s decides", rule, revision)
	}
	records := f.Records()
	refused, loads := refusals(records)
	if diff := cmp.Diff([]string{" POLICY_FAULT_UNREADABLE", " POLICY_FAULT_UNREADABLE"}, refused); diff != "" {
		t.Errorf("refusals in the log (-want +got):\n%s", diff)
	}
	if len(loads) != 2 || loads[1] != second[:12]+" poll" {
		t.Errorf("loads in the log: %v", loads)
	}
	for _, r := range records {
		if e := r.GetPolicyLoaded(); e.GetPolicy().GetRevision() == second {
			c := e.GetCommit()
			if c.GetAuthor() != "Alice <alice@example.com>" || c.GetSubject() != "Go on" || c.GetSigner() != "alice@example.com" ||
				!strings.HasPrefix(c.GetSigningKey(), "SHA256:") || time.Since(c.GetTime().AsTime()) > time.Hour {
				t.Errorf("the record says %v", c)
			}
		}
	}
	if strings.Contains(f.Output.String(), gitrepo.Password) || strings.Contains(string(read(t, filepath.Join(f.Dir, "log.db"))), gitrepo.Password) {
		t.Error("the password of the repository is written somewhere")
	}
}

// digest is that of the policy of a revision, as the daemon says.
func digest(t *testing.T, f *followed, revision string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found, _, err := f.Client().GetRevision(t.Context(), f.alice, revision); err == nil {
			return fmt.Sprintf("%x", found.GetLoaded().GetPolicy().GetDigest())
		}
	}
	t.Fatalf("the commit %s never came into force\n%s", revision, f.Output)
	return ""
}

// An admin's word lets a commit in that does not descend; and no other, and not one that is bad otherwise.
func TestAnAdminAcceptsARewrittenBranch(t *testing.T) {
	f := follow(t, byPath)
	f.repo.Write("policy.yaml", ruled("second"))
	second := f.repo.CommitSigned("Second", f.key)
	digest(t, f, second)
	accept := func(revision string) error {
		_, err := f.Client().AcceptPolicy(t.Context(), f.alice, revision, "the branch was cleaned up")
		return err
	}
	refused := func(revision, want string) {
		t.Helper()
		if err := accept(revision); err == nil || ca.KindOf(err) != ca.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("accept %.12s: %v, want %q", revision, err, want)
		}
	}
	refused(second, "in force already")
	f.repo.Git("checkout", "-q", "--orphan", "other")
	f.repo.Write("policy.yaml", ruled("rewritten"))
	nobody := f.repo.Commit("Rewrite")
	refused(nobody, "is not signed")
	f.repo.Write("policy.yaml", ruled("rewritten")+"alow: []\n")
	refused(f.repo.CommitSigned("Break", f.key), "alow")
	f.repo.Write("policy.yaml", ruled("rewritten"))
	rewritten := f.repo.CommitSigned("Mend", f.key)
	refused(nobody, "newest commit of the branch is "+rewritten)
	if _, err := f.Client().ReloadPolicy(t.Context(), f.alice); err == nil || !strings.Contains(err.Error(), "hallpass policy accept "+rewritten) {
		t.Errorf("reload: %v", err)
	}
	if _, err := f.Client().AcceptPolicy(t.Context(), f.Login("mallory").SignIn, rewritten, "x"); ca.KindOf(err) != ca.Denied {
		t.Errorf("somebody who is no admin: %v", err)
	}
	if _, err := f.Client().AcceptPolicy(t.Context(), f.alice, rewritten, "fine\x1b[2J"); ca.KindOf(err) != ca.Invalid || !strings.Contains(err.Error(), "one line") {
		t.Errorf("a reason with a terminal escape: %v", err)
	}
	if rule, revision := f.rule(t); rule != "second" || revision != second {
		t.Errorf("before it is accepted, %s of %s decides", rule, revision)
	}
	if err := accept(rewritten); err != nil {
		t.Fatal(err)
	}
	if rule, revision := f.rule(t); rule != "rewritten" || revision != rewritten {
		t.Errorf("accepted, %s of %s decides", rule, revision)
	}
	f.await(t, alarm("not_a_descendant"), 0)
	f.repo.Write("policy.yaml", ruled("onwards"))
	onwards := f.repo.CommitSigned("Go on", f.key)
	digest(t, f, onwards)
	// The word is spent: the same commit does not come back by it.
	f.repo.Git("reset", "-q", "--hard", rewritten)
	f.repo.Push()
	f.await(t, alarm("not_a_descendant"), 1)
	_, loads := refusals(f.Records())
	if diff := cmp.Diff([]string{second[:12] + " poll", rewritten[:12] + " accept", onwards[:12] + " poll"}, loads[1:]); diff != "" {
		t.Errorf("loads in the log (-want +got):\n%s", diff)
	}
}

// A daemon that dies between an admin's word and the load acts on the word at its next start. SIGHUP is a look like any other.
func TestAWordThatWasNotActedOn(t *testing.T) {
	f := follow(t, byPath)
	f.repo.Git("checkout", "-q", "--orphan", "other")
	f.repo.Write("policy.yaml", ruled("rewritten"))
	rewritten := f.repo.CommitSigned("Rewrite", f.key)
	hangup(t, f.Stack, "policy refused")
	f.Stop()
	key, err := audit.LoadLogKey(filepath.Join(f.Dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Open(filepath.Join(f.Dir, "log.db"), bolt.Config{LogKey: key, Now: f.Now})
	if err != nil {
		t.Fatal(err)
	}
	admin := ca.Caller{Identity: ca.Identity{Issuer: f.IDP.URL(), Subject: "carol", Kind: ca.Person}}
	if err := store.NewRecorder(log).AcceptPolicy(t.Context(), admin, rewritten, "it is right"); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	f.Run()
	if rule, revision := f.rule(t); rule != "rewritten" || revision != rewritten {
		t.Errorf("started again, %s of %s decides", rule, revision)
	}
	f.await(t, alarm("not_a_descendant"), 0)
	_, loads := refusals(f.Records())
	if want := rewritten[:12] + " accept"; loads[len(loads)-1] != want {
		t.Errorf("loads in the log: %v, want %s as the last", loads, want)
	}
}

// A work tree too needs a signature if there are allowed signers, and its commit is told of.
func TestWorkTreesAreHeldToSignatures(t *testing.T) {
	f := &followed{Stack: stack.New(t, first), repo: gitrepo.New(t), key: gitrepo.NewSigner(t, "ed25519", "")}
	write(t, filepath.Join(f.Dir, "allowed_signers"), "alice@example.com "+f.key.Public+"\n")
	config := string(read(t, f.Config()))
	begin, end := strings.Index(config, "policy:\n"), strings.Index(config, "issuers:\n")
	write(t, f.Config(), config[:begin]+fmt.Sprintf("policy: {source: %q, allowed_signers: allowed_signers}\n", f.repo.Dir)+config[end:])
	f.repo.Write("policy.yaml", ruled("first"))
	f.repo.Commit("Unsigned")
	if err := run(t, f.Dir); err == nil || !strings.Contains(err.Error(), "is not signed") {
		t.Errorf("unsigned: %v", err)
	}
	signed := f.repo.CommitSigned("Signed", f.key)
	f.Run()
	f.alice = f.Login("alice").SignIn
	f.repo.Write("policy.yaml", ruled("second"))
	f.repo.Commit("Unsigned again")
	hangup(t, f.Stack, "policy refused")
	if rule, revision := f.rule(t); rule != "first" || revision != signed {
		t.Errorf("%s of %s decides", rule, revision)
	}
	for _, r := range f.Records() {
		if e := r.GetPolicyLoaded(); e != nil && (e.GetCommit().GetSigner() != "alice@example.com" || e.GetCommit().GetSubject() != "Signed") {
			t.Errorf("the record says %v", e.GetCommit())
		}
	}
}

// Requests neither fail nor wait while policies come and go, and each decision cites a policy that was in force.
func TestRequestsGoOnWhilePoliciesChange(t *testing.T) {
	f := follow(t, byPath)
	var stop atomic.Bool
	var granted atomic.Int64
	var wait sync.WaitGroup
	errs := make(chan error, 100)
	for range 4 {
		conn := f.Client()
		wait.Go(func() {
			for !stop.Load() {
				issued, err := conn.Issue(t.Context(), f.alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
				if err != nil {
					errs <- err
					return
				}
				if issued.Certificate == nil {
					errs <- errors.New("no certificate")
					return
				}
				granted.Add(1)
			}
		})
	}
	admin := f.Client()
	for i := range 12 {
		f.repo.Write("policy.yaml", ruled(fmt.Sprintf("rule-%d", i)))
		f.repo.CommitSigned("x", f.key)
		answer, err := admin.ReloadPolicy(t.Context(), f.alice)
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetPolicy().GetRevision() != f.repo.Head() {
			t.Errorf("in force is %s", answer.GetPolicy().GetRevision())
		}
	}
	stop.Store(true)
	wait.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	inForce, decided := "", 0
	for _, r := range f.Records() {
		if e := r.GetPolicyLoaded(); e != nil {
			inForce = e.GetPolicy().GetRevision()
		}
		if e := r.GetDecided(); e != nil {
			decided++
			if e.GetPolicy().GetRevision() != inForce {
				t.Errorf("record %d cites %s while %s was in force", r.GetIndex(), e.GetPolicy().GetRevision(), inForce)
			}
		}
	}
	if decided == 0 || int64(decided) != granted.Load() {
		t.Errorf("%d decisions in the log, %d certificates", decided, granted.Load())
	}
}

// Without a policy from before, a daemon that cannot have one does not start, and says why.
func TestNoFirstPolicyNoDaemon(t *testing.T) {
	s := stack.New(t, first)
	configure(t, s, filepath.Join(t.TempDir(), "nowhere"), "", "")
	err := run(t, s.Dir)
	for _, want := range []string{"nowhere", "there is no git repository", "no earlier policy"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
