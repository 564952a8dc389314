package cli_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/internal/fixture/long"
)

// TestRandomDamageIsFound changes one byte of a copy at a time: it is found, or it changed nothing that the log holds.
func TestRandomDamageIsFound(t *testing.T) {
	l := newRealLog(t)
	good, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	want := logfile.Contents(t, l.path)
	random := rand.New(rand.NewPCG(7, 11))
	found, harmless := 0, 0
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	n := long.Rounds(500, 2000)
	for i := range n {
		at, by := random.IntN(len(good)), byte(1+random.IntN(255))
		for i%2 == 0 && good[at] == 0 { // much of the file is empty
			at = random.IntN(len(good))
		}
		bad := bytes.Clone(good)
		bad[at] ^= by
		if err := os.WriteFile(damaged, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errs := run(t, "audit", "verify", damaged, "--public-key", l.key.Verifier())
		if code != 0 {
			if found++; !strings.Contains(errs, "hallpass: ") {
				t.Errorf("byte %d ^ %#x: no word about it", at, by)
			}
			continue
		}
		harmless++
		if diff := cmp.Diff(want, logfile.Contents(t, damaged)); diff != "" {
			t.Errorf("byte %d ^ %#x was accepted:\n%s", at, by, diff)
		}
	}
	t.Logf("%d found, %d in bytes that nothing leads to", found, harmless)
	if found < n/5 || harmless < n/50 {
		t.Errorf("%d found, %d harmless: is this still a log?", found, harmless)
	}
}
