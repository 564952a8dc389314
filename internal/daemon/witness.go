package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/store"
)

const (
	// witnessInterval is how often a witness gets the newest checkpoint unless its configuration says otherwise.
	witnessInterval = time.Minute
	// witnessTimeout bounds one push.
	witnessTimeout = 10 * time.Second
	// lastPushTimeout bounds the one that a daemon which ends waits for.
	lastPushTimeout = 2 * time.Second
	// hangGrace is how much longer one may take before it is told that the witness hangs: one to a file cannot be broken off.
	hangGrace = time.Second
)

var errHangs = errors.New("it hangs: the last push has not come to an end")

// WitnessConfig is somebody who keeps the checkpoints of the log, so that whoever holds this machine cannot rewrite the past unseen.
// Give File, URL or Git.
type WitnessConfig struct {
	// File gets each checkpoint appended, with an empty line between. It should lie where this machine can only append.
	File string `yaml:"file"`
	// URL gets each checkpoint by POST, as text/plain. Any status of 2xx says that it is kept. It is https, but for a loopback address.
	URL string `yaml:"url"`
	// Git is a repository on this machine, bare or not: each checkpoint is a commit on the branch hallpass-checkpoints, for others to
	// fetch.
	Git string `yaml:"git"`
	// TokenFile holds a bearer token for URL; read at each push.
	TokenFile string `yaml:"token_file"`
	// CAFile holds the roots that the certificate of URL chains to; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Every is how often it gets the newest checkpoint, if there is another; default 1m, at least 1s.
	Every time.Duration `yaml:"every"`
}

func (w WitnessConfig) validate() error {
	given := 0
	for _, s := range []string{w.File, w.URL, w.Git} {
		if s != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("give one of file, url and git")
	case w.URL == "" && (w.TokenFile != "" || w.CAFile != ""):
		return errors.New("token_file and ca_file are for a url")
	case w.Every != 0 && w.Every < time.Second:
		return fmt.Errorf("every: %s is less than 1s", w.Every)
	case w.URL == "":
		return nil
	}
	u, err := url.Parse(w.URL)
	if err != nil || u.Host == "" || u.User != nil {
		return fmt.Errorf("url: %q is not the address of a witness", w.URL)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return fmt.Errorf("url: %q must be https: who can change what a witness gets makes it worthless", w.URL)
	}
	return nil
}

// witness pushes the checkpoints of a log to one place.
type witness struct {
	name   string // for operators
	every  time.Duration
	push   func(ctx context.Context, checkpoint []byte) error
	logger *slog.Logger
	now    func() time.Time
	// pushed is the checkpoint that was pushed last, failed how often pushes failed since.
	pushed []byte
	failed int

	mu   sync.Mutex // guards seen
	seen witnessStatus
}

// witnessStatus is what a witness has, as far as this run of the daemon knows.
type witnessStatus struct {
	up       bool      // the last push succeeded, or there was none
	size     uint64    // records that the newest checkpoint which it got covers
	at       time.Time // when it got that
	failures uint64
}

func (w *witness) status() witnessStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// note keeps the status.
func (w *witness) note(checkpoint []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen.up = err == nil; err != nil {
		w.seen.failures++
		return
	}
	w.seen.at = w.now()
	if c, err := audit.ReadCheckpoint(checkpoint); err == nil { // it is our own
		w.seen.size = c.Size
	}
}

func newWitnesses(cfg *Config, logger *slog.Logger) ([]*witness, error) {
	var out []*witness
	for _, c := range cfg.Witnesses {
		w, err := newWitness(cfg, c, logger)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func newWitness(cfg *Config, c WitnessConfig, logger *slog.Logger) (*witness, error) {
	w := &witness{every: c.Every, logger: logger, now: cfg.Now, seen: witnessStatus{up: true}}
	if w.every == 0 {
		w.every = witnessInterval
	}
	if c.File != "" {
		w.name = cfg.path(c.File)
		w.push = func(_ context.Context, checkpoint []byte) error { return appendCheckpoint(w.name, checkpoint) }
		return w, nil
	}
	if c.Git != "" {
		w.name = cfg.path(c.Git)
		w.push = func(_ context.Context, checkpoint []byte) error {
			return commitCheckpoint(w.name, checkpoint, cfg.Now())
		}
		return w, nil
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment}
	if c.CAFile != "" {
		roots, err := os.ReadFile(cfg.path(c.CAFile))
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", c.URL, err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("witness %s: %s holds no certificate", c.URL, cfg.path(c.CAFile))
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	w.name = c.URL
	w.push = func(ctx context.Context, checkpoint []byte) error {
		return postCheckpoint(ctx, client, c.URL, cfg.path(c.TokenFile), checkpoint)
	}
	return w, nil
}

// appendCheckpoint adds a checkpoint to a file, unless it is the last one there.
func appendCheckpoint(file string, checkpoint []byte) error {
	if err := sink.CheckRegular(file); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o644) // everybody may read what is no secret
	if err != nil {
		return err
	}
	there, err := lastBytes(f, len(checkpoint))
	if err != nil || bytes.Equal(there, checkpoint) {
		return errors.Join(err, f.Close())
	}
	text := checkpoint
	if len(there) > 0 {
		text = append([]byte("\n"), checkpoint...)
	}
	if !bytes.HasSuffix(there, []byte("\n")) && len(there) > 0 { // an earlier write was cut short
		text = append([]byte("\n"), text...)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// lastBytes returns the last n bytes of a file, or all if it has less.
func lastBytes(f *os.File, n int) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-int64(n))
	b := make([]byte, info.Size()-from)
	_, err = f.ReadAt(b, from)
	return b, err
}

func postCheckpoint(ctx context.Context, client *http.Client, address, tokenFile string, checkpoint []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(checkpoint))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	if tokenFile != "" {
		token, err := os.ReadFile(tokenFile)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", answer.Status)
	}
	return nil
}

// run pushes what is new until ctx is done, and once more then. It is apart from all else that the daemon does: a witness that hangs
// or fails delays nobody.
func (w *witness) run(ctx context.Context, log store.Reader) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		w.step(ctx, witnessTimeout, log)
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.step(context.WithoutCancel(ctx), lastPushTimeout, log)
			return
		}
	}
}

func (w *witness) step(ctx context.Context, timeout time.Duration, log store.Reader) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	checkpoint, err := log.Checkpoint(ctx)
	if err == nil && bytes.Equal(checkpoint, w.pushed) {
		return
	}
	if err == nil {
		late := make(chan struct{})
		hangs := time.AfterFunc(timeout+hangGrace, func() { defer close(late); w.told(checkpoint, errHangs) })
		if err = w.push(ctx, checkpoint); !hangs.Stop() {
			<-late
		}
	}
	w.told(checkpoint, err)
}

// told keeps what became of a push, and tells the operators of a change.
func (w *witness) told(checkpoint []byte, err error) {
	w.note(checkpoint, err)
	if err != nil {
		if w.failed++; w.failed == 1 {
			w.logger.Warn("a witness does not get the checkpoints of the log: until it does, nobody else knows what is in the log", "witness", w.name, "error", err)
		}
		return
	}
	if w.failed > 0 {
		w.logger.Info("the witness gets the checkpoints of the log again", "witness", w.name, "failed", w.failed)
	}
	w.pushed, w.failed = checkpoint, 0
}

// startWitnesses returns once they run; stop ends them, after a last push.
func startWitnesses(ctx context.Context, witnesses []*witness, log store.Reader, logger *slog.Logger) (stop func() error) {
	var all []beside
	for _, w := range witnesses {
		all = append(all, beside{"witness", w.name, func(ctx context.Context) { w.run(ctx, log) }, nil})
	}
	return startBeside(context.WithoutCancel(ctx), all, logger)
}
