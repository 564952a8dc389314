package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// What is another in each run, and what stands for it in a transcript.
var volatile = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "2026-11-25T22:31:45Z"},
	{regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`), "SHA256:03wd7uxuLJ3jAkk3yrT0x9CT6V+Nzxj/TLhDn+Q0HBg"},
	{regexp.MustCompile(`\b[0-9a-f]{40}\b`), "3619efcf5af38c79fc13b6821d1cac25d3661a84"},
	{regexp.MustCompile(`p=[0-9a-f]{12}\b`), "p=3619efcf5af3"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "https://id.example.com"},
}

// transcript is `transcript PAGE`: it runs the blocks of a page in docs that begin with "console USER", as that user, and holds what
// the commands print against the page. With HALLPASS_UPDATE_DOCS set it writes the page instead.
func transcript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: transcript PAGE")
	}
	file := filepath.Join(root, "docs", args[0])
	text, err := os.ReadFile(file)
	ts.Check(err)
	var page strings.Builder
	rest := string(text)
	for {
		before, after, ok := strings.Cut(rest, "\n```console ")
		page.WriteString(before)
		if !ok {
			break
		}
		user, after, _ := strings.Cut(after, "\n")
		body, following, ok := strings.Cut(after, "```")
		if !ok {
			ts.Fatalf("docs/%s: a block does not end", args[0])
		}
		as(ts, false, []string{user})
		fmt.Fprintf(&page, "\n```console %s\n%s```", user, runBlock(ts, body))
		rest = following
	}
	if page.String() == string(text) {
		return
	}
	if os.Getenv("HALLPASS_UPDATE_DOCS") != "" {
		ts.Check(os.WriteFile(file, []byte(page.String()), 0o644)) //nolint:gosec // a page for everybody
		return
	}
	got := ts.MkAbs("page")
	ts.Check(os.WriteFile(got, []byte(page.String()), 0o600))
	diff, _ := exec.Command("diff", "-u", file, got).CombinedOutput() // that they differ is known
	ts.Fatalf("docs/%s is not what the commands print (HALLPASS_UPDATE_DOCS=1 writes it):\n%s", args[0], diff)
}

// runBlock runs the commands of a block, and returns it with what they print.
func runBlock(ts *testscript.TestScript, body string) string {
	var out strings.Builder
	for line := range strings.Lines(body) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), environ(ts)
		printed, _ := cmd.CombinedOutput() // a transcript shows errors too
		text := strings.ReplaceAll(string(printed), ts.Getenv("LOGIN"), "deploy")
		text = strings.ReplaceAll(text, ts.Getenv("STACK"), "/etc/hallpass")
		for _, v := range volatile {
			text = v.pattern.ReplaceAllString(text, v.stands)
		}
		out.WriteString(line + text)
	}
	return out.String()
}
