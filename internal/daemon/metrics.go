package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/version"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is what operators watch. Each part of the daemon has a type of its own, which says what it counts. Labels are words that the
// daemon, its configuration or the policy chose, and commits; never names of people, hosts or logins.
type metrics struct {
	registry *prometheus.Registry
	issue    *issueMetrics
	log      *logMetrics
	calls    *callMetrics
	spans    *spanMetrics
	policy   *policyMetrics // nil until the source of the policy is known
}

func newMetrics() *metrics {
	r := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hallpass_build_info", Help: "Always 1; the version of the daemon is in the label.",
	}, []string{"version"})
	build.WithLabelValues(version.String()).Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return &metrics{registry: r, issue: newIssueMetrics(r), log: newLogMetrics(r), calls: newCallMetrics(r), spans: newSpanMetrics(r)}
}

// metric is one that is looked up when it is scraped: a counter if its name ends in _total, else a gauge.
type metric struct {
	name, help string
	labels     []string
}

// lookup is a collector of metrics that are looked up together when they are scraped.
type lookup struct {
	descs map[string]*prometheus.Desc
	look  func(put putMetric)
}

// putMetric gives a metric of a lookup a value. One that is not known now is given none.
type putMetric func(name string, value float64, labels ...string)

// lookUp registers metrics that look finds out.
func (m *metrics) lookUp(known []metric, look func(put putMetric)) {
	l := lookup{map[string]*prometheus.Desc{}, look}
	for _, k := range known {
		l.descs[k.name] = prometheus.NewDesc(k.name, k.help, k.labels, nil)
	}
	m.registry.MustRegister(l)
}

// Describe implements prometheus.Collector.
func (l lookup) Describe(c chan<- *prometheus.Desc) {
	for _, d := range l.descs {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (l lookup) Collect(c chan<- prometheus.Metric) {
	l.look(func(name string, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(name, "_total") {
			kind = prometheus.CounterValue
		}
		c <- prometheus.MustNewConstMetric(l.descs[name], kind, value, labels...)
	})
}

// number is how metrics say yes and no.
func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// unixSeconds is how metrics tell a time.
func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// health says what is wrong with a daemon; nil if nothing is.
type health struct {
	alive func() error // it should be started anew
	ready func() error // it should not be sent calls
}

// serve answers GET /metrics, /healthz and /readyz on address until stop is called: a daemon that ends is watched too. The address is
// told once it is open.
func (m *metrics) serve(address string, h health, logger *slog.Logger) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: listen on %s: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.Handle("GET /healthz", sound(h.alive))
	mux.Handle("GET /readyz", sound(h.ready))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	logger.Info("metrics", "address", listener.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics are not served any more", "error", err)
		}
	}()
	return func() { server.Close(); <-done }, nil
}

// sound answers 200 if nothing is wrong, else 503 and what is.
func sound(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
}
