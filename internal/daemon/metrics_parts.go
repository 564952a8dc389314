package daemon

import (
	"context"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape reads from the log.
const scrapeTimeout = 5 * time.Second

// logMetrics tells of the commits of the log.
type logMetrics struct {
	records, took, disk prometheus.Histogram
	failures            prometheus.Counter
}

func newLogMetrics(r prometheus.Registerer) *logMetrics {
	m := &logMetrics{
		records: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hallpass_log_commit_records", Help: "How many records shared a commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hallpass_log_commit_duration_seconds", Help: "How long a commit took, from its beginning until it was durable.", Buckets: commitBounds,
		}),
		disk: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hallpass_log_sync_duration_seconds", Help: "How long of that the file was written and synced, twice.", Buckets: commitBounds,
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hallpass_log_commit_failures_total", Help: "Commits that failed: the disk is full, the clock went back, or the outcome is in doubt.",
		}),
	}
	r.MustRegister(m.records, m.took, m.disk, m.failures)
	return m
}

func (m *logMetrics) committed(c bolt.Commit) {
	if c.Err != nil {
		m.failures.Inc()
		return
	}
	m.records.Observe(float64(c.Records))
	m.took.Observe(c.Took.Seconds())
	m.disk.Observe(c.Disk.Seconds())
}

// watchLog registers how the log fares.
func (m *metrics) watchLog(s *bolt.Store, now func() time.Time) {
	m.lookUp([]metric{
		{"hallpass_log_records", "Records in the log.", nil},
		{"hallpass_log_epoch", "The epoch of the log; each restore begins another.", nil},
		{"hallpass_log_bytes", "Size of the file of the log.", nil},
		{"hallpass_log_free_bytes", "What the disk has left for it.", nil},
		{"hallpass_log_queue_entries", "Entries that wait for a commit.", nil},
		{"hallpass_log_head_lag_records", "Records that the head beside the log does not cover yet.", nil},
		{"hallpass_log_checkpoint_timestamp_seconds", "When the newest record was committed and its checkpoint signed.", nil},
		{"hallpass_log_checkpoint_age_seconds", "How long ago that is.", nil},
		{"hallpass_log_dead", "1 once nothing can be recorded any more; the daemon ends then.", nil},
	}, func(put putMetric) {
		stats := s.Stats()
		put("hallpass_log_records", float64(stats.Records))
		put("hallpass_log_epoch", float64(stats.Epoch))
		if stats.Bytes >= 0 {
			put("hallpass_log_bytes", float64(stats.Bytes))
		}
		if stats.Free >= 0 {
			put("hallpass_log_free_bytes", float64(stats.Free))
		}
		put("hallpass_log_queue_entries", float64(stats.Queue))
		put("hallpass_log_head_lag_records", float64(stats.Records-min(stats.Head, stats.Records)))
		put("hallpass_log_checkpoint_timestamp_seconds", unixSeconds(stats.Time))
		put("hallpass_log_checkpoint_age_seconds", max(0, now().Sub(stats.Time).Seconds()))
		put("hallpass_log_dead", number(stats.Dead))
	})
}

// watchReviews registers how many decisions wait for somebody to look at them.
func (m *metrics) watchReviews(log store.Reader, now func() time.Time) {
	m.lookUp([]metric{
		{"hallpass_reviews_open", "Decisions that ask for a review, at which nobody looked yet.", nil},
		{"hallpass_reviews_overdue", "Those of them that are overdue.", nil},
	}, func(put putMetric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		open, overdue, err := store.CountReviews(ctx, log, now())
		if err != nil {
			return
		}
		put("hallpass_reviews_open", float64(open))
		put("hallpass_reviews_overdue", float64(overdue))
	})
}

// watchSinks registers how far the sinks have come.
func (m *metrics) watchSinks(sinks []*sink.Sink, log store.Reader, now func() time.Time) {
	of := []string{"sink"}
	m.lookUp([]metric{
		{"hallpass_sink_up", "1 while the last attempt to hand records over succeeded, or none was made.", of},
		{"hallpass_sink_lag_records", "Records that were not handed over yet.", of},
		{"hallpass_sink_lag_seconds", "How long the oldest of those has waited.", of},
		{"hallpass_sink_failures_total", "Attempts that failed.", of},
		{"hallpass_sink_last_failure_timestamp_seconds", "When the last attempt failed that did; 0 if none did.", of},
		{"hallpass_sink_rejected_events_total", "Events that the target refused for good.", of},
	}, func(put putMetric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		for _, s := range sinks {
			status := s.Status()
			put("hallpass_sink_up", number(status.Err == nil), status.Name)
			put("hallpass_sink_failures_total", float64(status.Failures), status.Name)
			put("hallpass_sink_rejected_events_total", float64(status.Rejected), status.Name)
			failed := 0.0
			if !status.Failed.IsZero() {
				failed = unixSeconds(status.Failed)
			}
			put("hallpass_sink_last_failure_timestamp_seconds", failed, status.Name)
			size, err := log.Size(ctx)
			if err != nil {
				continue
			}
			put("hallpass_sink_lag_records", float64(size-min(status.Next, size)), status.Name)
			if waiting, err := since(ctx, log, status.Next, now()); err == nil {
				put("hallpass_sink_lag_seconds", waiting.Seconds(), status.Name)
			}
		}
	})
}

// since is how long ago a record was committed; 0 if it is yet to come.
func since(ctx context.Context, log store.Reader, index uint64, now time.Time) (time.Duration, error) {
	records, err := log.Records(ctx, index, 1)
	if err != nil || len(records) == 0 {
		return 0, err
	}
	r, err := audit.Parse(records[0])
	if err != nil {
		return 0, err
	}
	return max(0, now.Sub(r.GetTime().AsTime())), nil
}

// watchWitnesses registers what the witnesses have. A witness has no name, so it goes by its place in the configuration, from 1 on.
func (m *metrics) watchWitnesses(witnesses []*witness, log *bolt.Store) {
	of := []string{"witness"}
	m.lookUp([]metric{
		{"hallpass_witness_up", "1 while the last push succeeded, or none was made.", of},
		{"hallpass_witness_lag_records", "Records that the newest checkpoint which it got since the daemon started does not cover.", of},
		{"hallpass_witness_push_timestamp_seconds", "When it got that one; 0 before the first.", of},
		{"hallpass_witness_failures_total", "Pushes that failed.", of},
	}, func(put putMetric) {
		size := log.Stats().Records
		for i, w := range witnesses {
			status, name := w.status(), strconv.Itoa(i+1)
			put("hallpass_witness_up", number(status.up), name)
			put("hallpass_witness_lag_records", float64(size-min(status.size, size)), name)
			at := 0.0
			if !status.at.IsZero() {
				at = unixSeconds(status.at)
			}
			put("hallpass_witness_push_timestamp_seconds", at, name)
			put("hallpass_witness_failures_total", float64(status.failures), name)
		}
	})
}

// watchIssuers registers how the keys of the issuers are, and how often a token had been verified before.
func (m *metrics) watchIssuers(v *idtoken.Verifier) {
	of := []string{"issuer"}
	m.lookUp([]metric{
		{"hallpass_issuer_up", "1 while ID tokens of the issuer can be verified, maybe with keys that could not be fetched again.", of},
		{"hallpass_issuer_keys", "Keys of the issuer that are at hand.", of},
		{"hallpass_issuer_keys_age_seconds", "How long ago they were fetched; missing if they never were.", of},
		{"hallpass_issuer_fetch_failures_total", "Attempts to fetch them that failed.", of},
		{"hallpass_token_cache_tokens", "Verified ID tokens that are remembered.", nil},
		{"hallpass_token_cache_hits_total", "ID tokens that had been verified before.", nil},
		{"hallpass_token_cache_misses_total", "ID tokens that had not.", nil},
	}, func(put putMetric) {
		for _, h := range v.Health() {
			put("hallpass_issuer_up", number(h.OK), h.Name)
			put("hallpass_issuer_keys", float64(h.Keys), h.Name)
			if h.Age >= 0 {
				put("hallpass_issuer_keys_age_seconds", h.Age.Seconds(), h.Name)
			}
			put("hallpass_issuer_fetch_failures_total", float64(h.Failures), h.Name)
		}
		cache := v.Cache()
		put("hallpass_token_cache_tokens", float64(cache.Tokens))
		put("hallpass_token_cache_hits_total", float64(cache.Hits))
		put("hallpass_token_cache_misses_total", float64(cache.Misses))
	})
}

// watchLists registers how old the lists are that the policy in force wants fetched.
func (m *metrics) watchLists(l *lists) {
	of := []string{"list"}
	m.lookUp([]metric{
		{"hallpass_list_age_seconds", "How long ago the list was fetched; missing if it never was.", of},
		{"hallpass_list_max_age_seconds", "How old the policy allows it to become.", of},
		{"hallpass_list_stale", "1 while it is older than that, or was never fetched: rules that ask for it fail.", of},
	}, func(put putMetric) {
		for _, s := range l.status() {
			if s.Age >= 0 {
				put("hallpass_list_age_seconds", s.Age.Seconds(), s.Name)
			}
			put("hallpass_list_max_age_seconds", s.MaxAge.Seconds(), s.Name)
			put("hallpass_list_stale", number(s.Age < 0 || s.Age > s.MaxAge), s.Name)
		}
	})
}

// watchCertificate registers until when the TLS certificate is good.
func (m *metrics) watchCertificate(until time.Time) {
	m.lookUp([]metric{
		{"hallpass_tls_certificate_expiry_timestamp_seconds", "When the daemon's own TLS certificate expires.", nil},
	}, func(put putMetric) { put("hallpass_tls_certificate_expiry_timestamp_seconds", unixSeconds(until)) })
}
