package cli_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// diffDir is a git repository whose folder policy had a rule of two hours, then one of four, and now has none committed of six.
func diffDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q", "-b", "main")
	write("README", "no policy yet\n")
	git("add", "-A")
	git("commit", "-qm", "zero")
	git("tag", "v0")
	for _, tt := range []struct{ tag, ttl string }{{"v1", "2h"}, {"v2", "4h"}} {
		write("policy/policy.yaml", strings.Replace(replayed, "ttl: 2h", "ttl: "+tt.ttl, 1))
		git("add", "-A")
		git("commit", "-qm", tt.tag)
		git("tag", tt.tag)
	}
	write("policy/policy.yaml", strings.Replace(replayed, "ttl: 2h", "ttl: 6h", 1))
	write("old.txtar", "-- policy.yaml --\n"+replayed)
	write("new/policy.yaml", strings.NewReplacer("- {name: no-contractors, when: environment == \"prod\" && claims.contractor}\n", "", "deny:\n", "deny: []\n").Replace(replayed))
	write("broken/policy.yaml", "version: 2\n")
	return dir
}

func TestPolicyDiff(t *testing.T) {
	dir := diffDir(t)
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string // on stdout; part of stderr if the exit code is neither 0 nor that of --exit-code
	}{
		{"two commits", []string{"--rev", "v1..v2", "policy"}, 0, "allow rule developers: ttl 2h -> 4h (wider)\n"},
		{"a commit and the folder", []string{"--rev", "HEAD~1", "policy"}, 0, "allow rule developers: ttl 2h -> 6h (wider)\n"},
		{"the branch and the folder", []string{"--rev", "main", "policy"}, 0, "allow rule developers: ttl 4h -> 6h (wider)\n"},
		{"the same commit", []string{"--rev", "v1..v1", "policy", "--exit-code"}, 0, "nothing changes in meaning\n"},
		{"a change with --exit-code", []string{"old.txtar", "policy", "--exit-code"}, 1, "allow rule developers: ttl 2h -> 6h (wider)\n"},
		{"a rule that goes shows what it said", []string{"old.txtar", "new"}, 0, "deny rule no-contractors: removed (wider)\n    when: claims.contractor && environment == \"prod\"\n"},
		{"markdown", []string{"old.txtar", "new", "--markdown"}, 0, "### Policy diff\n\n| what | change | before | after | effect |\n|---|---|---|---|---|\n" +
			"| deny rule no-contractors | removed | when: claims.contractor &amp;&amp; environment == \"prod\" |  | wider |\n"},
		{"a commit without the policy", []string{"--rev", "v0", "policy"}, 1, "has no folder policy"},
		{"no such commit", []string{"--rev", "v9", "policy"}, 1, "no such commit"},
		{"no repository", []string{"--rev", "v1", os.TempDir()}, 1, "no git work tree"},
		{"a policy that does not compile", []string{"old.txtar", "broken"}, 1, "the new policy, "},
		{"one folder", []string{"new"}, 2, "wants OLD and NEW"},
		{"two folders and commits", []string{"--rev", "v1", "old.txtar", "new"}, 2, "wants DIR"},
		{"commits of nothing", []string{"--rev", "..v1", "policy"}, 2, "want a commit"},
		{"three dots", []string{"--rev", "v1...v2", "policy"}, 2, "want a commit"},
		{"an empty commit", []string{"--rev", "", "policy"}, 2, "wants OLD and NEW"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, stderr, exit := hallpass(t, dir, append([]string{"policy", "diff"}, tt.args...)...)
			if exit != tt.exit {
				t.Fatalf("exit %d, want %d: %s%s", exit, tt.exit, out, stderr)
			}
			if exit == 0 || strings.HasSuffix(tt.want, "\n") {
				if diff := cmp.Diff(tt.want, out); diff != "" {
					t.Error(diff)
				}
			} else if !strings.Contains(stderr, tt.want) {
				t.Errorf("stderr %q lacks %q", stderr, tt.want)
			}
		})
	}
	out, _, _ := hallpass(t, dir, "policy", "diff", "old.txtar", "old.txtar", "-o", "json")
	var empty struct{ Changes []any }
	if err := json.Unmarshal([]byte(out), &empty); err != nil || empty.Changes == nil {
		t.Errorf("no changes are %q: %v", out, err)
	}
}
