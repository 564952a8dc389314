package login

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// OpenBrowser opens an http or https address: by $BROWSER, which may have arguments and %s in the place of the address, or else by
// the means of the operating system. It does not wait for the browser, and lets it write to stderr at most.
func OpenBrowser(address string) error {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		return errors.New("open browser: the address is not one of a web page")
	}
	command := browserCommand(runtime.GOOS, os.Getenv("BROWSER"), address)
	cmd := exec.Command(command[0], command[1:]...)
	if os.Getenv("BROWSER") != "" {
		cmd.Stderr = os.Stderr // the user's own choice, so its complaints are theirs to see
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("open browser: %w", err)
	}
	return cmd.Process.Release()
}

// browserCommand returns the words of the command. There is no shell: nothing in the address can become more than one word.
func browserCommand(goos, browser, address string) []string {
	if words := strings.Fields(browser); len(words) > 0 {
		placed := false
		for n, word := range words {
			if n > 0 && strings.Contains(word, "%s") {
				words[n], placed = strings.ReplaceAll(word, "%s", address), true
			}
		}
		if !placed {
			words = append(words, address)
		}
		return words
	}
	switch goos {
	case "darwin":
		return []string{"open", address}
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler", address}
	}
	return []string{"xdg-open", address}
}

// HasBrowser reports whether OpenBrowser is likely to show the user a page: not on a machine reached by SSH, nor without a display,
// unless $BROWSER says how.
func HasBrowser() bool {
	return hasBrowser(runtime.GOOS, os.Getenv)
}

func hasBrowser(goos string, getenv func(string) string) bool {
	switch {
	case strings.TrimSpace(getenv("BROWSER")) != "":
		return true
	case getenv("SSH_CONNECTION") != "":
		return false
	case goos == "darwin" || goos == "windows":
		return true
	}
	return getenv("DISPLAY") != "" || getenv("WAYLAND_DISPLAY") != ""
}
