package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/version"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const (
	// traceRatio is how many of the calls are traced unless the configuration says otherwise.
	traceRatio = 0.1
	// askedTraces is how many traces a second callers can ask for, and at once: whoever can connect can ask.
	askedTraces = 10
	// exportTimeout bounds one attempt to hand spans over, lastExportTimeout the one that a daemon which ends waits for.
	exportTimeout     = 5 * time.Second
	lastExportTimeout = 2 * time.Second
	// healthService is what load balancers call all the time. It is not traced.
	healthService = "/grpc.health."
)

// TracesConfig says where the spans of calls are sent: to an OpenTelemetry collector, over OTLP/HTTP.
type TracesConfig struct {
	// OTLP is an https URL, usually .../v1/traces; empty for none. TokenFile holds a bearer token for it; default none.
	OTLP      string `yaml:"otlp"`
	TokenFile string `yaml:"token_file"`
	// CAFile holds the roots that the TLS certificate of the collector chains to; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Insecure allows plain http, to a loopback address only.
	Insecure bool `yaml:"insecure"`
	// Ratio is how many of the calls are traced, above 0 and at most 1; default 0.1.
	Ratio float64 `yaml:"ratio"`
}

func (c TracesConfig) validate() error {
	switch {
	case c.OTLP == "" && c != TracesConfig{}:
		return errors.New("otlp is missing: where should they go?")
	case c.Ratio < 0 || c.Ratio > 1:
		return fmt.Errorf("ratio: %v is not between 0 and 1", c.Ratio)
	}
	return nil
}

// bearerHeader returns the header with the token in a file, if one is named.
func bearerHeader(cfg *Config, file string) (http.Header, error) {
	header := http.Header{}
	if file == "" {
		return header, nil
	}
	token, err := readSecret(cfg, "token_file", file)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(string(token)) != string(token) || strings.ContainsAny(string(token), "\r\n") {
		return nil, fmt.Errorf("token_file: %s must hold one line", file)
	}
	header.Set("Authorization", "Bearer "+string(token))
	return header, nil
}

// spanMetrics counts the spans that left.
type spanMetrics struct{ sent, lost prometheus.Counter }

func newSpanMetrics(r prometheus.Registerer) *spanMetrics {
	m := &spanMetrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "hallpass_trace_spans_sent_total", Help: "Spans that the collector took."}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "hallpass_trace_spans_lost_total", Help: "Spans in batches that the collector did not take."}),
	}
	r.MustRegister(m.sent, m.lost)
	return m
}

// traces makes the spans of calls: one for the call and, below it, one for each step. They say what came of a call and by which
// rule, and nothing about who called. A nil one makes none.
type traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// newTraces begins to send spans, in batches and in the background: what the collector does not take is lost, and nobody waits.
func newTraces(to *spanCollector, ratio float64, logID string, m *spanMetrics, logger *slog.Logger) *traces {
	if to == nil {
		return nil
	}
	if ratio == 0 {
		ratio = traceRatio
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&exporter{to: to, metrics: m, logger: logger}, sdktrace.WithExportTimeout(exportTimeout)),
		sdktrace.WithSampler(&sampler{ratio: ratio, asked: rate.NewLimiter(askedTraces, askedTraces)}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "hallpassd"), attribute.String("service.version", version.String()),
			attribute.String("service.instance.id", logID),
		)),
	)
	return &traces{provider, provider.Tracer("hallpass", trace.WithInstrumentationVersion(version.String()))}
}

// close sends what is left, if that does not take long.
func (t *traces) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastExportTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what is lost was counted
}

// begin begins the span of a call, as part of the trace that the caller names, if it names one.
func (t *traces) begin(ctx context.Context, method, traceparent string) context.Context {
	if strings.HasPrefix(method, healthService) {
		return ctx
	}
	if traceparent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
	}
	name := strings.TrimPrefix(method, "/")
	ctx, _ = t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), //nolint:spancheck // end ends it
		trace.WithAttributes(attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", name)))
	return ctx
}

// end ends the span of a call.
func (t *traces) end(ctx context.Context, requestID, code string) {
	span := trace.SpanFromContext(ctx)
	if t == nil || !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("rpc.response.status_code", code), attribute.String("hallpass.request_id", requestID))
	switch code { // those of a server that is at fault
	case "Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss":
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// step adds the span of a step that has just ended.
func (t *traces) step(ctx context.Context, s ca.Step, began time.Time) {
	if t == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	_, span := t.tracer.Start(ctx, s.String(), trace.WithTimestamp(began))
	span.End()
}

// outcome says in the span of a call what came of it.
func (t *traces) outcome(ctx context.Context, issued *ca.Issued, err error) {
	span := trace.SpanFromContext(ctx)
	if t == nil || !span.IsRecording() {
		return
	}
	say := func(outcome, environment, rule, revision string, index uint64) {
		span.SetAttributes(attribute.String("hallpass.outcome", outcome), attribute.Int64("hallpass.index", int64(index))) //nolint:gosec // no log is that long
		for _, a := range []attribute.KeyValue{
			attribute.String("hallpass.environment", environment), attribute.String("hallpass.rule", rule), attribute.String("hallpass.policy.revision", revision),
		} {
			if a.Value.AsString() != "" {
				span.SetAttributes(a)
			}
		}
	}
	e, _ := errors.AsType[*ca.Error](err)
	switch {
	case issued != nil:
		say("issued", issued.Decision.Environment.Name, issued.Decision.Rule, issued.Policy.Revision, issued.Index)
	case e != nil && e.Refused != nil:
		say(e.Kind.String(), e.Refused.Environment, e.Refused.Rule, e.Refused.Policy.Revision, e.Refused.Index)
	default: // it is in no record
		span.SetAttributes(attribute.String("hallpass.outcome", ca.KindOf(err).String()))
	}
}

// sampler chooses the calls that are traced. The daemon chooses by itself: a caller could give its trace a number that is always
// chosen. One that says it is traced already is heeded within a rate.
type sampler struct {
	ratio float64
	asked *rate.Limiter
}

// ShouldSample implements trace.Sampler of the SDK.
func (s *sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	sampled := rand.Float64() < s.ratio //nolint:gosec // nothing depends on it
	switch {
	case !parent.IsValid():
	case !parent.IsRemote(): // a step goes with its call
		sampled = parent.IsSampled()
	case parent.IsSampled() && s.asked.Allow():
		sampled = true
	}
	if sampled {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

// Description implements trace.Sampler of the SDK.
func (s *sampler) Description() string { return fmt.Sprintf("hallpass(%g)", s.ratio) }
