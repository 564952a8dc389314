package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// reachTimeout is how long agents may take to say which keys they hold.
const reachTimeout = 5 * time.Second

// notBefore is when this release was made. A clock before it is wrong, and certificates would be too.
var notBefore = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// parts is what the configuration names, loaded and checked.
type parts struct {
	authorities map[string]*ca.Authority
	logKey      *audit.LogKey
	verifier    *idtoken.Verifier
	lists       *lists
	certificate tls.Certificate
	serverNames []string
	targets     map[string]sink.Target // of sinks, by name
	collector   *spanCollector         // of spans; nil if there is none
}

// Check loads everything that cfg names, and the policy, without starting anything. It also looks whether agents hold their CA keys;
// a daemon that starts does not, since an agent may come later.
func Check(cfg *Config) error {
	parts, err := load(cfg)
	if err != nil {
		return err
	}
	if err := parts.reach(); err != nil {
		return err
	}
	if err := cfg.checkPlaces(); err != nil {
		return err
	}
	return checkPolicy(context.Background(), cfg, parts.authorities)
}

// checkPolicy holds the policy of the source to what it is held to, but for what only the log knows. A repository is fetched into a
// folder that is gone afterwards: the daemon's own copy may be in use.
func checkPolicy(ctx context.Context, cfg *Config, authorities map[string]*ca.Authority) (err error) {
	mirror := ""
	if cfg.Policy.Repository != nil {
		if mirror, err = os.MkdirTemp("", "hallpassd-check-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(mirror)) }()
	}
	source, err := openSource(cfg, filepath.Join(mirror, "policy.git"))
	if err != nil {
		return err
	}
	b, err := source.read(ctx)
	if err != nil {
		return err
	}
	g := gate(cfg, authorities, nil)
	if err := g.signed(ctx, b, ca.PolicyRef{}); err != nil {
		return err
	}
	compiled, err := g.compile(b)
	if err != nil {
		return err
	}
	return g.tested(ctx, b, compiled)
}

// reach looks whether all CA keys are where they should be.
func (p *parts) reach() error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTimeout)
	defer cancel()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.authorities)) {
		errs = append(errs, p.authorities[name].Reach(ctx))
	}
	return errors.Join(errs...)
}

func load(cfg *Config) (*parts, error) {
	if now := cfg.Now(); now.Before(notBefore) {
		return nil, fmt.Errorf("the clock says %s, before this release was made: set it, certificates depend on it", now.Format(time.DateOnly))
	}
	p := &parts{authorities: map[string]*ca.Authority{}}
	var err error
	if p.logKey, err = audit.LoadLogKey(cfg.path(cfg.Log.Key)); err != nil {
		return nil, err
	}
	var names []string
	if p.certificate, names, err = loadTLS(cfg.path(cfg.TLS.Certificate), cfg.path(cfg.TLS.Key)); err != nil {
		return nil, err
	}
	if p.serverNames = cfg.ServerNames; len(p.serverNames) == 0 {
		p.serverNames = names
	}
	for i, name := range p.serverNames {
		p.serverNames[i] = strings.ToLower(strings.TrimSuffix(name, "."))
	}
	for name, a := range cfg.Authorities {
		if p.authorities[name], err = loadAuthority(cfg, name, a); err != nil {
			return nil, err
		}
	}
	if err := p.checkDistinct(); err != nil {
		return nil, err
	}
	if p.targets, err = newTargets(cfg); err != nil {
		return nil, err
	}
	if p.collector, err = newSpanCollector(cfg); err != nil {
		return nil, err
	}
	if err := cfg.Policy.checkFiles(cfg); err != nil {
		return nil, err
	}
	if p.lists, err = newLists(cfg); err != nil {
		return nil, err
	}
	p.verifier, err = newVerifier(cfg)
	return p, err
}
