package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"golang.org/x/mod/sumdb/tlog"
)

func TestRestoreStatement(t *testing.T) {
	key, other := newLogKey(t), newLogKey(t)
	id := key.ID()
	known := audit.Checkpoint{LogID: id, Epoch: 1, Size: 9, Root: tlog.Hash{9}}
	for name, want := range map[string]audit.Restore{
		"of a log of which more was known":    {LogID: id, Epoch: 2, Base: audit.Checkpoint{LogID: id, Size: 5, Root: tlog.Hash{5}}, Known: &known, Time: time.Unix(1_800_000_000, 0).UTC()},
		"of a log of which nothing was known": {LogID: id, Epoch: 1, Base: audit.Checkpoint{LogID: id, Size: 5}, Time: time.Unix(1_800_000_000, 0).UTC()},
	} {
		signed, err := key.SignRestore(want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := audit.OpenRestore(signed, key.Verifier())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got, err := audit.ReadRestore(signed); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: read as %+v, error %v", name, got, err)
		}
		if _, err := audit.OpenRestore(signed, other.Verifier()); err == nil {
			t.Errorf("%s: the key of another log opens it", name)
		}
		if _, err := audit.OpenCheckpoint(signed, key.Verifier()); err == nil {
			t.Errorf("%s: it can be taken for a checkpoint", name)
		}
		for i := range signed {
			bad := []byte(string(signed))
			bad[i] ^= 1
			if got, err := audit.OpenRestore(bad, key.Verifier()); err == nil && cmp.Diff(want, got) != "" {
				t.Errorf("%s: byte %d can be changed", name, i)
			}
		}
	}
	for name, bad := range map[string]audit.Restore{
		"of another log":                     {LogID: other.ID(), Epoch: 1, Base: audit.Checkpoint{LogID: other.ID(), Size: 1}},
		"from another log":                   {LogID: id, Epoch: 1, Base: audit.Checkpoint{LogID: other.ID(), Size: 1}},
		"from nothing":                       {LogID: id, Epoch: 1, Base: audit.Checkpoint{LogID: id}},
		"that begins no epoch":               {LogID: id, Base: audit.Checkpoint{LogID: id, Size: 1}},
		"that begins an epoch that was":      {LogID: id, Epoch: 1, Base: audit.Checkpoint{LogID: id, Size: 1}, Known: &known},
		"beyond what serials have room for":  {LogID: id, Epoch: 1 << 24, Base: audit.Checkpoint{LogID: id, Size: 1}},
		"with a known state of another log":  {LogID: id, Epoch: 2, Base: audit.Checkpoint{LogID: id, Size: 1}, Known: &audit.Checkpoint{LogID: other.ID(), Size: 2}},
		"from an epoch that is yet to begin": {LogID: id, Epoch: 2, Base: audit.Checkpoint{LogID: id, Epoch: 3, Size: 1}},
	} {
		if _, err := key.SignRestore(bad); err == nil {
			t.Errorf("a restore %s was signed", name)
		}
	}
}

func TestBetween(t *testing.T) {
	key := newLogKey(t)
	id := key.ID()
	at := func(epoch uint32, size uint64) audit.Checkpoint {
		return audit.Checkpoint{LogID: id, Epoch: epoch, Size: size}
	}
	say := func(epoch uint32, base audit.Checkpoint) string {
		signed, err := key.SignRestore(audit.Restore{LogID: id, Epoch: epoch, Base: base})
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	first, second := say(1, at(0, 10)), say(5, at(1, 20))
	for _, tt := range []struct {
		name       string
		known, now audit.Checkpoint
		statements []string
		restores   int
		lost       uint64
		common     uint64
		want       string // of the error
	}{
		{"nothing happened", at(0, 7), at(0, 9), nil, 0, 0, 7, ""},
		{"the log did not grow", at(0, 7), at(0, 7), nil, 0, 0, 7, ""},
		{"the log was cut", at(0, 7), at(0, 6), nil, 0, 0, 0, "rolled back"},
		{"the epoch fell", at(1, 7), at(0, 9), []string{first}, 0, 0, 0, "rolled back"},
		{"a restore of all that was known", at(0, 7), at(1, 12), []string{first}, 1, 0, 7, ""},
		{"a restore that lost records", at(0, 14), at(1, 12), []string{first}, 1, 4, 10, ""},
		{"two restores", at(0, 14), at(5, 30), []string{first, second}, 2, 4, 10, ""},
		{"a restore from before the known epoch", at(1, 15), at(2, 30), []string{say(2, at(0, 25))}, 1, 1, 25, ""},
		{"a restore from before the known epoch, which lost more", at(1, 15), at(2, 30), []string{say(2, at(0, 9))}, 1, 6, 9, ""},
		{"the second of two restores", at(1, 25), at(5, 30), []string{second, first}, 1, 5, 20, ""},
		{"a restore of which the log key says nothing", at(0, 7), at(1, 12), nil, 0, 0, 0, "says nothing"},
		{"a restore before the last, of which it says nothing", at(0, 7), at(5, 30), []string{second}, 0, 0, 0, "says nothing"},
		{"fewer records than the backup had", at(0, 14), at(1, 8), []string{first}, 0, 0, 0, "rolled back"},
		{"a statement that is none", at(0, 7), at(1, 12), []string{"hallpass restore v1\n"}, 0, 0, 0, "open statement"},
		{"another log", at(0, 7), audit.Checkpoint{LogID: newLogKey(t).ID(), Size: 9}, nil, 0, 0, 0, "another log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gap, err := audit.Between(tt.known, tt.now, tt.statements, key.Verifier())
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if err != nil || len(gap.Restores) != tt.restores || gap.Lost != tt.lost || gap.From.Size != tt.common {
				t.Errorf("%+v, error %v; want %d restores, %d lost, from %d", gap, err, tt.restores, tt.lost, tt.common)
			}
		})
	}
}

func newLogKey(t *testing.T) *audit.LogKey {
	t.Helper()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
