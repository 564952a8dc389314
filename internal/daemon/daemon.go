// Package daemon wires the parts of hallpassd together: configuration, keys, log, policy, ID token verifier, core and server.
//
// It knows files, signals and the order of start and end. It must never decide anything itself.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
	"github.com/hallpass-ssh/hallpass/internal/server"
	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/internal/version"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"golang.org/x/time/rate"
)

const (
	// drainTimeout is how long calls under way may take to end.
	drainTimeout = 10 * time.Second
	// tallyInterval is how often what was kept out of the log is summed up in it.
	tallyInterval = time.Minute
	// healthInterval is how often the issuers are looked at, to tell the operators of a change.
	healthInterval = 5 * time.Second
)

// daemon is a running CA.
type daemon struct {
	cfg      *Config
	logger   *slog.Logger
	store    *bolt.Store
	recorder *store.Recorder
	policy   *policyInForce
	verifier *idtoken.Verifier
	lists    *lists
	limiter  *server.Limiter
	server   *server.Server
	sinks    []*sink.Sink
	metrics  *metrics
	traces   *traces         // nil if calls are not traced
	issuing  atomic.Int64    // requests for certificates that are under way
	serving  atomic.Bool     // between the first call that is taken and the begin of the end
	unwell   map[string]bool // issuers that were reported as not usable, by name
}

// Run serves until ctx is done or the log dies. SIGHUP loads the policy anew.
func Run(ctx context.Context, cfg *Config, stderr io.Writer) (err error) {
	logger := slog.New(slog.NewJSONHandler(stderr, nil))
	parts, err := load(cfg)
	if err != nil {
		return err
	}
	d := &daemon{cfg: cfg, logger: logger, unwell: map[string]bool{}, metrics: newMetrics()}
	logConfig := bolt.Config{
		LogKey: parts.logKey, Now: cfg.Now, Uptime: cfg.Uptime, Logger: logger,
		UnderWay: func() int { return int(d.issuing.Load()) }, Committed: d.metrics.log.committed,
	}
	if d.store, err = bolt.Open(cfg.path(cfg.Log.File), logConfig); errors.Is(err, store.ErrDamaged) {
		return fmt.Errorf("%w: nothing was changed; `hallpassd restore` puts a backup in its place", err)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.store.Close()) }()
	d.traces = newTraces(parts.collector, cfg.Traces.Ratio, parts.logKey.ID(), d.metrics.spans, logger)
	defer d.traces.close()
	if err := d.assemble(ctx, parts); err != nil {
		return unlessAsked(ctx, err)
	}
	defer d.verifier.Close()
	defer d.lists.close()
	if err := cfg.makeFolders(); err != nil {
		return err
	}
	stopSinks, err := d.startSinks(ctx, parts)
	if err != nil {
		return unlessAsked(ctx, err)
	}
	defer func() { err = errors.Join(err, stopSinks()) }()
	witnesses, err := newWitnesses(cfg, logger)
	if err != nil {
		return err
	}
	stopWitnesses := startWitnesses(ctx, witnesses, d.store, logger)
	defer func() { err = errors.Join(err, stopWitnesses()) }()
	if cfg.Metrics.Listen != "" {
		d.watch(parts, witnesses)
		stop, err := d.metrics.serve(cfg.Metrics.Listen, health{d.alive, d.ready}, logger)
		if err != nil {
			return err
		}
		defer stop()
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	logger.Info("listening", "address", listener.Addr().String(), "server_names", parts.serverNames, "version", version.String())
	return d.serve(ctx, listener)
}

// unlessAsked returns why a start failed; nothing if it ended because it was asked to.
func unlessAsked(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

// assemble connects the parts over an open log.
func (d *daemon) assemble(ctx context.Context, parts *parts) error {
	d.recorder = store.NewRecorder(d.store)
	for _, name := range slices.Sorted(maps.Keys(parts.authorities)) {
		a := parts.authorities[name]
		if err := d.recorder.ListAuthorityKey(ctx, name, a.PublicKey.Marshal(), a.Source); err != nil {
			return fmt.Errorf("record CA key %s: %w", name, err)
		}
	}
	if err := d.openPolicy(ctx, parts); err != nil {
		return err
	}
	d.lists = parts.lists
	d.lists.policy, d.lists.logger = d.policy.get, d.logger
	d.limiter = server.NewLimiter(server.Rates{
		Identity: rate.Limit(d.cfg.Limits.IdentityRate), IdentityBurst: d.cfg.Limits.IdentityBurst,
	}, d.cfg.Now())
	watchCore, watchCalls := d.observers(parts.authorities)
	core, err := ca.New(ca.CA{
		Authenticate:    parts.verifier.Authenticate,
		Parse:           server.ParseRequest,
		ParsePossession: server.ParsePossession,
		Rules:           d.policy.rules,
		Newer:           d.policy.newer,
		Lists:           d.lists.of,
		Log:             d.recorder,
		Authorities:     parts.authorities,
		ServerNames:     parts.serverNames,
		MaxTTL:          d.cfg.Limits.MaxTTL,
		Skew:            d.cfg.Limits.Skew,
		Admit:           d.limiter.Admit,
		Stranger:        d.limiter.Stranger,
		Observer:        watchCore,
		Now:             d.cfg.Now,
		Logger:          d.logger,
	})
	if err != nil {
		return err
	}
	d.verifier = parts.verifier
	d.verifier.Start(ctx)
	d.lists.start(ctx)
	filters, err := policy.NewFilters()
	if err != nil {
		return err
	}
	d.server = server.New(server.Config{
		CA: core, Store: d.store, Certificate: parts.certificate, Limiter: d.limiter,
		LogPublicKey: parts.logKey.Verifier(),
		Discovery:    func() *pb.DiscoverResponse { return discovery(d.cfg, parts) },
		Environments: d.environments, Role: d.role, RefuseAccess: d.recorder.RefuseAccess,
		Backup: d.backup, EraseIdentity: d.recorder.EraseIdentity, MarkReviewed: d.recorder.MarkReviewed,
		PolicyFiles: d.policy.files, ReloadPolicy: d.policy.reload, AcceptPolicy: d.policy.accept,
		Where:   func(expression string) (server.Condition, error) { return condition(filters, expression) },
		Issuing: &d.issuing, Observer: watchCalls, Now: d.cfg.Now, Logger: d.logger,
	})
	return nil
}

// openPolicy puts the policy of the source in force, or the one that was before.
func (d *daemon) openPolicy(ctx context.Context, parts *parts) error {
	mirror := ""
	if d.cfg.Policy.Repository != nil {
		mirror = d.cfg.path(d.cfg.Policy.Repository.Mirror)
	}
	source, err := openSource(d.cfg, mirror)
	if err != nil {
		return err
	}
	_, maxAge := source.rhythm()
	d.metrics.policy = newPolicyMetrics(d.metrics.registry, d.metrics.issue, d.cfg.Now, maxAge)
	d.policy = &policyInForce{
		policyGate: gate(d.cfg, parts.authorities, d.recorder),
		source:     source, store: d.store, logger: d.logger, metrics: d.metrics.policy,
		asks: make(chan ask), pokes: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	return d.policy.start(ctx)
}

// serve answers until it is told to end, and then lets calls under way end.
func (d *daemon) serve(ctx context.Context, listener net.Listener) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	tick := time.NewTicker(tallyInterval)
	defer tick.Stop()
	health := time.NewTicker(healthInterval)
	defer health.Stop()
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(listener) }()
	following, unfollow := context.WithCancel(ctx)
	d.serving.Store(true)
	go d.policy.follow(following)
	defer func() { unfollow(); <-d.policy.ended }()
	for {
		select {
		case <-hangups:
			d.policy.poke()
		case <-tick.C:
			d.tally(ctx)
		case <-health.C:
			d.reportIssuers()
			d.lists.report()
		case <-d.store.Dead():
			return errors.Join(d.stop(served), errors.New("the outcome of a write to the log is in doubt: ended, so that nothing is signed without a record. Check the disk; the next start verifies the log"))
		case err := <-served:
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
			d.logger.Info("shutting down")
			err := d.stop(served)
			d.tally(context.WithoutCancel(ctx))
			return err
		}
	}
}

func (d *daemon) stop(served <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	d.serving.Store(false)
	d.server.Shutdown(ctx)
	return <-served
}

// watch registers the metrics that are looked up when they are scraped.
func (d *daemon) watch(p *parts, witnesses []*witness) {
	d.metrics.watchLog(d.store, d.cfg.Now)
	d.metrics.watchServer(d.server, d.limiter)
	d.metrics.watchReviews(d.store, d.cfg.Now)
	d.metrics.watchSinks(d.sinks, d.store, d.cfg.Now)
	d.metrics.watchWitnesses(witnesses, d.store)
	d.metrics.watchIssuers(d.verifier)
	d.metrics.watchLists(d.lists)
	d.metrics.watchCertificate(p.certificate.Leaf.NotAfter)
}

// alive says whether the daemon can go on.
func (d *daemon) alive() error {
	if d.store.Stats().Dead {
		return errors.New("the log is dead: the daemon ends, and has to be started again")
	}
	return nil
}

// ready says whether calls would be answered now.
func (d *daemon) ready() error {
	switch {
	case d.alive() != nil:
		return d.alive()
	case d.policy.get() == nil:
		return errors.New("no policy is in force")
	case !d.serving.Load():
		return errors.New("the daemon starts or ends")
	}
	return nil
}

// backup records first: a copy of everything is worth a record, also if it does not arrive.
func (d *daemon) backup(ctx context.Context, admin ca.Caller, sourceIP string) (*store.Backup, error) {
	if err := d.recorder.BackupTaken(ctx, admin, sourceIP); err != nil {
		return nil, err
	}
	return d.store.Backup(ctx)
}

// reportIssuers tells the operators which issuers began or ceased to be usable. Tokens of one that is not are refused.
func (d *daemon) reportIssuers() {
	for _, h := range d.verifier.Health() {
		switch {
		case !h.OK && !d.unwell[h.Name]:
			d.logger.Warn("issuer cannot be used: its tokens are refused until its keys can be fetched", "issuer", h.Name, "url", h.URL, "error", h.Error)
		case h.OK && d.unwell[h.Name]:
			d.logger.Info("issuer can be used again", "issuer", h.Name, "url", h.URL)
		}
		d.unwell[h.Name] = !h.OK
	}
}

// tally sums up in the log what was not recorded one by one.
func (d *daemon) tally(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	t := d.limiter.Drain(d.cfg.Now())
	if len(t.Strangers) > 0 {
		if err := d.recorder.CountStrangers(ctx, t.From, t.To, t.Strangers); err != nil {
			d.logger.Error("record strangers", "counts", t.Strangers, "error", err)
		}
	}
	for _, r := range t.Refused {
		if err := d.recorder.CountRefusals(ctx, r.Caller, t.From, t.To, r.Count); err != nil {
			d.logger.Error("record refusals", "subject", r.Caller.Identity.Subject, "count", r.Count, "error", err)
		}
	}
}

func (d *daemon) environments() ([]*pb.Environment, ca.PolicyRef) {
	p := d.policy.get()
	var out []*pb.Environment
	for _, e := range p.Environments() {
		out = append(out, &pb.Environment{Name: e.Name, Hosts: e.Hosts, Authority: e.Authority})
	}
	return out, p.Ref()
}

// role asks the policy in force, with the claims that it declares.
func (d *daemon) role(ctx context.Context, role string, caller ca.Caller, now time.Time) (bool, ca.PolicyRef, error) {
	p := d.policy.get()
	identity, err := p.Declare(caller)
	if err != nil {
		return false, p.Ref(), err
	}
	has, err := p.Role(ctx, role, ca.Question{Identity: identity, Token: caller.Token, Now: now})
	return has && err == nil, p.Ref(), err
}

// condition compiles a condition about records.
func condition(filters *policy.Filters, expression string) (server.Condition, error) {
	f, err := filters.Compile(expression)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, r *pb.Record, snapshot func() ([]byte, error)) (bool, string, error) {
		fits, err := f.Match(ctx, r, snapshot)
		if failed, ok := errors.AsType[*policy.FilterError](err); ok {
			return false, failed.Message, nil
		}
		return fits, "", err
	}, nil
}

// discovery is what everybody may know.
func discovery(cfg *Config, parts *parts) *pb.DiscoverResponse {
	out := &pb.DiscoverResponse{Version: version.String(), LogPublicKey: parts.logKey.Verifier()}
	for _, i := range cfg.Issuers {
		if i.kind() == ca.Person {
			out.Issuers = append(out.Issuers, &pb.Issuer{Name: i.Name, Url: i.URL, ClientId: i.ClientID, Scopes: i.scopes()})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(parts.authorities)) {
		out.UserCaKeys = append(out.UserCaKeys, &pb.UserCAKey{Authority: name, PublicKey: parts.authorities[name].PublicKey.Marshal()})
	}
	return out
}
