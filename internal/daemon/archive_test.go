package daemon_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
)

// TestArchiveWaitsForSinks does not let go what a sink was not sent yet.
func TestArchiveWaitsForSinks(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	if err := seed.Fill(t.Context(), seed.Params{Dir: dir, Records: 800, Days: 60}); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, daemon.ConfigName)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\nsinks:\n- name: siem\n  file: events.jsonl\n"...)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	archive := func() (int, string) {
		var out bytes.Buffer
		code := daemon.Main([]string{"archive", "--dir", dir, "--before", "20d", filepath.Join(dir, "old.db")}, &out, &out)
		return code, out.String()
	}
	cursor := func(next int, epochs string) {
		if err := os.MkdirAll(filepath.Join(dir, "sinks"), 0o700); err != nil {
			t.Fatal(err)
		}
		at := fmt.Sprintf(`{"log":%q,"epochs":[%s],"next":%d,"trying":%d}`, key.ID(), epochs, next, next)
		if err := os.WriteFile(filepath.Join(dir, "sinks", "siem.cursor"), []byte(at), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, out := archive(); code != 1 || !strings.Contains(out, "the sink siem has no more than the records before 0") {
		t.Errorf("a sink that never ran: exit code %d, %s", code, out)
	}
	cursor(255, "")
	if code, out := archive(); code != 1 || !strings.Contains(out, "has no more than the records before 255, and those before") {
		t.Errorf("a sink that lags: exit code %d, %s", code, out)
	}
	cursor(799, `{"epoch":1,"begin":254}`) // since then the log was restored, and has other records
	if code, out := archive(); code != 1 || !strings.Contains(out, "has no more than the records before 254, and those before") {
		t.Errorf("a sink that was sent what the log lost: exit code %d, %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "old.db")); !os.IsNotExist(err) {
		t.Errorf("an archive was written: %v", err)
	}
	cursor(799, "")
	code, out := archive()
	_, moved, _ := strings.Cut(out, "old.db: records 0 to ")
	// To which one depends on the weekday: those who fill the log sleep at night and at weekends. Whole blocks leave, that the sink has.
	var last int
	if _, err := fmt.Sscanf(moved, "%d of the log", &last); code != 0 || err != nil || (last+1)%audit.BlockSize != 0 || last < 255 || last >= 799 {
		t.Errorf("a sink that has all: exit code %d, %s", code, out)
	}
}
