//go:build unix

package agentkey_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
)

func chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// A private key is written only where nobody else could exchange the folder that it is in.
func TestFoldersThatAPrivateKeyIsNotKeptIn(t *testing.T) {
	elsewhere := t.TempDir()
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, f agentkey.Folder)
		want  string // empty: it is kept there
	}{
		{"its own", func(*testing.T, agentkey.Folder) {}, ""},
		{"one in a place like /tmp", func(t *testing.T, f agentkey.Folder) { chmod(t, filepath.Dir(f.Runtime), 0o777|os.ModeSticky) }, ""},
		{"one that others may read", func(t *testing.T, f agentkey.Folder) { chmod(t, f.Runtime, 0o755) }, ""},
		{"one that the group may write", func(t *testing.T, f agentkey.Folder) { chmod(t, f.Runtime, 0o770) }, "others may write to"},
		{"one that all may write", func(t *testing.T, f agentkey.Folder) { chmod(t, f.Runtime, 0o777) }, "others may write to"},
		{"one that all may write and only owners remove from", func(t *testing.T, f agentkey.Folder) { chmod(t, f.Runtime, 0o777|os.ModeSticky) }, "others may write to"},
		{"one that anybody may rename", func(t *testing.T, f agentkey.Folder) { chmod(t, filepath.Dir(f.Runtime), 0o777) }, "others may write to"},
		{"a link", func(t *testing.T, f agentkey.Folder) {
			if err := os.Remove(f.Runtime); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(elsewhere, f.Runtime); err != nil {
				t.Fatal(err)
			}
		}, "is a symbolic link"},
		{"a file", func(t *testing.T, f agentkey.Folder) {
			if err := os.Remove(f.Runtime); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f.Runtime, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		f := newFolder(t, "")
		if err := os.Mkdir(f.Runtime, 0o700); err != nil {
			t.Fatal(err)
		}
		tt.spoil(t, f)
		key := newKey(t)
		usable := f.Usable(t.Context(), key)
		_, err := f.Install(t.Context(), key, time.Hour)
		if tt.want == "" {
			if usable != nil || err != nil {
				t.Errorf("%s: refused: %v, %v", tt.name, usable, err)
			}
			continue
		}
		for when, err := range map[string]error{"before the sign-in": usable, "when it is written": err} {
			if err == nil || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: got %v, want an error about XDG_RUNTIME_DIR: %s", tt.name, when, err, tt.want)
			}
		}
		if found := privateFiles(t, f.Path, f.Runtime, elsewhere); len(found) > 0 {
			t.Errorf("%s: private keys were written: %q", tt.name, found)
		}
	}
}

// Nor is anything kept in a folder of certificates that others may write to: ssh obeys what is in it.
func TestAFolderThatOthersMayWriteTo(t *testing.T) {
	f := newFolder(t, "")
	if err := os.Mkdir(f.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	chmod(t, f.Path, 0o777)
	if _, err := f.Install(t.Context(), newKey(t), time.Hour); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
	if err := agentkey.CheckFolder(filepath.Join(f.Path, "nowhere")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
	if os.Geteuid() != 0 {
		return // only root has a folder of somebody else to show
	}
	chmod(t, f.Path, 0o700)
	if err := os.Chown(f.Path, 61184, 61184); err != nil {
		t.Fatal(err)
	}
	if err := agentkey.CheckFolder(f.Path); err == nil || !strings.Contains(err.Error(), "belongs to user 61184, not to you (0)") {
		t.Errorf("somebody else's folder: got %v", err)
	}
}
