package daemon

import (
	"fmt"
	"sync"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/prometheus/client_golang/prometheus"
)

// policyMetrics tells of the policy in force, of its source, and of what was refused.
type policyMetrics struct {
	now    func() time.Time
	issue  *issueMetrics
	info   *prometheus.GaugeVec
	since  prometheus.Gauge
	alarms *prometheus.GaugeVec
	counts *prometheus.CounterVec

	mu   sync.Mutex // guards last
	last time.Time  // when the source was last looked at with success
}

func newPolicyMetrics(r prometheus.Registerer, issue *issueMetrics, now func() time.Time, maxAge time.Duration) *policyMetrics {
	m := &policyMetrics{
		now: now, issue: issue, last: now(), // before the first look, the age is that of the daemon
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallpass_policy_info", Help: "Always 1; the commit and the digest of the policy in force are in the labels.",
		}, []string{"revision", "digest"}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hallpass_policy_loaded_timestamp_seconds", Help: "When the policy in force came into force.",
		}),
		alarms: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallpass_policy_alarm", Help: "1 while the newest policy is refused for this fault, until the next good one.",
		}, []string{"fault"}),
		counts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallpass_policy_refused_total", Help: "Policies that were refused and recorded, by fault.",
		}, []string{"fault"}),
	}
	for _, word := range faultWords() { // each is there from the start, so that an alarm can be written for it
		m.alarms.WithLabelValues(word).Set(0)
		m.counts.WithLabelValues(word)
	}
	r.MustRegister(m.info, m.since, m.alarms, m.counts,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hallpass_policy_source_checked_timestamp_seconds", Help: "When the source of the policy was last read with success.",
		}, func() float64 { return unixSeconds(m.checked()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hallpass_policy_source_age_seconds", Help: "How long ago the source of the policy was last read with success.",
		}, func() float64 { return m.sourceAge().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hallpass_policy_source_stale", Help: "1 while that is longer ago than policy.repository.max_age.",
		}, func() float64 {
			return number(maxAge > 0 && m.sourceAge() > maxAge)
		}))
	return m
}

// faultWords are all words for faults.
func faultWords() []string {
	var words []string
	for number := range int32(len(pb.PolicyFault_name)) {
		if f := pb.PolicyFault(number); f != pb.PolicyFault_POLICY_FAULT_UNSPECIFIED {
			words = append(words, faultWord(f))
		}
	}
	return words
}

func (m *policyMetrics) inForce(p *policy.Policy, since time.Time) {
	ref := p.Ref()
	m.info.Reset()
	m.info.WithLabelValues(ref.Revision, fmt.Sprintf("%x", ref.Digest)).Set(1)
	m.since.Set(unixSeconds(since))
	for _, e := range p.Environments() { // each is there before its first certificate
		m.issue.issued.WithLabelValues(e.Authority, e.Name)
	}
}

// looked says that the source was read.
func (m *policyMetrics) looked(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = at
}

func (m *policyMetrics) checked() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *policyMetrics) sourceAge() time.Duration { return max(0, m.now().Sub(m.checked())) }

// alarm raises the alarm for a fault. That the source cannot be reached says nothing about what was wrong before; anything else
// is about a newer look at it, and takes the place of the alarms before.
func (m *policyMetrics) alarm(f pb.PolicyFault) {
	if f != pb.PolicyFault_POLICY_FAULT_UNREADABLE {
		m.good()
	}
	m.alarms.WithLabelValues(faultWord(f)).Set(1)
}

// good ends all alarms.
func (m *policyMetrics) good() {
	for _, word := range faultWords() {
		m.alarms.WithLabelValues(word).Set(0)
	}
}

func (m *policyMetrics) refused(f pb.PolicyFault) { m.counts.WithLabelValues(faultWord(f)).Inc() }
