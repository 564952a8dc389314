package daemon_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/daemon"
)

// TestKeep runs the commands that keep a log while no daemon runs.
func TestKeep(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	elsewhere := t.TempDir()
	backup := filepath.Join(elsewhere, "backup.db")
	note := filepath.Join(elsewhere, "note")
	if err := os.WriteFile(note, []byte("a note"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"backup", "--dir", dir}, 2, "give one FILE"},
		{[]string{"backup", backup, "--dir", dir}, 0, "3 records of the log"},
		{[]string{"backup", backup, "--dir", dir}, 1, "exists"},
		{[]string{"backup", filepath.Join(elsewhere, "x.db"), "--dir", elsewhere}, 1, "hallpassd init"},
		{[]string{"compact", "x", "--dir", dir}, 2, "unexpected argument"},
		{[]string{"compact", "--dir", dir}, 0, "bytes before"},
		{[]string{"restore", "--dir", dir}, 2, "--from is required"},
		{[]string{"restore", "--dir", dir, "--from", filepath.Join(elsewhere, "none.db")}, 1, "no such file"},
		{[]string{"restore", "--dir", dir, "--from", backup, "--checkpoint", filepath.Join(elsewhere, "none")}, 1, "read checkpoint"},
		{[]string{"restore", "--dir", dir, "--from", backup, "--checkpoint", note}, 1, "checkpoint"},
		{[]string{"restore", "--dir", dir, "--from", filepath.Join(dir, "log.db")}, 1, "the log itself"},
		{[]string{"restore", "--dir", initialised(t), "--from", backup, "--accept-loss"}, 1, "the log key is that of the log"},
		{[]string{"restore", "--dir", dir, "--from", backup, "--checkpoint", filepath.Join(dir, "log.db.head")}, 0, "goes on in epoch 1"},
		{[]string{"restore", "--dir", dir, "--from", backup}, 1, "--accept-loss"},
		{[]string{"restore", "--dir", dir, "--from", backup, "--accept-loss"}, 0, "goes on in epoch 2"},
		{[]string{"compact", "--dir", dir}, 0, "bytes before"},
		{[]string{"archive", "--dir", dir, "--before", "30d"}, 2, "give one FILE"},
		{[]string{"archive", "--dir", dir, filepath.Join(elsewhere, "old.db")}, 2, "--before is required"},
		{[]string{"archive", "--dir", dir, "--before", "soon", filepath.Join(elsewhere, "old.db")}, 2, "want a time"},
		{[]string{"archive", "--dir", dir, "--before", "99999999d", filepath.Join(elsewhere, "old.db")}, 2, "want a time"},
		{[]string{"archive", "--dir", dir, "--before", "0d", filepath.Join(elsewhere, "old.db")}, 1, "is less than a day before"},
		{[]string{"archive", "--dir", dir, "--before", "30d", filepath.Join(elsewhere, "old.db")}, 1, "nothing to archive"},
		{[]string{"archive", "--dir", elsewhere, "--before", "30d", filepath.Join(elsewhere, "old.db")}, 1, "hallpassd init"},
		{[]string{"restore", "--dir", dir, "--from", backup, "--accept-loss", "--reason", "\x1b[2Jfine"}, 2, "one line"},
		{[]string{"archive", "--dir", dir, "--before", "30d", "--reason", "\u202egnp.exe", filepath.Join(elsewhere, "old.db")}, 2, "one line"},
		{[]string{"check", "--dir", dir}, 0, "fine"},
	} {
		var stdout, stderr bytes.Buffer
		code := daemon.Main(tt.args, &stdout, &stderr)
		if got := stdout.String() + stderr.String(); code != tt.code || !strings.Contains(got, tt.want) {
			t.Errorf("hallpassd %s: exit code %d, %s; want %d and %q", strings.Join(tt.args, " "), code, got, tt.code, tt.want)
		}
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has mode %v, error %v", info.Mode(), err)
	}
}
