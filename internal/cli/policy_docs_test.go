package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/fixture/history"
	"github.com/hallpass-ssh/hallpass/policy"
)

// TestPolicyDocs runs the commands that docs/policy.md shows, on the policy with which the page begins and the files that it
// describes, and holds what they print against the page.
func TestPolicyDocs(t *testing.T) {
	const page = "../../docs/policy.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```([a-z ]*)\n(.*?)^```\n").FindAllStringSubmatch(string(text), -1)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy/policy.yaml", blocks[0][2])
	docsLog(t, blocks[0][2], filepath.Join(dir, "log-copy.db"))
	ran := 0
	for i, b := range blocks {
		switch b[1] {
		case "yaml identity", "yaml file":
			name, _, _ := strings.Cut(strings.TrimPrefix(b[2], "# "), "\n")
			write(name, b[2])
		case "sh":
			ran++
			words := strings.Fields(b[2])
			cmd := exec.Command(words[0], words[1:]...) //nolint:gosec // of our own page
			cmd.Dir = dir
			out, err := cmd.Output()
			if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 3 && exit.ExitCode() != 5) { //nolint:errorlint // bare
				t.Fatalf("%s: %v\n%s", b[2], err, exit.Stderr)
			}
			if i+1 == len(blocks) || blocks[i+1][1] != "text" {
				t.Fatalf("%s: the page does not show what it prints", b[2])
			}
			if diff := cmp.Diff(blocks[i+1][2], string(out)); diff != "" {
				t.Errorf("%s%s", b[2], diff)
			}
		}
	}
	if ran == 0 {
		t.Fatal("the page has no command: did its form change?")
	}
}

// docsLog makes the log that the page replays, of the policy with which it begins.
func docsLog(t *testing.T, text, file string) {
	t.Helper()
	l := history.New(t)
	l.Load(&policy.Bundle{Source: "the page", Files: map[string][]byte{"policy.yaml": []byte(text)}})
	for _, asked := range []history.Asked{
		{Subject: "a", Email: "alice@example.com", Groups: []string{"developers"}, Host: "app1.staging.example.com"},
		{Subject: "a", Email: "alice@example.com", Groups: []string{"developers"}, Host: "app2.staging.example.com"},
		{Subject: "b", Email: "bob@example.com", Groups: []string{"sre"}, Host: "app1.staging.example.com"},
		{Subject: "d", Email: "dave@example.com", Host: "db1.prod.example.com"},
	} {
		_, _ = l.Ask(asked)
		l.Wait(time.Hour)
	}
	l.Close()
	copyFile(t, l.Path, file)
}
