package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
	"golang.org/x/crypto/ssh"
)

// credentialPrefix marks a passphrase that systemd hands over (LoadCredential=).
const credentialPrefix = "credential:"

func loadAuthority(cfg *Config, name string, a AuthorityConfig) (*ca.Authority, error) {
	if a.Agent != "" {
		return ca.OpenAgent(name, cfg.path(a.Agent), cfg.path(a.PublicKey))
	}
	var passphrase func() ([]byte, error)
	if a.PassphraseFile != "" {
		passphrase = func() ([]byte, error) { return readPrivate(cfg, "passphrase_file", a.PassphraseFile) }
	}
	return ca.LoadFile(name, cfg.path(a.Key), passphrase)
}

// readPrivate returns what is in a file, or in a systemd credential, that a key of the configuration names. One newline at its end is
// not part of it.
func readPrivate(cfg *Config, key, file string) ([]byte, error) {
	path := cfg.path(file)
	if name, ok := strings.CutPrefix(file, credentialPrefix); ok {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || name != filepath.Base(name) || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%s %q: systemd hands over no such credential (LoadCredential=%s:...)", key, file, name)
		}
		path = filepath.Join(dir, name)
	} else if err := checkPrivate(path); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return bytes.TrimSuffix(data, []byte("\n")), nil
}

// checkDistinct refuses one key for two purposes: CA keys among each other, the key of the log, and the daemon's TLS key.
func (p *parts) checkDistinct() error {
	others := map[string]ssh.PublicKey{}
	for purpose, public := range map[string]any{"the log key": p.logKey.PublicKey(), "the TLS key": p.certificate.Leaf.PublicKey} {
		if key, err := ssh.NewPublicKey(public); err == nil { // else of a type that no CA key can have
			others[purpose] = key
		}
	}
	return ca.CheckDistinct(p.authorities, others)
}

func newVerifier(cfg *Config) (*idtoken.Verifier, error) {
	c := idtoken.Config{Now: cfg.Now}
	for _, i := range cfg.Issuers {
		c.Issuers = append(c.Issuers, idtoken.Issuer{
			Name: i.Name, URL: i.URL, Audience: i.ClientID, Kind: i.kind(), Algorithms: i.Algorithms, Email: i.Email,
			GroupsClaim: i.GroupsClaim, Require: i.Require, CAFile: cfg.path(i.CAFile), AllowInsecure: i.Insecure,
		})
	}
	v, err := idtoken.New(c)
	if err != nil {
		return nil, fmt.Errorf("issuers: %w", err)
	}
	return v, nil
}
