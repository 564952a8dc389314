package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	hallpassd "github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// TestVerifyWithArchives verifies a log of which old records left twice, and its archives, alone and together.
func TestVerifyWithArchives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if code := hallpassd.Main([]string{"init", "--dir", dir, "--issuer", "https://login.example.com", "--client-id", "x", "--name", "localhost"}, io.Discard, os.Stderr); code != 0 {
		t.Fatalf("hallpassd init: exit code %d", code)
	}
	if err := seed.Fill(t.Context(), seed.Params{Dir: dir, Records: 1200, Days: 100}); err != nil {
		t.Fatal(err)
	}
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log.db")
	archive := func(days int, name string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if _, err := bolt.MoveToArchive(log, bolt.Config{LogKey: key}, bolt.Archiving{Before: time.Now().AddDate(0, 0, -days), File: file, By: "tester"}); err != nil {
			t.Fatal(err)
		}
		return file
	}
	verify := func(args ...string) (int, string, string) {
		t.Helper()
		return run(t, append([]string{"audit", "verify", "--public-key", key.Verifier()}, args...)...)
	}
	_, before, _ := verify(log, "-o", "json")
	one := archive(60, "one.db")
	two := archive(10, "two.db")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"the first archive", []string{one}, 0, "is whole: "},
		{"the second archive alone", []string{two}, 1, "two.db is an archive of the records from "},
		{"the second archive with the first", []string{two, "--archive", one}, 0, "is whole: "},
		{"the log alone", []string{log}, 0, "are vouched for by their hashes alone: record 1201 moved them to an archive on "},
		{"the log with the first archive", []string{log, "--archive", one}, 0, "are vouched for by their hashes alone"},
		{"the log with all, in any order", []string{log, "--archive", two, "--archive", one}, 0, "of the records are in them"},
		{"the log with the second archive only", []string{log, "--archive", two}, 1, "archive " + two},
		{"no copy", []string{"--archive", one}, 2, "--archive is for a COPY"},
		{"an archive that is none", []string{log, "--archive", filepath.Join(dir, "hallpassd.yaml")}, 1, "hallpassd.yaml"},
		{"an archive of another log", []string{log, "--archive", newRealLog(t).path}, 1, "is not signed by the log"},
	} {
		code, out, errs := verify(tt.args...)
		if code != tt.code || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s%s", tt.name, code, tt.code, tt.want, out, errs)
		}
	}
	// With its archives the log is what it was, but for the two records that tell of them.
	_, after, _ := verify(log, "--archive", one, "--archive", two, "-o", "json")
	if diff := cmp.Diff(counted(t, before), counted(t, after)); diff != "" {
		t.Errorf("before (-) and after (+):\n%s", diff)
	}
	damageArchive(t, one, func(file string) (int, string) {
		code, _, errs := verify(log, "--archive", file, "--archive", two)
		return code, errs
	})
}

// counted is what a verification counted of decisions.
func counted(t *testing.T, summary string) map[string]any {
	t.Helper()
	all := map[string]any{}
	if err := json.Unmarshal([]byte(summary), &all); err != nil {
		t.Fatalf("%s: %v", summary, err)
	}
	out := map[string]any{}
	for _, name := range []string{"log_id", "certificates", "refusals", "evaluated", "erased", "archived"} {
		out[name] = all[name]
	}
	return out
}

// damageArchive changes one byte of an archive at a time: it is found, and the archive is named, or it changed nothing that it holds but
// what it says of itself.
func damageArchive(t *testing.T, path string, verify func(file string) (int, string)) {
	t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := logfile.Contents(t, path)
	random := rand.New(rand.NewPCG(3, 5))
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	found := 0
	for range 60 {
		at, by := random.IntN(len(good)), byte(1+random.IntN(255))
		for good[at] == 0 { // much of the file is empty
			at = random.IntN(len(good))
		}
		bad := bytes.Clone(good)
		bad[at] ^= by
		if err := os.WriteFile(damaged, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if code, errs := verify(damaged); code != 0 {
			if found++; !strings.Contains(errs, damaged) {
				t.Errorf("byte %d ^ %#x: the archive is not named: %s", at, by, errs)
			}
		} else if diff := cmp.Diff(want, logfile.Contents(t, damaged)); diff != "" {
			t.Errorf("byte %d ^ %#x was accepted:\n%s", at, by, diff)
		}
	}
	if found < 30 {
		t.Errorf("only %d of 60 changes were found", found)
	}
}
