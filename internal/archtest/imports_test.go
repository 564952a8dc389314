package archtest_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The layers, from the bottom up. A package may import only packages of lower layers, so those of one layer never meet except in
// the words of the layers below. "x/*" names all that lies below x, but not x.
var layers = [][]string{
	{"proto/*", "ca", "internal/version", "internal/issuerhttp"},
	{"internal/audit"},
	{"store"},
	{
		"policy", "store/*", "internal/idtoken", "internal/server", "internal/client", "internal/web", "internal/login",
		"internal/agentkey", "internal/audit/verify", "internal/sink",
	},
	{"internal/replay"},
	{"internal/daemon", "internal/cli"},
	{"cmd/*"},
}

// Fixtures speak real protocols for tests and for development. They may import everything but mains; no part of the product may
// import them.
var fixtures = []string{"e2e", "e2e/*", "internal/archtest", "internal/devidp", "internal/devidp/*", "internal/fixture", "internal/fixture/*", "store/storetest"}

// developmentMain is the one program that is not shipped, and so may use fixtures.
const developmentMain = "cmd/hallpass-devidp"

// Libraries, and the only packages of the product that may import them themselves.
var libraries = map[string][]string{
	"github.com/google/cel-go":     {"policy"},
	"cel.dev/":                     {"policy"},
	"go.etcd.io/bbolt":             {"store/bolt"},
	"github.com/coreos/go-oidc/v3": {"internal/idtoken", "internal/login"},
	"google.golang.org/grpc":       {"internal/server", "internal/client", "proto/*"},
	// Whoever is watched tells an observer in its own words; only the daemon knows metrics and traces.
	"github.com/prometheus":      {"internal/daemon"},
	"go.opentelemetry.io/otel":   {"internal/daemon"},
	"github.com/zitadel/oidc/v3": {},
	"testing":                    {},
	"text/template":              {},
}

// Packages that may import, of this module, nothing but what is named: they must not trust the code they check.
var islands = map[string][]string{
	"internal/audit/verify": {"proto/*"},
}

// TestImportsPointOneWay lists every system that a program is built for, because files for one system import too.
func TestImportsPointOneWay(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			t.Parallel()
			for _, p := range goList(t, goos, "./...") {
				if path, ok := p.ours(); ok {
					for _, complaint := range checkImports(path, p.Imports) {
						t.Error(complaint)
					}
				}
			}
		})
	}
}

// TestShippedProgramsLinkNoFixture looks at everything that the programs link, because a library may bring a fixture along.
func TestShippedProgramsLinkNoFixture(t *testing.T) {
	mains, err := filepath.Glob(filepath.Join(root(t), "cmd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range mains {
		main := "cmd/" + filepath.Base(dir)
		if main == developmentMain {
			continue
		}
		for _, p := range goList(t, "linux", "./"+main) {
			path, ours := p.ours()
			if p.ImportPath == "testing" || strings.HasPrefix(p.ImportPath, "github.com/zitadel/oidc/") || ours && matches(fixtures, path) {
				t.Errorf("%s links %s, which is for tests and development", main, p.ImportPath)
			}
			if p.ImportPath == "google.golang.org/grpc/encoding/gzip" {
				t.Errorf("%s links %s: the server would unpack whatever strangers send", main, p.ImportPath)
			}
		}
	}
}

// TestRulesRefuse shows that each rule can fail.
func TestRulesRefuse(t *testing.T) {
	for _, tt := range []struct {
		name    string
		path    string
		imports []string
		want    string
	}{
		{"a package that no layer names", "internal/util", nil, "no layer"},
		{"the core importing an adapter", "ca", []string{module + "/policy"}, "points up"},
		{"the core importing the wire", "ca", []string{module + "/proto/hallpass/v1"}, "points up or sideways"},
		{"an adapter importing another", "internal/server", []string{module + "/policy"}, "sideways"},
		{"the store importing its backend", "store", []string{module + "/store/bolt"}, "points up"},
		{"the daemon importing the tool", "internal/daemon", []string{module + "/internal/cli"}, "sideways"},
		{"the daemon importing a fixture", "internal/daemon", []string{module + "/internal/fixture/sshd"}, "fixture"},
		{"a shipped main importing the development provider", "cmd/hallpassd", []string{module + "/internal/devidp"}, "fixture"},
		{"a fixture importing a main", "internal/fixture/stack", []string{module + "/cmd/hallpassd"}, "main"},
		{"the verifier importing the records it verifies", "internal/audit/verify", []string{module + "/internal/audit"}, "may import only"},
		{"CEL outside the policy", "internal/daemon", []string{"github.com/google/cel-go/cel"}, "may import"},
		{"bbolt outside its store", "store", []string{"go.etcd.io/bbolt"}, "may import"},
		{"metrics in the core", "ca", []string{"github.com/prometheus/client_golang/prometheus"}, "may import"},
		{"traces in the server", "internal/server", []string{"go.opentelemetry.io/otel/trace"}, "may import"},
		{"gRPC codes in the core", "ca", []string{"google.golang.org/grpc/codes"}, "may import"},
		{"a template that does not escape", "internal/web", []string{"text/template"}, "may import"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(checkImports(tt.path, tt.imports), "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("%s importing %v: got %q, want a complaint with %q", tt.path, tt.imports, got, tt.want)
			}
		})
	}
}

// TestRulesAllow shows that the straight line of the design passes.
func TestRulesAllow(t *testing.T) {
	for path, imports := range map[string][]string{
		"cmd/hallpassd":         {module + "/internal/daemon"},
		developmentMain:         {module + "/internal/devidp"},
		"internal/daemon":       {module + "/policy", module + "/store/bolt", module + "/internal/server"},
		"internal/server":       {module + "/store", module + "/proto/hallpass/v1", "google.golang.org/grpc", "google.golang.org/grpc/codes"},
		"store/bolt":            {module + "/store", module + "/internal/audit", "go.etcd.io/bbolt"},
		"internal/audit":        {module + "/ca", module + "/proto/hallpass/v1"},
		"internal/audit/verify": {module + "/proto/hallpass/v1", "golang.org/x/mod/sumdb/tlog"},
		"internal/fixture/oidc": {module + "/internal/daemon", "testing", "github.com/zitadel/oidc/v3/pkg/op"},
		"policy":                {module + "/ca", "github.com/google/cel-go/cel", "html/template"},
	} {
		if got := checkImports(path, imports); len(got) > 0 {
			t.Errorf("%s importing %v: %s", path, imports, strings.Join(got, "; "))
		}
	}
}

// checkImports returns what is wrong with the package at path, a path inside the module, importing imports.
func checkImports(path string, imports []string) []string {
	if matches(fixtures, path) {
		return checkFixture(path, imports)
	}
	layer := layerOf(path)
	if layer < 0 {
		return []string{fmt.Sprintf("%s is in no layer: name it in layers or in fixtures", path)}
	}
	var complaints []string
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	for _, imported := range imports {
		target, ours := inModule(imported)
		if !ours {
			if users, ok := usersOf(imported); ok && !matches(users, path) {
				complain("%s imports %s, which only %v may import", path, imported, users)
			}
			continue
		}
		switch allowed, island := islands[path]; {
		case matches(fixtures, target):
			if path != developmentMain {
				complain("%s imports the fixture %s", path, target)
			}
		case island && !matches(allowed, target):
			complain("%s imports %s; of this module it may import only %v", path, target, allowed)
		case layerOf(target) >= layer:
			complain("%s imports %s, which points up or sideways", path, target)
		}
	}
	return complaints
}

func checkFixture(path string, imports []string) []string {
	var complaints []string
	for _, imported := range imports {
		if target, ours := inModule(imported); ours && strings.HasPrefix(target, "cmd/") {
			complaints = append(complaints, fmt.Sprintf("%s imports the main %s", path, target))
		}
	}
	return complaints
}

// layerOf returns the index of the layer of path, -1 if it has none. An exact name wins over "x/*".
func layerOf(path string) int {
	if i := slices.IndexFunc(layers, func(names []string) bool { return slices.Contains(names, path) }); i >= 0 {
		return i
	}
	return slices.IndexFunc(layers, func(names []string) bool { return matches(names, path) })
}

// matches says whether path is one of names, or lies below the x of an "x/*" among them.
func matches(names []string, path string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		folder, all := strings.CutSuffix(name, "*")
		return name == path || all && strings.HasPrefix(path, folder)
	})
}

// usersOf returns who may import the library that importPath is of, and whether there is a rule about it.
func usersOf(importPath string) ([]string, bool) {
	for library, users := range libraries {
		if importPath == library || strings.HasPrefix(importPath, strings.TrimSuffix(library, "/")+"/") {
			return users, true
		}
	}
	return nil, false
}
