package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// output is a file that a sink or a witness writes, or the repository that a witness commits to.
type output struct {
	of   string // the sink or witness, for messages
	name string // as it stands in the configuration
	path string // absolute, to be compared with others
	repo bool
}

// outputs lists those of all sinks and witnesses.
func (c *Config) outputs() []output {
	var all []output
	for _, s := range c.Sinks {
		if s.File != "" {
			all = append(all, output{"sinks." + s.Name, s.File, c.absolute(s.File), false})
		}
	}
	for i, w := range c.Witnesses {
		of := fmt.Sprintf("witnesses: number %d", i+1)
		if w.File != "" {
			all = append(all, output{of, w.File, c.absolute(w.File), false})
		}
		if w.Git != "" {
			all = append(all, output{of, w.Git, c.absolute(w.Git), true})
		}
	}
	return all
}

// absolute resolves a path of the configuration.
func (c *Config) absolute(p string) string {
	path, err := filepath.Abs(c.path(p))
	if err != nil { // the current folder is gone
		return filepath.Clean(c.path(p))
	}
	return path
}

// taken says what the files are that the configuration names for something else, by their absolute paths.
func (c *Config) taken() map[string]string {
	taken := map[string]string{}
	add := func(what string, names ...string) {
		for _, name := range names {
			if name != "" {
				taken[c.absolute(name)] = what
			}
		}
	}
	add("the configuration", filepath.Base(c.file))
	add("the log", c.Log.File)
	add("the head of the log", c.Log.File+".head")
	const secret = "a file of keys, tokens or certificates"
	add(secret, c.Log.Key, c.TLS.Certificate, c.TLS.Key, c.Policy.AllowedSigners, c.Traces.TokenFile, c.Traces.CAFile, c.Lists.CAFile)
	for _, a := range c.Authorities {
		add(secret, a.Key, a.PassphraseFile, a.Agent, a.PublicKey)
	}
	if r := c.Policy.Repository; r != nil {
		add(secret, r.PasswordFile, r.CAFile, r.SSHKey, r.KnownHosts)
	}
	for _, t := range c.Lists.Tokens {
		add(secret, t.TokenFile)
	}
	for _, i := range c.Issuers {
		add(secret, i.CAFile)
	}
	for _, w := range c.Witnesses {
		add(secret, w.TokenFile, w.CAFile)
	}
	for _, s := range c.Sinks {
		add(secret, s.KeyFile, s.TokenFile, s.CAFile)
		add("where the sink "+s.Name+" stopped", filepath.Join(sinksDir, s.Name+".cursor"))
	}
	return taken
}

// checkOutputs refuses to write to what is there for something else.
func (c *Config) checkOutputs() error {
	policy := c.Policy.Source
	if r := c.Policy.Repository; r != nil {
		policy = r.Mirror
	}
	taken := c.taken()
	var errs []error
	for _, o := range c.outputs() {
		if what, ok := taken[o.path]; ok {
			errs = append(errs, fmt.Errorf("%s: %s is %s: name another file", o.of, o.name, what))
		}
		// A commit to a branch of its own is no change of a policy.
		if rest, err := filepath.Rel(c.absolute(policy), o.path); err == nil && filepath.IsLocal(rest) && !o.repo {
			errs = append(errs, fmt.Errorf("%s: %s is in the folder of the policy, %s: name a file elsewhere", o.of, o.name, policy))
		}
		taken[o.path] = "what " + o.of + " writes"
	}
	return errors.Join(errs...)
}

// checkPlaces says, before anything runs, of which files it is plain that they cannot be written.
func (c *Config) checkPlaces() error {
	var errs []error
	for _, o := range c.outputs() {
		if o.repo {
			continue
		}
		err := sink.CheckRegular(o.path)
		folder, statErr := os.Stat(filepath.Dir(o.path))
		switch {
		case errors.Is(statErr, fs.ErrNotExist) && !filepath.IsAbs(o.name): // it is made at the start
		case errors.Is(statErr, fs.ErrNotExist):
			err = fmt.Errorf("the folder of %s does not exist: make it, for the daemon's user, or mount what it is on", o.path)
		case statErr != nil:
			err = statErr
		case !folder.IsDir():
			err = fmt.Errorf("%s is no folder, and %s was to be in it: name another file", filepath.Dir(o.path), filepath.Base(o.path))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.of, err))
		}
	}
	return errors.Join(errs...)
}

// makeFolders makes those of the files that are beside the configuration. One elsewhere may be on what is not mounted yet.
func (c *Config) makeFolders() error {
	for _, o := range c.outputs() {
		if o.repo || filepath.IsAbs(o.name) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(o.path), 0o700); err != nil {
			return fmt.Errorf("%s: make the folder of %s: %w", o.of, o.name, err)
		}
	}
	return nil
}
