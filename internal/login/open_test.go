package login_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/login"
)

// TestOpenBrowser runs $BROWSER, which writes its arguments, one a line, where the test finds them.
func TestOpenBrowser(t *testing.T) {
	dir := t.TempDir()
	script, result := filepath.Join(dir, "browser"), filepath.Join(dir, "result")
	content := "#!/bin/sh\necho noise\nprintf '%s\\n' \"$@\" > '" + result + ".new'\nmv '" + result + ".new' '" + result + "'\n"
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	const address = "https://id.example.com/auth?a=1&b=$(touch x);'&c=%73"
	for _, tt := range []struct {
		name, browser string
		want          []string
	}{
		{"the address comes last", script, []string{address}},
		{"arguments are kept apart", script + "  alice --fast", []string{"alice", "--fast", address}},
		{"%s is where the address goes", script + " --url=%s alice", []string{"--url=" + address, "alice"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("BROWSER", tt.browser)
			if err := login.OpenBrowser(address); err != nil {
				t.Fatal(err)
			}
			got := waitForFile(t, result)
			if want := strings.Join(tt.want, "\n") + "\n"; got != want {
				t.Errorf("got the arguments %q, want %q", got, want)
			}
			if err := os.Remove(result); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("only pages are opened", func(t *testing.T) {
		t.Setenv("BROWSER", script)
		for _, address := range []string{"file:///etc/passwd", "javascript:alert(1)", "--help", ""} {
			wantError(t, login.OpenBrowser(address), "not one of a web page")
		}
	})
	t.Run("a browser that is not there is an error", func(t *testing.T) {
		t.Setenv("BROWSER", filepath.Join(dir, "nothing"))
		wantError(t, login.OpenBrowser(address), "open browser")
	})
}

func waitForFile(t testing.TB, path string) string {
	t.Helper()
	for t.Context().Err() == nil {
		if raw, err := os.ReadFile(path); err == nil {
			return string(raw)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the test ended before the file was there")
	return ""
}

func TestHasBrowser(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want bool
	}{
		{"no display is no browser", nil, false},
		{"an X display is one", map[string]string{"DISPLAY": ":0"}, true},
		{"a Wayland display is one", map[string]string{"WAYLAND_DISPLAY": "wayland-0"}, true},
		{"a forwarded display over SSH is none", map[string]string{"DISPLAY": "localhost:10", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, false},
		{"BROWSER is one, even over SSH", map[string]string{"BROWSER": "w3m", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, true},
		{"a blank BROWSER is none", map[string]string{"BROWSER": " "}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{"BROWSER", "SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY"} {
				t.Setenv(name, tt.env[name])
			}
			if got := login.HasBrowser(); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}
