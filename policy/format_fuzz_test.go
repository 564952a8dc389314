package policy_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/hallpass-ssh/hallpass/policy"
)

// FuzzFormat: what was formatted once stays as it is. That it means the same, Format itself makes sure of.
func FuzzFormat(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/format.txtar")
	if err != nil {
		f.Fatal(err)
	}
	example, err := os.ReadFile("example/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	for _, file := range archive.Files {
		f.Add(file.Data)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		once, err := policy.Format("policy.yaml", text)
		if err != nil {
			return
		}
		twice, err := policy.Format("policy.yaml", once)
		if err != nil {
			t.Fatalf("formatted once, it cannot be formatted again: %v\n%q\n%q", err, text, once)
		}
		if diff := cmp.Diff(string(once), string(twice)); diff != "" {
			t.Fatalf("%q\n%s", text, diff)
		}
	})
}
