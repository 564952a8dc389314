package daemon

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/server"
	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of histograms, in seconds: from what a step takes in memory to what it may take at most.
var (
	stepBounds   = []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
	commitBounds = []float64{250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
)

// issueMetrics tells of certificates and refusals. The path of every request leads through it: what is counted often is looked up
// before.
type issueMetrics struct {
	steps    [ca.Steps]prometheus.Observer
	issued   *prometheus.CounterVec
	repeated prometheus.Counter
	refused  map[ca.Kind]prometheus.Counter
	took     map[bool]prometheus.Observer // by whether a certificate was issued
	unsigned *prometheus.CounterVec
}

func newIssueMetrics(r prometheus.Registerer) *issueMetrics {
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "hallpass_step_duration_seconds", Help: "How long a step of a call took.", Buckets: stepBounds,
	}, []string{"step"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "hallpass_issue_duration_seconds", Help: "How long known callers waited for a certificate or a refusal.", Buckets: stepBounds,
	}, []string{"outcome"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hallpass_refusals_total", Help: "Requests of known callers that came to no certificate, by the kind of error.",
	}, []string{"kind"})
	m := &issueMetrics{
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallpass_certificates_issued_total", Help: "Certificates that were recorded and signed.",
		}, []string{"authority", "environment"}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hallpass_certificates_repeated_total", Help: "Certificates that were given again, because the same bytes came again.",
		}),
		unsigned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallpass_signature_failures_total", Help: "Certificates that were recorded and could not be signed.",
		}, []string{"authority"}),
		refused: map[ca.Kind]prometheus.Counter{},
		took:    map[bool]prometheus.Observer{true: took.WithLabelValues("issued"), false: took.WithLabelValues("refused")},
	}
	for step := range m.steps {
		m.steps[step] = steps.WithLabelValues(ca.Step(step).String())
	}
	for _, kind := range kinds() {
		m.refused[kind] = refused.WithLabelValues(kind.String())
	}
	r.MustRegister(steps, took, refused, m.issued, m.repeated, m.unsigned)
	return m
}

// kinds are all kinds of errors.
func kinds() []ca.Kind {
	var all []ca.Kind
	for kind := ca.Internal; kind <= ca.Unavailable; kind++ {
		all = append(all, kind)
	}
	return all
}

// authorities makes the counters that each Authority has.
func (m *issueMetrics) authorities(all map[string]*ca.Authority) {
	for name := range all {
		m.unsigned.WithLabelValues(name)
	}
}

func (m *issueMetrics) step(s ca.Step, began time.Time) {
	m.steps[s].Observe(time.Since(began).Seconds())
}

func (m *issueMetrics) outcome(began time.Time, issued *ca.Issued, err error) {
	m.took[issued != nil].Observe(time.Since(began).Seconds())
	switch {
	case issued == nil:
		m.refusedAs(ca.KindOf(err)).Inc() // Internal after a panic
	case issued.Decision.Environment.Authority == "":
		m.repeated.Inc()
	default:
		m.issued.WithLabelValues(issued.Decision.Environment.Authority, issued.Decision.Environment.Name).Inc()
	}
}

func (m *issueMetrics) refusedAs(kind ca.Kind) prometheus.Counter {
	if c := m.refused[kind]; c != nil {
		return c
	}
	return m.refused[ca.Internal]
}

// callMetrics counts the calls that ended, by method and code.
type callMetrics struct {
	counts *prometheus.CounterVec
	known  map[string]map[string]prometheus.Counter
}

func newCallMetrics(r prometheus.Registerer) *callMetrics {
	m := &callMetrics{
		counts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallpass_calls_total", Help: "Calls that ended, by method and gRPC code.",
		}, []string{"method", "code"}),
		known: map[string]map[string]prometheus.Counter{},
	}
	for _, method := range server.Methods() {
		m.known[method] = map[string]prometheus.Counter{}
		for _, code := range server.Codes() {
			m.known[method][code] = m.counts.WithLabelValues(methodWord(method), code)
		}
	}
	r.MustRegister(m.counts)
	return m
}

// methodWord is "Service/Method" of the full name "/package.Service/Method".
func methodWord(fullMethod string) string {
	service, method := path.Split(fullMethod)
	return strings.TrimPrefix(path.Ext(strings.TrimSuffix(service, "/")), ".") + "/" + method
}

func (m *callMetrics) ended(method, code string) {
	if c := m.known[method][code]; c != nil {
		c.Inc()
		return
	}
	m.counts.WithLabelValues(methodWord(method), code).Inc() // of a code that only gRPC itself has
}

// watchServer registers what the server and its limits count.
func (m *metrics) watchServer(s *server.Server, l *server.Limiter) {
	m.lookUp([]metric{
		{"hallpass_connections", "Connections that are open.", nil},
		{"hallpass_connections_turned_away_total", "Connections that were closed at once, because their address had too many.", nil},
		{"hallpass_followers", "Calls under way that follow the log.", nil},
		{"hallpass_strangers_total", "Calls of nobody known, by what was wrong with them.", []string{"kind"}},
		{"hallpass_rate_limited_total", "Calls above the rate of an identity, or of an address of strangers.", []string{"of"}},
	}, func(put putMetric) {
		stats, totals := s.Stats(), l.Totals()
		put("hallpass_connections", float64(stats.Connections))
		put("hallpass_connections_turned_away_total", float64(stats.TurnedAway))
		put("hallpass_followers", float64(stats.Followers))
		for _, kind := range kinds() {
			put("hallpass_strangers_total", float64(totals.Strangers[kind.String()]), kind.String())
		}
		put("hallpass_rate_limited_total", float64(totals.Identities), "identity")
		put("hallpass_rate_limited_total", float64(totals.Addresses), "address")
	})
}

// observers connects the core and the server to metrics and traces; to nothing if nobody can see either.
func (d *daemon) observers(authorities map[string]*ca.Authority) (ca.Observer, server.Observer) {
	if d.cfg.Metrics.Listen == "" && d.traces == nil {
		return ca.Observer{}, server.Observer{}
	}
	issue, calls, spans := d.metrics.issue, d.metrics.calls, d.traces
	issue.authorities(authorities)
	core := ca.Observer{
		Step: func(ctx context.Context, s ca.Step, began time.Time) {
			issue.step(s, began)
			spans.step(ctx, s, began)
		},
		Issue: func(ctx context.Context, began time.Time, issued *ca.Issued, err error) {
			issue.outcome(began, issued, err)
			spans.outcome(ctx, issued, err)
		},
		SignatureFailed: func(authority string) { issue.unsigned.WithLabelValues(authority).Inc() },
	}
	served := server.Observer{End: func(ctx context.Context, method, requestID, code string) {
		calls.ended(method, code)
		spans.end(ctx, requestID, code)
	}}
	if spans != nil {
		served.Begin = spans.begin
	}
	return core, served
}
