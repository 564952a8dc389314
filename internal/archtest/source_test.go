package archtest_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// maxLines is where a hand-written file has become two.
const maxLines = 450

// Versions that fix holes which would be holes of ours, and what they fix.
var minimums = []struct{ module, version, why string }{
	{"golang.org/x/crypto", "v0.52.0", "CVE-2026-39827 to -39835 and -46595 to -46598: agent client, sk keys, certificate checks"},
	{"google.golang.org/grpc", "v1.79.3", "CVE-2026-33186: a :path without a leading slash passes by interceptors"},
	{"github.com/go-jose/go-jose/v4", "v4.1.4", "CVE-2026-34986: a JWE makes the verifier panic"},
}

func TestMinimumVersions(t *testing.T) {
	name := filepath.Join(root(t), "go.mod")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(name, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range minimums {
		i := slices.IndexFunc(mod.Require, func(r *modfile.Require) bool { return r.Mod.Path == m.module })
		if i < 0 {
			t.Errorf("go.mod does not require %s: drop its row if nothing needs it any more", m.module)
			continue
		}
		if got := mod.Require[i].Mod.Version; semver.Compare(got, m.version) < 0 {
			t.Errorf("%s is %s, must be at least %s: %s", m.module, got, m.version, m.why)
		}
	}
	for _, replace := range mod.Replace {
		t.Errorf("go.mod replaces %s: the version it names would say nothing", replace.Old.Path)
	}
}

func TestFilesAreShort(t *testing.T) {
	walkGo(t, func(name string, data []byte, file *ast.File) {
		if lines := bytes.Count(data, []byte("\n")); lines > maxLines && !strings.HasSuffix(name, "_test.go") && !ast.IsGenerated(file) {
			t.Errorf("%s has %d lines, more than %d", name, lines, maxLines)
		}
	})
}

// TestNoShell finds commands that are handed to a shell: what they quote wrongly, somebody else runs.
func TestNoShell(t *testing.T) {
	walkGo(t, func(name string, _ []byte, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, shell := range shellsIn(file) {
			t.Errorf("%s starts the shell %s: start the program itself", name, shell)
		}
	})
}

func TestNoShellSeesShells(t *testing.T) {
	for _, tt := range []struct {
		name string
		call string
		want bool
	}{
		{"a bare shell", `exec.Command("sh", "-c", x)`, true},
		{"a shell by its path and with a context", `exec.CommandContext(ctx, "/bin/bash", "-c", x)`, true},
		{"a program", `exec.Command("ssh", "-G", "sh")`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nvar _ = "+tt.call, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(shellsIn(file)) > 0; got != tt.want {
				t.Errorf("%s: got %v, want %v", tt.call, got, tt.want)
			}
		})
	}
}

// shellsIn returns the shells that calls of os/exec in file name.
func shellsIn(file *ast.File) []string {
	var shells []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		selector, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Command", "CommandContext"}, selector.Sel.Name) {
			return true
		}
		// The program is the first string; CommandContext has a context before it.
		for _, arg := range call.Args[:min(len(call.Args), 2)] {
			literal, ok := arg.(*ast.BasicLit)
			if !ok {
				continue
			}
			program, err := strconv.Unquote(literal.Value)
			if err == nil && slices.Contains([]string{"sh", "bash", "dash", "zsh", "ksh", "cmd", "cmd.exe", "powershell"}, path.Base(program)) {
				shells = append(shells, program)
			}
			break
		}
		return true
	})
	return shells
}

// walkGo calls visit with every Go file of the module that git would keep; name is relative to the module's root.
func walkGo(t testing.TB, visit func(name string, data []byte, file *ast.File)) {
	t.Helper()
	top, seen := root(t), 0
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); relative != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), relative, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		seen++
		visit(relative, data, file)
		return nil
	})
	if err != nil {
		t.Fatalf("walk the source: %v", err)
	}
	if seen == 0 {
		t.Fatal("found no Go file")
	}
}
