package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"go.yaml.in/yaml/v4"
)

// settings are what a user may set once: in config.yaml, by environment (HALLPASS_SERVER and so on), or by flag.
type settings struct {
	// Server is the address of the CA.
	Server string `yaml:"server,omitempty"`
	// Issuer is the name of the issuer to sign in at; empty for the CA's first.
	Issuer string `yaml:"issuer,omitempty"`
	// Key is the public key file of the user's own key; empty for a fresh key with each sign-in.
	Key string `yaml:"key,omitempty"`
	// TokenFile is the file with the ID token of a job or service; empty for people.
	TokenFile string `yaml:"token_file,omitempty"`
	// LogKey is the public key of the CA's log; empty to take the one that the CA shows at the first sign-in.
	LogKey string `yaml:"log_key,omitempty"`
}

// settingsFile is where settings are: flag, then HALLPASS_CONFIG, then the user's configuration folder.
func (a *app) settingsFile() (string, error) {
	if a.configFile != "" {
		return a.configFile, nil
	}
	if file := os.Getenv("HALLPASS_CONFIG"); file != "" {
		return file, nil
	}
	dir, err := configDir()
	return filepath.Join(dir, "config.yaml"), err
}

// settings reads the file, if there is one, and lays environment and flags over it.
func (a *app) settings() (settings, error) {
	var s settings
	file, err := a.settingsFile()
	if err != nil {
		return s, err
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("read settings: %w", err)
	}
	if s, err = parseSettings(text); err != nil {
		return s, &failure{exit: exitUsage, err: fmt.Errorf("settings %s: %w", file, err)}
	}
	for _, over := range []struct {
		field  *string
		values []string
	}{
		{&s.Server, []string{os.Getenv("HALLPASS_SERVER"), a.server}},
		{&s.Issuer, []string{os.Getenv("HALLPASS_ISSUER")}},
		{&s.Key, []string{os.Getenv("HALLPASS_KEY")}},
		{&s.TokenFile, []string{os.Getenv("HALLPASS_TOKEN_FILE")}},
		{&s.LogKey, []string{os.Getenv("HALLPASS_LOG_KEY")}},
	} {
		for _, value := range over.values {
			if value != "" {
				*over.field = value
			}
		}
	}
	if s.LogKey = strings.TrimSpace(s.LogKey); s.LogKey != "" {
		if _, err := audit.LogID(s.LogKey); err != nil {
			return s, &failure{exit: exitUsage, err: fmt.Errorf("log_key of the settings, or HALLPASS_LOG_KEY: %w", err)}
		}
	}
	return s, nil
}

func parseSettings(text []byte) (settings, error) {
	var s settings
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return s, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return s, errors.New("more than one document")
	}
	return s, nil
}

// address is that of the CA.
func (s settings) address() (client.Address, error) {
	if s.Server == "" {
		return client.Address{}, &failure{
			exit: exitUsage,
			err:  errors.New("which CA? no server is set"),
			hint: "hallpass login --server ca.example.com:7443 (your admins know the address)",
		}
	}
	address, err := client.ParseAddress(s.Server)
	if err != nil {
		return address, &failure{exit: exitUsage, err: err}
	}
	return address, nil
}

// saveServer writes the server into a settings file that names none.
func (a *app) saveServer(server string) error {
	file, err := a.settingsFile()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read settings: %w", err)
	}
	s, err := parseSettings(text)
	if err != nil || s.Server != "" {
		return err
	}
	line, err := yaml.Marshal(settings{Server: server})
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	if err := writeFile(file, append(text, line...)); err != nil {
		return fmt.Errorf("save the server in the settings: %w", err)
	}
	a.note("saved the server in %s", file)
	return nil
}
