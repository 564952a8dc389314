package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"golang.org/x/crypto/ssh"
)

// InitParams says how to make a CA.
type InitParams struct {
	Dir      string // must not exist, or be empty
	Issuer   string
	ClientID string
	Listen   string
	Names    []string // default: the host's name, localhost and 127.0.0.1
	Policy   string   // folder of an existing policy; default: an example
}

// Initialised tells what Init made.
type Initialised struct {
	Dir, Config, Policy, Pin, Listen string
	LogKey                           string // public, in the format of signed notes
	Names                            []string
	Authorities                      map[string]string // name to authorized_keys line

	names []string // of the authorities, in order
}

// initAuthorities are made for every new CA, besides those that its policy names: one that signs for no environment does no harm.
var initAuthorities = []string{"default", "prod"}

// Init makes everything that a new CA needs, and nothing if anything fails: it works in a folder of its own beside the
// target and renames that at the end.
func Init(ctx context.Context, p InitParams) (*Initialised, error) {
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkEmpty(dir); err != nil {
		return nil, err
	}
	if !validListen(p.Listen) {
		return nil, fmt.Errorf("--listen %q is not host:port", p.Listen)
	}
	for _, name := range p.Names {
		if _, err := ca.CanonicalHost(name); err != nil && net.ParseIP(name) == nil {
			return nil, fmt.Errorf("--name %q is neither a DNS name nor an address", name)
		}
	}
	authorities := initAuthorities
	if p.Policy != "" {
		if p.Policy, err = filepath.Abs(p.Policy); err != nil {
			return nil, err
		}
		compiled, err := readPolicy(p.Policy)
		if err != nil {
			return nil, err
		}
		authorities = slices.Compact(slices.Sorted(slices.Values(append(compiled.Authorities(), initAuthorities...))))
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", filepath.Dir(dir), err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".hallpassd-init-") // 0700
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	defer os.RemoveAll(tmp)
	made, err := fill(ctx, tmp, dir, p, authorities)
	if err != nil {
		return nil, err
	}
	if err := checkMade(tmp, made.Config); err != nil {
		return nil, err
	}
	if err := putInPlace(tmp, dir); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return made, nil
}

// putInPlace gives what was made its name once all of it is on the disk. Whoever was shown the public keys hands them out, so that the
// private ones must not be lost with the power.
func putInPlace(tmp, dir string) error {
	if err := filepath.WalkDir(tmp, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() && !entry.Type().IsRegular() {
			return err
		}
		return syncFile(name)
	}); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncFile(filepath.Dir(dir))
}

// syncFile makes a file, or the names in a folder, durable.
func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: hallpassd init never changes an existing CA. Choose another --dir", dir)
	}
	return nil
}

// checkMade loads what was made as the daemon will. What is wrong now is what the caller gave.
func checkMade(dir, file string) error {
	cfg, err := LoadConfig(filepath.Join(dir, ConfigName))
	if err != nil {
		return err
	}
	cfg.file = file
	return Check(cfg)
}

// fill makes the files in tmp, which will be called dir.
func fill(ctx context.Context, tmp, dir string, p InitParams, authorities []string) (*Initialised, error) {
	made := &Initialised{Dir: dir, Config: filepath.Join(dir, ConfigName), Policy: p.Policy, Listen: p.Listen, Names: p.Names, Authorities: map[string]string{}, names: authorities}
	if len(made.Names) == 0 {
		made.Names = defaultNames()
	}
	for _, sub := range []string{"keys", "tls"} {
		if err := os.Mkdir(filepath.Join(tmp, sub), 0o700); err != nil {
			return nil, err
		}
	}
	certificate, key, err := createTLS(made.Names, time.Now())
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	if made.Pin, err = pin(certificate); err != nil {
		return nil, err
	}
	if p.Policy == "" {
		made.Policy = filepath.Join(dir, "policy")
		if err := writeExamplePolicy(filepath.Join(tmp, "policy")); err != nil {
			return nil, err
		}
	}
	for name, data := range map[string][]byte{
		"tls/cert.pem": certificate, "tls/key.pem": key, ConfigName: []byte(made.config(p)),
	} {
		if err := os.WriteFile(filepath.Join(tmp, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	return made, made.createLog(ctx, tmp)
}

// createLog makes the log, its key and the CA keys, and enters these into the log.
func (made *Initialised) createLog(ctx context.Context, tmp string) (err error) {
	logKey, err := audit.CreateLogKey(filepath.Join(tmp, "keys", "log"))
	if err != nil {
		return fmt.Errorf("make log key: %w", err)
	}
	made.LogKey = logKey.Verifier()
	log, err := bolt.Create(filepath.Join(tmp, "log.db"), bolt.Config{LogKey: logKey, Now: time.Now})
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	recorder := store.NewRecorder(log)
	for _, name := range made.names {
		key, err := ca.Generate(filepath.Join(tmp, "keys", "ca-"+name))
		if err != nil {
			return fmt.Errorf("make CA key: %w", err)
		}
		if err := recorder.ListAuthorityKey(ctx, name, key.Marshal(), "file"); err != nil {
			return fmt.Errorf("record CA key: %w", err)
		}
		made.Authorities[name] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	}
	return nil
}

// defaultNames are those by which a client on the same network is likely to reach this machine.
func defaultNames() []string {
	names := []string{"localhost", "127.0.0.1"}
	if host, err := os.Hostname(); err == nil && !slices.Contains(names, host) {
		names = append([]string{host}, names...)
	}
	return names
}

// writeExamplePolicy makes the example policy as a git repository with one commit.
func writeExamplePolicy(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := policy.WriteExample(dir, policy.ExampleParams{}); err != nil {
		return fmt.Errorf("write example policy: %w", err)
	}
	repo, err := git.PlainInitWithOptions(dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: "refs/heads/main"}})
	if err != nil {
		return fmt.Errorf("make policy repository: %w", err)
	}
	tree, err := repo.Worktree()
	if err != nil {
		return err
	}
	if err := tree.AddGlob("."); err != nil {
		return fmt.Errorf("add example policy: %w", err)
	}
	_, err = tree.Commit("Begin with the example policy\n", &git.CommitOptions{
		Author: &object.Signature{Name: "hallpassd init", Email: "hallpassd@localhost", When: time.Now()},
	})
	if err != nil {
		return fmt.Errorf("commit example policy: %w", err)
	}
	return nil
}

// config returns the text of the configuration file. The issuers come last, so that a further one can be appended.
func (made *Initialised) config(p InitParams) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# The configuration of hallpassd. Paths are relative to this file. Check changes with: hallpassd check --dir %s
listen: %q
`, made.Dir, p.Listen)
	b.WriteString("tls:\n  certificate: tls/cert.pem\n  key: tls/key.pem\nlog:\n  file: log.db\n  key: keys/log\nauthorities:\n")
	for _, name := range made.names {
		fmt.Fprintf(&b, "  %s: {key: keys/ca-%s}\n", name, name)
	}
	source := "policy"
	if p.Policy != "" {
		source = p.Policy
	}
	fmt.Fprintf(&b, "policy:\n  source: %q\nissuers:\n- name: people\n  url: %q\n  client_id: %q\n", source, p.Issuer, p.ClientID)
	if plainLoopback(p.Issuer) {
		b.WriteString("  insecure: true   # plain http: only ever for an issuer on a loopback address\n")
	}
	return b.String()
}

func plainLoopback(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// print tells an admin what there is now, and what to do next.
func (made *Initialised) print(out io.Writer) error {
	_, port, _ := net.SplitHostPort(made.Listen)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "configuration\t%s\n", made.Config)
	fmt.Fprintf(w, "policy\t%s\n", made.Policy)
	for _, name := range made.names {
		fmt.Fprintf(w, "user CA key %q\t%s\n", name, made.Authorities[name])
	}
	fmt.Fprintf(w, "public key of the log\t%s\n", made.LogKey)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, `
Next:
  1. run the daemon:              hallpassd run --dir %s
  2. on each server, as root:     hallpass ca keys --server '%s' --authority %s > /etc/ssh/hallpass_ca.pub
                                  and in sshd_config: TrustedUserCAKeys /etc/ssh/hallpass_ca.pub
                                  (a server trusts the authority of its environment and no other: %s)
  3. each developer, once:        hallpass login --server '%s'
`, made.Dir, made.address(port), made.names[0], strings.Join(made.names, ", "), made.address(port))
	return err
}

// address is what clients take as --server.
func (made *Initialised) address(port string) string {
	return net.JoinHostPort(made.Names[0], port) + "#" + made.Pin
}

func readPolicy(dir string) (*policy.Policy, error) {
	bundle, err := policy.ReadDir(dir, false)
	if err != nil {
		return nil, err
	}
	return policy.Compile(bundle)
}
