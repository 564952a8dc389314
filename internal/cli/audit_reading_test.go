package cli_test

import (
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/cli"
)

func TestPartsFrom(t *testing.T) {
	for _, tt := range []struct {
		name      string
		first     uint64
		read, log string // the epoch of each record
		want      uint64
	}{
		{"the log did not grow", 0, "0000", "0000", 4},
		{"the log grew", 0, "0000", "000000", 4},
		{"a restore of all that was read", 0, "0000", "00001", 4},
		{"a restore of more than was read", 2, "00", "000000111", 4},
		{"a restore that left a shorter log", 0, "0000", "001", 2},
		{"a restored log that is longer than what was read", 0, "0000", "00111111", 2},
		{"a restore of less than where reading began", 3, "00", "01111111", 1},
		{"two restores, the second of the log after the first", 0, "0000", "0011122", 2},
		{"two restores of one backup, the first of which was read", 0, "001111", "0022222", 2},
		{"a restore within an epoch that was read", 0, "00111111", "001112", 5},
		{"a restore that was read, and one that lost nothing", 0, "00111", "0011122", 5},
		{"a newer backup of the epoch before the one that was read", 0, "00111", "0000022", 2},
		{"the same, and more than one epoch was read since", 0, "00112233", "00000044", 2},
		{"the same, and reading began in an epoch that is lost", 3, "11", "0000022", 3},
		{"a backup of an epoch that was never read", 0, "0001133", "0022225", 2},
		{"a log that was cut without a restore", 0, "0000", "000", 3},
		{"a log that was put back to before a restore", 0, "00111", "0000000", 2},
	} {
		if got := cli.PartsFrom(tt.first, tt.read, tt.log); got != tt.want {
			t.Errorf("%s: it parts from record %d on, want %d", tt.name, got, tt.want)
		}
	}
}
