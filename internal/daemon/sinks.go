package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// sinksDir holds where the sinks stopped, below the daemon's folder.
const sinksDir = "sinks"

// newTargets makes the targets of all sinks. Nothing is sent or written yet.
func newTargets(cfg *Config) (map[string]sink.Target, error) {
	targets := map[string]sink.Target{}
	for _, s := range cfg.Sinks {
		target, err := newTarget(cfg, s)
		if err != nil {
			return nil, fmt.Errorf("sinks.%s: %w", s.Name, err)
		}
		targets[s.Name] = target
	}
	return targets, nil
}

func newTarget(cfg *Config, s SinkConfig) (sink.Target, error) {
	via := issuerhttp.Config{CAFile: cfg.path(s.CAFile), AllowInsecure: s.Insecure}
	switch {
	case s.File != "":
		return &sink.File{Path: cfg.path(s.File), MaxSize: int64(s.MaxMegabytes) << 20, Keep: s.Keep}, nil
	case s.Syslog != "":
		return newSyslog(cfg, s)
	case s.Webhook != "":
		key, err := readSecret(cfg, "key_file", s.KeyFile)
		if err != nil {
			return nil, err
		}
		return sink.NewWebhook(s.Webhook, key, via, cfg.Now)
	}
	header, err := bearerHeader(cfg, s.TokenFile)
	if err != nil {
		return nil, err
	}
	return sink.NewOTLP(s.OTLP, header, via)
}

func newSyslog(cfg *Config, s SinkConfig) (sink.Target, error) {
	u, err := url.Parse(s.Syslog)
	if err != nil {
		return nil, fmt.Errorf("syslog: %q is not a URL", s.Syslog)
	}
	if u.Scheme == "unixgram" {
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("syslog: %q: write unixgram:///dev/log", s.Syslog)
		}
		return sink.NewSyslog("unixgram", u.Path, nil)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("syslog: %q: write tls://host:port, tcp://host:port or unixgram:///path", s.Syslog)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
	if s.CAFile != "" {
		pem, err := os.ReadFile(cfg.path(s.CAFile))
		if err != nil {
			return nil, fmt.Errorf("load CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load CA file %s: it holds no PEM certificate", s.CAFile)
		}
	}
	return sink.NewSyslog(u.Scheme, u.Host, config)
}

// startSinks begins to send the log to its sinks. The function it returns ends that.
func (d *daemon) startSinks(ctx context.Context, p *parts) (stop func() error, err error) {
	dir := d.cfg.path(sinksDir)
	if len(d.cfg.Sinks) > 0 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("sinks: %w", err)
		}
	}
	for _, c := range d.cfg.Sinks {
		s, err := sink.Open(ctx, sink.Config{
			Name: c.Name, Target: p.targets[c.Name], Store: d.store, LogID: p.logKey.ID(), Dir: dir, Logger: d.logger,
		})
		if err != nil {
			return nil, err
		}
		d.sinks = append(d.sinks, s)
	}
	var all []beside
	for i, s := range d.sinks {
		all = append(all, beside{"sink", d.cfg.Sinks[i].Name, s.Run, s.Close})
	}
	return startBeside(ctx, all, d.logger), nil
}
