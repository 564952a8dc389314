package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	hallpassd "github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
	"go.etcd.io/bbolt"
)

// The index follows from the records too: whoever edits it to hide a record from readers is found out.
func TestVerifyHoldsTheIndexAgainstTheRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := hallpassd.Init(t.Context(), hallpassd.InitParams{Dir: dir, Issuer: "https://id.example.com", ClientID: "hallpass", Listen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	if err := seed.Fill(t.Context(), seed.Params{Dir: dir, Records: 3 * audit.BlockSize}); err != nil {
		t.Fatal(err)
	}
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(index *bbolt.Bucket) error
		want   string // empty: it is whole
	}{
		{"as it is", func(*bbolt.Bucket) error { return nil }, ""},
		{"a page edited", func(b *bbolt.Bucket) error {
			k, v := b.Cursor().First()
			v = bytes.Clone(v)
			v[len(v)-1] ^= 1
			return b.Put(bytes.Clone(k), v)
		}, "is not stored as it should be"},
		{"a page removed", func(b *bbolt.Bucket) error {
			k, _ := b.Cursor().Last()
			return b.Delete(bytes.Clone(k))
		}, "is not stored as it should be"},
		{"a page added", func(b *bbolt.Bucket) error {
			return b.Put(append(audit.TablePrefix(audit.Blocks, 99), 0, 0, 0, 0), []byte{0, 0, 0, 1, 1, 0})
		}, "follows from no record"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "copy.db")
			text, err := os.ReadFile(filepath.Join(dir, "log.db"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			logfile.Edit(t, path, func(tx *bbolt.Tx) error { return tt.change(tx.Bucket([]byte("index"))) })
			code, out, errs := run(t, "audit", "verify", path, "--public-key", key.Verifier())
			if tt.want == "" && code != 0 || tt.want != "" && (code != 1 || !strings.Contains(errs, tt.want)) {
				t.Errorf("code %d, %q %q, want %q", code, out, errs, tt.want)
			}
		})
	}
}
