package cli_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/cli"
	"github.com/hallpass-ssh/hallpass/policy"
)

func TestNoFieldIsAFormula(t *testing.T) {
	for field, want := range map[string]string{
		"":                  "",
		"ticket 4711":       "ticket 4711",
		"a=b":               "a=b",
		"=1+1":              "'=1+1",
		"+1":                "'+1",
		"-1":                "'-1",
		"@SUM(A1)":          "'@SUM(A1)",
		"\t=1":              "'\t=1",
		"  =1":              "'  =1",
		"\n=1":              "'\n=1",
		"＝1":                "'＝1",
		"'=1":               "'=1",
		"\u00a0=1":          "'\u00a0=1",
		"-":                 "'-",
		"db1.example.com":   "db1.example.com",
		"\u3000＠SUM(A1:A9)": "'\u3000＠SUM(A1:A9)",
	} {
		if got := cli.NoFormula(field); got != want {
			t.Errorf("%q: %q, want %q", field, got, want)
		}
	}
}

// TestPatches holds what git makes of a patch against the edit that it stands for, for files with and without a last line break.
func TestPatches(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	for i := range 60 {
		n := 1 + random.IntN(40)
		var text strings.Builder
		for line := range n {
			fmt.Fprintf(&text, "line %d%s", line, []string{"\n", "\r\n"}[i%2])
		}
		e := &policy.Edit{File: "a b.yaml", Text: []byte(text.String()), Lines: map[int]*string{}}
		if i%3 == 0 {
			e.Text = e.Text[:len(e.Text)-1-i%2]
		}
		for line := 1; line <= n; line++ {
			switch random.IntN(8) {
			case 0:
				e.Lines[line] = nil
			case 1:
				changed := fmt.Sprint("changed ", line)
				e.Lines[line] = &changed
			}
		}
		if len(e.Lines) == 0 || len(e.Result()) == 0 { // git would remove an empty file
			continue
		}
		file := filepath.Join(dir, e.File)
		if err := os.WriteFile(file, e.Text, 0o600); err != nil {
			t.Fatal(err)
		}
		patch := cli.PatchOf(e.File, e)
		cmd := exec.CommandContext(t.Context(), "git", "apply", "--whitespace=nowarn", "-")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(patch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git apply: %v\n%s\n%s", err, out, patch)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(e.Result()) {
			t.Fatalf("the patch gives\n%q\nwant\n%q\npatch:\n%s", got, e.Result(), patch)
		}
	}
}
