package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"github.com/hallpass-ssh/hallpass/policy"
)

const (
	// listTick is how often it is looked at which lists are due.
	listTick = time.Second
	// maxListInterval is how long a list is left alone, however old it may be. It is fetched three times within its max_age, so
	// that two answers may fail to come.
	maxListInterval = 10 * time.Minute
)

// lists fetches what the policy in force wants fetched, and keeps the last good answer of each. Decisions take what is there
// and never wait.
type lists struct {
	cfg    *Config
	client *http.Client
	policy func() *policy.Policy
	logger *slog.Logger

	cancel context.CancelFunc
	ended  sync.WaitGroup // run, and what it started

	mu   sync.Mutex // guards kept and what it holds
	kept map[source]*kept

	stale map[string]bool // lists that were reported as too old, by name
}

// source is where and how a list is fetched. Policies that name it differently share it.
type source struct{ url, field, member string }

func sourceOf(f policy.Fetch) source { return source{f.URL, f.Field, f.Member} }

// kept is the last good answer of a source, and how it fares.
type kept struct {
	members []string // sorted; never changed, only replaced
	fetched time.Time
	err     error // of the last attempt
	busy    bool
	due     time.Time // by the clock of this machine, not by that of decisions
	failed  int       // attempts in a row
}

// listStatus says how a list fares.
type listStatus struct {
	Name string
	// Age is that of the members, negative if there are none.
	Age    time.Duration
	MaxAge time.Duration
	// Err is why the last attempt failed.
	Err error
}

// newLists checks the configuration of lists.
func newLists(cfg *Config) (*lists, error) {
	client, err := issuerhttp.Config{CAFile: cfg.path(cfg.Lists.CAFile), AllowInsecure: cfg.Lists.Insecure}.Client()
	if err != nil {
		return nil, fmt.Errorf("lists: %w", err)
	}
	l := &lists{cfg: cfg, client: client, kept: map[source]*kept{}, stale: map[string]bool{}}
	for _, t := range cfg.Lists.Tokens {
		if _, err := l.token(t); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// start fetches until close.
func (l *lists) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.ended.Go(func() {
		tick := time.NewTicker(listTick)
		defer tick.Stop()
		for {
			l.fetchDue(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// close ends what start began, and waits for it.
func (l *lists) close() {
	if l.cancel != nil {
		l.cancel()
	}
	l.ended.Wait()
	l.client.CloseIdleConnections()
}

// fetchDue starts to fetch what is due, each source once at a time, and forgets what the policy no longer wants.
func (l *lists) fetchDue(ctx context.Context) {
	wanted := map[source]policy.Fetch{}
	for _, f := range l.policy().Fetches() {
		at := sourceOf(f)
		if other, ok := wanted[at]; !ok || f.MaxAge < other.MaxAge {
			wanted[at] = f
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, k := range l.kept {
		if _, ok := wanted[at]; !ok && !k.busy {
			delete(l.kept, at)
		}
	}
	for at, f := range wanted {
		k := l.kept[at]
		if k == nil {
			k = &kept{}
			l.kept[at] = k
		}
		if k.busy || time.Now().Before(k.due) {
			continue
		}
		k.busy = true
		l.ended.Go(func() { l.fetch(ctx, f, k) })
	}
}

// fetch asks once.
func (l *lists) fetch(ctx context.Context, f policy.Fetch, k *kept) {
	asked := l.cfg.Now() // the answer may be from before it came
	members, err := l.ask(ctx, f)
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before := k.err
	interval := min(f.MaxAge/3, maxListInterval)
	k.busy, k.err = false, err
	if err != nil {
		k.failed++
		interval = min(interval, time.Second<<min(k.failed, 10))
	} else {
		k.failed = 0
		if k.fetched.IsZero() || !slices.Equal(k.members, members) {
			l.logger.Info("list fetched, its members are new", "list", f.Name, "members", len(members))
		}
		k.members, k.fetched = members, asked
	}
	k.due = time.Now().Add(interval - rand.N(interval/10+1)) //nolint:gosec // so that replicas do not ask all at once
	switch {
	case err != nil && before == nil:
		l.logger.Warn("list cannot be fetched: rules that ask for it fail once it is too old", "list", f.Name, "url", f.URL,
			"max_age", f.MaxAge.String(), "error", err)
	case err == nil && before != nil:
		l.logger.Info("list can be fetched again", "list", f.Name)
	}
}

// ask gets the members from the URL. Its errors do not cite the answer.
func (l *lists) ask(ctx context.Context, f policy.Fetch) ([]string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return nil, errors.New(issuerhttp.Explain(err))
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "hallpassd")
	for _, t := range l.cfg.Lists.Tokens {
		if !t.covers(r.URL) {
			continue
		}
		token, err := l.token(t)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		break
	}
	answer, err := l.client.Do(r)
	if err != nil {
		return nil, errors.New(issuerhttp.Explain(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer has status %d", answer.StatusCode)
	}
	body, err := io.ReadAll(answer.Body) // the client bounds it
	if err != nil {
		return nil, fmt.Errorf("read the answer: %s", issuerhttp.Explain(err))
	}
	return f.Members(body)
}

// token reads a token anew each time, so that it can be replaced.
func (l *lists) token(t ListToken) (string, error) {
	data, err := readSecret(l.cfg, "token_file", t.TokenFile)
	if err != nil {
		return "", fmt.Errorf("lists: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("lists: token_file %s holds no token in one line of ASCII", t.TokenFile)
	}
	return token, nil
}

// covers says whether the token is for a URL: one of the same scheme, host and port, at or below its path. The policy chooses
// the URL, so a path that could lead out again is not covered.
func (t ListToken) covers(u *url.URL) bool {
	of, err := url.Parse(t.URL)
	if err != nil || u.Scheme != of.Scheme || !strings.EqualFold(u.Host, of.Host) || u.RawPath != "" {
		return false
	}
	prefix, below := cmp.Or(of.Path, "/"), cmp.Or(u.Path, "/")
	if clean := path.Clean(below); clean != strings.TrimSuffix(below, "/") && clean != below {
		return false
	}
	return below == prefix || strings.HasPrefix(below, strings.TrimSuffix(prefix, "/")+"/")
}

// of returns what is at hand of the lists that rules want fetched, sorted by name.
func (l *lists) of(rules ca.Rules) []ca.FetchedList {
	p, ok := rules.(*policy.Policy)
	if !ok {
		return nil
	}
	wanted := p.Fetches()
	if len(wanted) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ca.FetchedList
	for _, f := range wanted {
		if k := l.kept[sourceOf(f)]; k != nil && !k.fetched.IsZero() {
			out = append(out, ca.FetchedList{Name: f.Name, Fetched: k.fetched, Members: k.members})
		}
	}
	return out
}

// status says how the lists of the policy in force fare, by name.
func (l *lists) status() []listStatus {
	now, wanted := l.cfg.Now(), l.policy().Fetches() // before the lock, which decisions need
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []listStatus
	for _, f := range wanted {
		s := listStatus{Name: f.Name, Age: -1, MaxAge: f.MaxAge}
		if k := l.kept[sourceOf(f)]; k != nil {
			if s.Err = k.err; !k.fetched.IsZero() {
				s.Age = max(0, now.Sub(k.fetched))
			}
		}
		out = append(out, s)
	}
	return out
}

// report tells the operators which lists began or ceased to be too old.
func (l *lists) report() {
	for _, s := range l.status() {
		switch old := s.Age > s.MaxAge; {
		case old && !l.stale[s.Name]:
			l.logger.Warn("list is too old: rules that ask for it fail", "list", s.Name, "age", s.Age.String(), "max_age", s.MaxAge.String(), "error", s.Err)
			l.stale[s.Name] = true
		case !old && l.stale[s.Name]:
			l.logger.Info("list is fresh again", "list", s.Name)
			delete(l.stale, s.Name)
		}
	}
}
