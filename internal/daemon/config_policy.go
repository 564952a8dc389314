package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
	"golang.org/x/crypto/ssh"
)

// PolicyConfig says where the policy comes from, and what it is held to: a folder in Source, or a repository.
type PolicyConfig struct {
	// Source is a folder, in a git work tree or not.
	Source string `yaml:"source"`
	// AllowDirty takes uncommitted files of a work tree, and marks the policy as dirty.
	AllowDirty bool `yaml:"allow_dirty"`
	// Repository is followed instead of reading a folder.
	Repository *RepositoryConfig `yaml:"repository"`
	// AllowedSigners is a file of ssh-keygen's format with the keys that may sign commits; empty if commits need no signature.
	AllowedSigners string `yaml:"allowed_signers"`
	// RunTests refuses a policy whose own tests fail.
	RunTests bool `yaml:"run_tests"`
}

// RepositoryConfig is a branch of a git repository.
type RepositoryConfig struct {
	// URL is https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or a path; required.
	URL string `yaml:"url"`
	// Branch is followed; default main.
	Branch string `yaml:"branch"`
	// Folder is where the policy is in the repository; default all of it.
	Folder string `yaml:"folder"`
	// Poll is how often to look; default 30s, at least 1s.
	Poll time.Duration `yaml:"poll"`
	// Timeout bounds one look; default 1m, at most 10m.
	Timeout time.Duration `yaml:"timeout"`
	// MaxAge is how long ago the last look may be before that is an alarm; default 1h.
	MaxAge time.Duration `yaml:"max_age"`
	// MaxSizeMiB bounds what one look may fetch; default 256.
	MaxSizeMiB int64 `yaml:"max_size_mib"`
	// Mirror is the folder of the daemon's own copy; default policy.git.
	Mirror string `yaml:"mirror"`

	// Username and PasswordFile are for https. "credential:NAME" reads a systemd credential.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// CAFile holds the roots of the server's TLS certificate; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Insecure allows plain http, to a loopback address only.
	Insecure bool `yaml:"insecure"`
	// SSHKey is a private key in OpenSSH format, KnownHosts a file of known host keys; both required for ssh.
	SSHKey     string `yaml:"ssh_key"`
	KnownHosts string `yaml:"known_hosts"`
}

// defaults fills in what is not said.
func (r *RepositoryConfig) defaults() {
	for field, value := range map[*string]string{&r.Branch: "main", &r.Folder: ".", &r.Mirror: "policy.git"} {
		if *field == "" {
			*field = value
		}
	}
	for field, value := range map[*time.Duration]time.Duration{&r.Poll: 30 * time.Second, &r.Timeout: policy.FetchTimeout, &r.MaxAge: time.Hour} {
		if *field == 0 {
			*field = value
		}
	}
	if r.MaxSizeMiB == 0 {
		r.MaxSizeMiB = 256
	}
	r.Folder = path.Clean(r.Folder)
}

// branchName is what a branch may be called here: less than git allows, and nothing that it forbids.
var branchName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_+@=.-]*(/[A-Za-z0-9_][A-Za-z0-9_+@=.-]*)*$`)

// validate returns everything that is wrong with the policy's part of the configuration.
func (c *PolicyConfig) validate() error {
	if (c.Source == "") == (c.Repository == nil) {
		return errors.New("policy: give source, the folder with policy.yaml, or repository, and not both")
	}
	if c.AllowDirty && (c.Repository != nil || c.AllowedSigners != "") {
		return errors.New("policy.allow_dirty: only a folder can have uncommitted files, and nobody signs those: take it out, or repository and allowed_signers")
	}
	if c.Repository == nil {
		return nil
	}
	c.Repository.defaults()
	if err := c.Repository.validate(); err != nil {
		return fmt.Errorf("policy.repository: %w", err)
	}
	return nil
}

func (r *RepositoryConfig) validate() error {
	kind, u, err := policy.ParseRemote(r.URL)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	https, overSSH := kind == policy.RemoteHTTPS || kind == policy.RemoteHTTP, kind == policy.RemoteSSH
	require(branchName.MatchString(r.Branch) && !strings.Contains(r.Branch, "..") && !strings.HasPrefix(r.Branch, "refs/"),
		"branch: %q is no name of a branch: write it alone, such as main", r.Branch)
	require(filepath.IsLocal(r.Folder) && !strings.Contains(r.Folder, `\`), "folder: %q is no path below the top of the repository", r.Folder)
	require(r.Poll >= time.Second, "poll: %s is less than 1s", r.Poll)
	require(r.Timeout > 0 && r.Timeout <= 10*time.Minute, "timeout: %s is not within 0s and 10m", r.Timeout)
	require(r.MaxAge > r.Poll, "max_age: %s is not longer than poll, which is %s", r.MaxAge, r.Poll)
	require(r.MaxSizeMiB > 0 && r.MaxSizeMiB <= 4096, "max_size_mib: %d is not within 1 and 4096", r.MaxSizeMiB)
	require(kind != policy.RemoteHTTP || r.Insecure && loopback(u.Hostname()),
		"url: over plain http anybody on the way could change the policy: use https, or, for a loopback address, insecure: true")
	require(https || r.Username == "" && r.PasswordFile == "" && r.CAFile == "" && !r.Insecure,
		"username, password_file, ca_file and insecure are for https, which url is not")
	require((r.Username == "") == (r.PasswordFile == ""), "username and password_file go together; with a token, the username is what the forge says")
	require(overSSH || r.SSHKey == "" && r.KnownHosts == "", "ssh_key and known_hosts are for ssh, which url is not")
	require(!overSSH || r.SSHKey != "" && r.KnownHosts != "", "ssh needs ssh_key, a private key that may read the repository, and known_hosts, the host keys to believe")
	return errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// open is the configuration as the policy package wants it, with the mirror in a folder of the caller's choice.
func (r *RepositoryConfig) open(cfg *Config, mirror string) policy.RepositoryConfig {
	out := policy.RepositoryConfig{
		URL: r.URL, Branch: r.Branch, Folder: r.Folder, Mirror: mirror, MaxBytes: r.MaxSizeMiB << 20,
		Username: r.Username, CAFile: cfg.path(r.CAFile), KnownHosts: cfg.path(r.KnownHosts),
	}
	if kind, u, err := policy.ParseRemote(r.URL); err == nil && kind == policy.RemotePath {
		out.URL = cfg.path(u.Path)
	}
	if r.PasswordFile != "" {
		out.Password = func() (string, error) {
			secret, err := readCredential(cfg, "password_file", r.PasswordFile)
			return strings.TrimSpace(string(secret)), err
		}
	}
	if r.SSHKey != "" {
		out.Key = func() (ssh.Signer, error) { return readSSHKey(cfg, r.SSHKey) }
	}
	return out
}

// readSSHKey reads the key that reads the repository.
func readSSHKey(cfg *Config, file string) (ssh.Signer, error) {
	secret, err := readCredential(cfg, "ssh_key", file)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(append(secret, '\n'))
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("ssh_key %s: it has a passphrase, which the daemon cannot type: use a key without one that may read this repository only", file)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh_key %s: %w", file, err)
	}
	return key, nil
}

// checkFiles looks for the files that the policy's part of the configuration names.
func (c *PolicyConfig) checkFiles(cfg *Config) error {
	if c.AllowedSigners != "" {
		if _, err := policy.LoadSigners(cfg.path(c.AllowedSigners)); err != nil {
			return fmt.Errorf("policy.allowed_signers: %w", err)
		}
	}
	if c.Repository == nil {
		return nil
	}
	open := c.Repository.open(cfg, "")
	if open.Password != nil {
		if _, err := open.Password(); err != nil {
			return fmt.Errorf("policy.repository: %w", err)
		}
	}
	if open.Key != nil {
		if _, err := open.Key(); err != nil {
			return fmt.Errorf("policy.repository: %w", err)
		}
	}
	for name, file := range map[string]string{"ca_file": open.CAFile, "known_hosts": open.KnownHosts} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("policy.repository.%s: %w", name, err)
		}
	}
	return nil
}
