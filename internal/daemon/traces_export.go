package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanCollector is where spans are posted, in the binary form of OTLP/HTTP (opentelemetry-proto 1.x). The exporter that OpenTelemetry
// has would link the gzip of gRPC, and the server would unpack whatever strangers send.
type spanCollector struct {
	url    string
	header http.Header
	client *http.Client
}

// newSpanCollector connects to nobody yet. It returns nil if there is nowhere to send spans.
func newSpanCollector(cfg *Config) (*spanCollector, error) {
	c := cfg.Traces
	if c.OTLP == "" {
		return nil, nil //nolint:nilnil // as said above
	}
	via := issuerhttp.Config{CAFile: cfg.path(c.CAFile), AllowInsecure: c.Insecure}
	if err := via.CheckEndpoint(c.OTLP); err != nil {
		return nil, fmt.Errorf("traces: otlp: %w", err)
	}
	client, err := via.Client()
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	header, err := bearerHeader(cfg, c.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return &spanCollector{c.OTLP, header, client}, nil
}

// post sends spans. TracesData is the same on the wire as the request of the collector, and always will be (trace.proto says so).
func (c *spanCollector) post(ctx context.Context, spans *tracepb.TracesData) error {
	body, err := proto.Marshal(spans)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = c.header.Clone()
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("User-Agent", "hallpassd")
	answer, err := c.client.Do(r)
	if err != nil {
		return fmt.Errorf("post spans: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body) // the client bounds it
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return fmt.Errorf("post spans: %s answered %s: %s", r.URL.Redacted(), answer.Status, issuerhttp.Clean(string(text), 200))
	case err != nil:
		return fmt.Errorf("post spans: read the answer of %s: %w", r.URL.Redacted(), err)
	}
	return nil
}

// exporter hands spans over, counts them, and tells the operators of a change. The SDK calls it once at a time.
type exporter struct {
	to      *spanCollector
	metrics *spanMetrics
	logger  *slog.Logger
	failing bool
}

// ExportSpans implements trace.SpanExporter of the SDK. It keeps its errors to itself.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	err := e.to.post(ctx, tracesData(spans))
	switch {
	case err != nil && !e.failing:
		e.logger.Warn("the collector takes no traces: they are lost until it does", "error", issuerhttp.Explain(err))
	case err == nil && e.failing:
		e.logger.Info("the collector takes traces again")
	}
	if e.failing = err != nil; e.failing {
		e.metrics.lost.Add(float64(len(spans)))
	} else {
		e.metrics.sent.Add(float64(len(spans)))
	}
	return nil
}

// Shutdown implements trace.SpanExporter of the SDK.
func (e *exporter) Shutdown(context.Context) error {
	e.to.client.CloseIdleConnections()
	return nil
}

var _ sdktrace.SpanExporter = (*exporter)(nil)

// tracesData are spans as the collector reads them. All are of this daemon and of one tracer.
func tracesData(spans []sdktrace.ReadOnlySpan) *tracepb.TracesData {
	scope := spans[0].InstrumentationScope()
	out := &tracepb.ScopeSpans{Scope: &commonpb.InstrumentationScope{Name: scope.Name, Version: scope.Version}}
	for _, s := range spans {
		out.Spans = append(out.Spans, spanOf(s))
	}
	resource := &resourcepb.Resource{Attributes: keyValues(spans[0].Resource().Attributes())}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{Resource: resource, ScopeSpans: []*tracepb.ScopeSpans{out}}}}
}

func spanOf(s sdktrace.ReadOnlySpan) *tracepb.Span {
	id, trace, parent := s.SpanContext().SpanID(), s.SpanContext().TraceID(), s.Parent().SpanID()
	out := &tracepb.Span{
		TraceId: trace[:], SpanId: id[:], Name: s.Name(), Flags: uint32(s.SpanContext().TraceFlags()),
		Kind:              tracepb.Span_SpanKind(s.SpanKind()), //nolint:gosec // the numbers are the same
		StartTimeUnixNano: uint64(s.StartTime().UnixNano()),    //nolint:gosec // after 1970
		EndTimeUnixNano:   uint64(s.EndTime().UnixNano()),      //nolint:gosec // likewise
		Attributes:        keyValues(s.Attributes()),
	}
	if s.Parent().SpanID().IsValid() {
		out.ParentSpanId = parent[:]
	}
	if s.Status().Code == codes.Error {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	}
	return out
}

func keyValues(attributes []attribute.KeyValue) []*commonpb.KeyValue {
	var out []*commonpb.KeyValue
	for _, a := range attributes {
		value := &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: a.Value.String()}}
		if a.Value.Type() == attribute.INT64 {
			value.Value = &commonpb.AnyValue_IntValue{IntValue: a.Value.AsInt64()}
		}
		out = append(out, &commonpb.KeyValue{Key: string(a.Key), Value: value})
	}
	return out
}
