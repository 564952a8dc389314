//go:build linux

package bench_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

// rounds is how often everything is measured. What is compared is measured in turns, because a machine has phases.
const rounds = 3

// A point is one thing to measure of a daemon.
type point struct {
	tokens   string // "reused" or "fresh"
	clients  int
	requests int // in each round
}

var points = []point{
	{"reused", 1, 300}, {"reused", 8, 1200}, {"reused", 64, 4000}, {"reused", maxClients, 6000},
	{"fresh", 1, 300}, {"fresh", 8, 1200}, {"fresh", 64, 3000}, {"fresh", maxClients, 4000},
}

// maxClients fill all streams of all connections.
const maxClients = 256

// result is what a point came to, of one daemon, over all rounds.
type result struct {
	daemon string
	point
	total sample
	bare  *sample // of the bare server at the same point
}

func TestMain(m *testing.M) {
	if os.Getenv(bareVariable) != "" {
		if err := serveBare(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bare server:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// BenchmarkIssue measures everything first, prints it as a table, and then reports it line by line in the form that benchstat
// reads.
func BenchmarkIssue(b *testing.B) {
	w := newWorld(b)
	servers := append([]*daemon{w.bare}, w.daemons...)
	results := make([]*result, 0, len(servers)*len(points))
	for _, d := range servers {
		for _, p := range points {
			results = append(results, &result{daemon: d.name, point: p})
		}
	}
	var floors []floor
	for range rounds {
		floors = append(floors, w.measureFloor(b))
		for i, p := range points {
			for n, d := range servers {
				w.warm(b, d, p)
				results[n*len(points)+i].total.add(w.measure(b, d, p))
			}
		}
	}
	for i, r := range results {
		r.bare = &results[i%len(points)].total
	}
	f := mean(floors)
	told := w.describe(b) + f.describe() + table(f, results)
	for _, d := range w.daemons {
		told += fmt.Sprintf("memory   of %s: %.0f MB, without what is mapped\n", d.name, d.memory(b))
	}
	fmt.Fprintln(os.Stdout, told+w.measureCompany(b, w.daemons[0]))
	for _, r := range results {
		b.Run(fmt.Sprintf("daemon=%s/tokens=%s/clients=%d", r.daemon, r.tokens, r.clients), func(b *testing.B) { r.report(b, f) })
	}
}

func (r *result) report(b *testing.B, f floor) {
	s := r.total
	b.ReportMetric(0, "ns/op") // nothing was done b.N times
	b.ReportMetric(s.rate(), "certs/s")
	b.ReportMetric(milliseconds(s.percentile(50)), "p50-ms")
	b.ReportMetric(milliseconds(s.percentile(99)), "p99-ms")
	b.ReportMetric(1000*s.cpu(), "server-ms/cert")
	b.ReportMetric(s.rate()/f.rate(r.point), "of-floor-rate")
	b.ReportMetric(s.cpu()/f.server(r.tokens).Seconds(), "x-floor-cpu")
	b.ReportMetric(s.cpu()/r.bare.cpu(), "x-bare-cpu")
}

// table is what a person reads.
func table(f floor, results []*result) string {
	text := fmt.Sprintf("\n%-6s %-6s %7s | %8s %7s %7s %10s %10s | %6s %6s %6s %6s | %5s\n", "daemon", "tokens", "clients",
		"certs/s", "p50 ms", "p99 ms", "server ms", "client ms", "rate", "p50", "CPU", "bare", "cores")
	for _, r := range results {
		s := r.total
		text += fmt.Sprintf("%-6s %-6s %7d | %8.0f %7.2f %7.2f %10.3f %10.3f | %5.0f%% %5.2fx %5.2fx %5.2fx | %5.2f\n",
			r.daemon, r.tokens, r.clients, s.rate(), milliseconds(s.percentile(50)), milliseconds(s.percentile(99)), 1000*s.cpu(), 1000*s.client(),
			100*s.rate()/f.rate(r.point), s.percentile(50).Seconds()*f.rate(r.point)/float64(r.clients), s.cpu()/f.server(r.tokens).Seconds(), s.cpu()/r.bare.cpu(),
			(s.serverCPU+s.clientCPU).Seconds()/s.elapsed.Seconds())
	}
	return text + `
server ms and client ms are CPU per certificate; rate, p50 and CPU are ratios to the floor, bare is that of the CPU to the bare server's;
cores is how many were kept busy.

`
}

// sample is what was seen of some requests.
type sample struct {
	requests  int
	elapsed   time.Duration
	latencies []time.Duration
	serverCPU time.Duration // of the process that answered
	clientCPU time.Duration // of this one
}

func (s *sample) add(other sample) {
	s.requests += other.requests
	s.elapsed += other.elapsed
	s.latencies = append(s.latencies, other.latencies...)
	s.serverCPU += other.serverCPU
	s.clientCPU += other.clientCPU
	slices.Sort(s.latencies)
}

// rate is in requests per second.
func (s *sample) rate() float64 { return float64(s.requests) / s.elapsed.Seconds() }

// cpu is that of the server, in seconds per request.
func (s *sample) cpu() float64 { return s.serverCPU.Seconds() / float64(s.requests) }

// client is the CPU of the client, in seconds per request.
func (s *sample) client() float64 { return s.clientCPU.Seconds() / float64(s.requests) }

func (s *sample) percentile(p int) time.Duration { return s.latencies[(len(s.latencies)-1)*p/100] }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func cores() float64 { return float64(runtime.GOMAXPROCS(0)) }
