package policy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/hallpass-ssh/hallpass/policy"
)

var update = flag.Bool("update", false, "write the goldens in testdata anew")

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hexOf(sum[:])
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// TestRefused compiles the policies of testdata/refused.txtar. The files of a case stand below its name; its file "errors" is
// what the compiler says.
func TestRefused(t *testing.T) {
	const name = "testdata/refused.txtar"
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	bundles, want := map[string]*policy.Bundle{}, map[string]string{}
	for _, f := range archive.Files {
		title, path, ok := strings.Cut(f.Name, "/")
		if !ok {
			t.Fatalf("%s belongs to no case", f.Name)
		}
		if path == "errors" {
			want[title] = strings.TrimSpace(string(f.Data))
			continue
		}
		if bundles[title] == nil {
			bundles[title] = bundle()
		}
		bundles[title].Files[path] = f.Data
	}
	got := map[string]string{}
	for _, title := range slices.Sorted(maps.Keys(bundles)) {
		t.Run(title, func(t *testing.T) {
			_, err := policy.Compile(bundles[title])
			if err == nil {
				t.Fatal("the policy compiles")
			}
			if all, ok := errors.AsType[policy.Errors](err); !ok || len(all) == 0 {
				t.Errorf("got %T with no mistake in it", err)
			}
			got[title] = err.Error()
			if diff := cmp.Diff(want[title], err.Error()); diff != "" && !*update {
				t.Error(diff)
			}
		})
	}
	if *update {
		writeRefused(t, name, archive, got)
	}
}

func writeRefused(t *testing.T, name string, archive *txtar.Archive, got map[string]string) {
	t.Helper()
	out := &txtar.Archive{Comment: archive.Comment}
	last := ""
	flush := func() {
		if last != "" {
			out.Files = append(out.Files, txtar.File{Name: last + "/errors", Data: []byte(got[last] + "\n")})
		}
	}
	for _, f := range archive.Files {
		title, path, _ := strings.Cut(f.Name, "/")
		if path == "errors" {
			continue
		}
		if title != last {
			flush()
			last = title
		}
		out.Files = append(out.Files, f)
	}
	flush()
	if err := os.WriteFile(name, txtar.Format(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedText holds cases that a txtar cannot: bytes that are no text, and large ones.
func TestRefusedText(t *testing.T) {
	bomb := "a: &a [x]\n"
	for c := 'b'; c <= 'z'; c++ {
		prev := "*" + string(c-1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat(prev+",", 9), ",") + "]\n"
	}
	for _, tt := range []struct {
		name string
		text string
		want string
	}{
		{"a file that is empty", "", "policy.yaml:1:1: the file is empty"},
		{"a file of comments", "# nothing\n", "policy.yaml:1:1: the file is empty"},
		{"bytes that are not UTF-8", "version: 1\nallow: \xff\n", "policy.yaml:2:1: the line is not UTF-8"},
		{"a control character", "version: 1 \x00", "control characters"},
		{"aliases that stand for a billion values", bomb, "policy.yaml:1:1: the policy has no key"},
		{"an alias bomb where a list is wanted", "version: 1\nallow: &a [*a, *a]\n", "policy.yaml:2:8: anchors and aliases"},
		{"brackets without end", strings.Repeat("[", 1<<20), "policy.yaml:1:10001: not YAML: exceeded max depth"},
		{"an expression of a million runes", "version: 1\nroles: {admin: '" + strings.Repeat("true&&", 1<<17) + "true'}", "policy.yaml:2:17: expression code point size exceeds limit"},
		{"an expression of a thousand brackets", "version: 1\nroles: {admin: '" + strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000) + "'}", "recursion limit"},
		{"a line of a megabyte is shown in part", "version: 1\nxersion: " + strings.Repeat("x", 1<<20), "policy.yaml:2:1: the policy has no key"},
		{"a key of a megabyte is cited in part", "version: 1\n? " + strings.Repeat("x", 1<<20) + "\n: 1\n", "policy.yaml:2:3: the policy has no key \"xxx"},
		{"twenty thousand mistakes are a thousand", "version: 1\nallow: [" + strings.Repeat("1,", 20_000) + "]", "policy.yaml:2:9: an allow rule must be a mapping"},
		{"what a terminal would obey", "version: 1\nallo\u202e\u009b: 1\n", "policy.yaml:2:1: the policy has no key \"allo\\u202e\\u009b\"\n    allo??: 1"},
		{"Windows line ends", "version: 1\r\nroles:\r\n  admin: nope\r\n", "policy.yaml:3:10: no such variable nope\n      admin: nope\n             ^"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.Compile(bundle("policy.yaml", tt.text))
			if err == nil {
				t.Fatal("the policy compiles")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %.500s\nwant %s", err, tt.want)
			}
			if len(err.Error()) > 400_000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestMissingMainFile(t *testing.T) {
	_, err := policy.Compile(bundle("other.yaml", "version: 1"))
	if err == nil || !strings.Contains(err.Error(), "policy.yaml: there is no such file in the test") {
		t.Errorf("got %v", err)
	}
}
