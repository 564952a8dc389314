package policy_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/policy"
)

// TestDocs compiles every example of docs/policy.md. One that is marked as refused is followed by what is said about it.
func TestDocs(t *testing.T) {
	const name = "../docs/policy.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```([a-z ]*)\n(.*?)^```\n").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 10 {
		t.Fatalf("%s has %d blocks: did their form change?", name, len(blocks))
	}
	first := blocks[0][2]
	for i, b := range blocks {
		line := 1 + strings.Count(string(text[:strings.Index(string(text), b[0])]), "\n")
		switch kind := b[1]; kind {
		case "yaml":
			if _, err := policy.Compile(bundle("policy.yaml", completed(b[2], first))); err != nil {
				t.Errorf("%s:%d: %v", name, line, err)
			}
		case "yaml refused":
			_, err := policy.Compile(bundle("policy.yaml", completed(b[2], first)))
			switch {
			case err == nil:
				t.Errorf("%s:%d: the policy compiles", name, line)
			case i+1 == len(blocks) || blocks[i+1][1] != "text":
				t.Errorf("%s:%d: no error is shown", name, line)
			default:
				if diff := cmp.Diff(strings.TrimSpace(blocks[i+1][2]), err.Error()); diff != "" {
					t.Errorf("%s:%d: %s", name, line, diff)
				}
			}
		case "text":
			if before := blocks[i-1][1]; before != "yaml refused" && before != "sh" && before != "yaml warned" {
				t.Errorf("%s:%d: an error of nothing", name, line)
			}
		case "yaml tests":
			docTests(t, fmt.Sprintf("%s:%d", name, line), first, b[2])
		case "yaml warned":
			docWarnings(t, fmt.Sprintf("%s:%d", name, line), completed(b[2], regexp.MustCompile("(?m)^claims:\n(?:[ ].*\n)*").ReplaceAllString(first, "")), blocks[i+1][2])
		case "yaml identity", "yaml file", "sh": // run with the tool, by its own tests
		default:
			t.Errorf("%s:%d: a block of kind %q is not tested", name, line, kind)
		}
	}
}

// docTests runs an example of tests against the policy of the page.
func docTests(t *testing.T, place, rules, tests string) {
	t.Helper()
	b := bundle("policy.yaml", rules, "staging_test.yaml", tests)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.RunTests(context.Background(), suite(t, p, b)).Results {
		if len(r.Failures) > 0 {
			t.Errorf("%s: %s: %v", place, r.Case.Name, r.Failures)
		}
	}
}

// docWarnings holds the warnings of an example against those that are shown.
func docWarnings(t *testing.T, place, rules, shown string) {
	t.Helper()
	var got strings.Builder
	for _, w := range warnings(t, "policy.yaml", rules) {
		fmt.Fprintln(&got, w)
	}
	if diff := cmp.Diff(shown, got.String()); diff != "" {
		t.Errorf("%s: %s", place, diff)
	}
}

// completed adds to an example the sections that it leaves out, below it so that its lines keep their numbers.
func completed(example, whole string) string {
	for _, section := range []string{"version", "claims", "environments"} {
		if !regexp.MustCompile("(?m)^" + section + ":").MatchString(example) {
			example += regexp.MustCompile("(?m)^" + section + ":.*\n(?:[ ].*\n)*").FindString(whole)
		}
	}
	return example
}

// TestDocsNameEveryVariable holds the table against the language.
func TestDocsNameEveryVariable(t *testing.T) {
	text, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range policy.VariableNames() {
		listed := "`" + name + "`"
		if root, part, dotted := strings.Cut(name, "."); dotted { // rows name several: `request.host`, `.login`
			listed = "`" + root + `\.(\w+` + "`.*`\\.)?" + part + "`"
		}
		if !regexp.MustCompile(listed).Match(text) {
			t.Errorf("docs/policy.md does not name %s", name)
		}
	}
}
