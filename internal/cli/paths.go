package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
)

// configDir is where settings are: $XDG_CONFIG_HOME/hallpass, or the system's place for it.
func configDir() (string, error) {
	return userDir("XDG_CONFIG_HOME", ".config", os.UserConfigDir)
}

// stateDir is where the sign-in, keys and certificates are: $XDG_STATE_HOME/hallpass, or the system's place for it.
// One in which others could put files is refused: ssh would obey what they write, and we would write where they point.
func stateDir() (string, error) {
	dir, err := userDir("XDG_STATE_HOME", filepath.Join(".local", "state"), os.UserCacheDir)
	if err != nil {
		return "", err
	}
	if err := agentkey.CheckFolder(dir); err != nil {
		return "", fmt.Errorf("the folder of the sign-in cannot be trusted: %w", err)
	}
	return dir, nil
}

// userDir follows the XDG Base Directory specification on all systems but Windows.
func userDir(variable, underHome string, windows func() (string, error)) (string, error) {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "hallpass"), nil
	}
	if runtime.GOOS == "windows" {
		dir, err := windows()
		return filepath.Join(dir, "hallpass"), err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home folder: %w", err)
	}
	return filepath.Join(home, underHome, "hallpass"), nil
}

// runtimeDir is a folder on a tmpfs that ends with the user's last login; empty if the system has none, or names one that it did
// not make.
func runtimeDir() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		return ""
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return filepath.Join(dir, "hallpass")
}

// writeFile writes a whole file or leaves what was there. Only the user can read it, unless it was there and others could.
func writeFile(file string, text []byte) error {
	target, err := filepath.EvalSymlinks(file)
	if err == nil {
		file = target // people keep their settings in repositories, and link to them
	} else if to, linkErr := os.Readlink(file); linkErr == nil {
		return fmt.Errorf("%s is a link to %s, which cannot be followed: %w", file, to, err)
	}
	mode := os.FileMode(0o600)
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".hallpass-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
