package daemon_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// collector is an OpenTelemetry collector, as far as traces over OTLP/HTTP go.
type collector struct {
	*httptest.Server

	mu     sync.Mutex // guards what follows
	spans  []*tracepb.Span
	raw    bytes.Buffer // all that came
	tokens []string
}

func collect(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request tracepb.TracesData // on the wire the same as ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		c.tokens = append(c.tokens, r.Header.Get("Authorization"))
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				c.spans = append(c.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// named returns the spans of a name.
func (c *collector) named(name string) []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*tracepb.Span
	for _, s := range c.spans {
		if s.GetName() == name {
			found = append(found, s)
		}
	}
	return found
}

// below returns the names of the spans below one, by the time of their beginning.
func (c *collector) below(parent *tracepb.Span) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var children []*tracepb.Span
	for _, s := range c.spans {
		if bytes.Equal(s.GetTraceId(), parent.GetTraceId()) && bytes.Equal(s.GetParentSpanId(), parent.GetSpanId()) {
			children = append(children, s)
		}
	}
	slices.SortStableFunc(children, func(a, b *tracepb.Span) int { return int(a.GetStartTimeUnixNano() - b.GetStartTimeUnixNano()) })
	var names []string
	for _, s := range children {
		names = append(names, s.GetName())
	}
	return names
}

func attributes(s *tracepb.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.GetAttributes() {
		all[a.GetKey()] = a.GetValue().GetStringValue()
		if _, whole := a.GetValue().GetValue().(*commonpb.AnyValue_IntValue); whole {
			all[a.GetKey()] = fmt.Sprint(a.GetValue().GetIntValue())
		}
	}
	return all
}

const issueSpan = "hallpass.v1.CertificateService/Issue"

// tracing is the configuration that sends spans to a URL.
func tracing(url string, ratio float64) string {
	return fmt.Sprintf("traces: {otlp: %q, insecure: true, ratio: %g}\n", url+"/v1/traces", ratio)
}

// A call is one span with its steps below it, and says what came of it. Nothing in it tells of who called, or with what.
func TestACallIsATrace(t *testing.T) {
	c := collect(t)
	s := stack.New(t, "", strings.Replace(tracing(c.URL, 1), "{", "{token_file: keys/otel, ", 1))
	write(t, filepath.Join(s.Dir, "keys", "otel"), "s3cret\n")
	s.Run()
	alice := s.Login("alice")
	issue(t, s, alice.SignIn)
	denied := ca.Request{Login: "curious", Host: "app7.staging.example.com", Reason: "INC-4711"}
	if _, err := s.Client().Issue(t.Context(), alice.SignIn, denied); ca.KindOf(err) != ca.Denied {
		t.Fatalf("a login that no rule grants: %v", err)
	}
	records := s.Records() // ends the daemon, which sends what is left
	spans := c.named(issueSpan)
	if len(spans) != 2 {
		t.Fatalf("two calls made %d spans", len(spans))
	}
	granted, refused := spans[0], spans[1]
	steps := []string{"authenticate", "possession", "bind", "decide", "record", "sign"}
	if diff := cmp.Diff(steps, c.below(granted)); diff != "" {
		t.Errorf("the steps of a certificate (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(steps[:5], c.below(refused)); diff != "" {
		t.Errorf("the steps of a refusal (-want +got):\n%s", diff)
	}
	if bytes.Equal(granted.GetTraceId(), refused.GetTraceId()) || len(granted.GetParentSpanId()) != 0 {
		t.Error("two calls are in one trace, or one has a parent")
	}
	for _, tt := range []struct {
		span *tracepb.Span
		want map[string]string
	}{
		{granted, map[string]string{
			"rpc.system.name": "grpc", "rpc.method": issueSpan, "rpc.response.status_code": "OK", "hallpass.outcome": "issued",
			"hallpass.environment": "staging", "hallpass.rule": "developers-on-staging", "hallpass.index": fmt.Sprint(len(records) - 2),
		}},
		{refused, map[string]string{
			"rpc.system.name": "grpc", "rpc.method": issueSpan, "rpc.response.status_code": "PermissionDenied", "hallpass.outcome": "denied",
			"hallpass.environment": "staging", "hallpass.index": fmt.Sprint(len(records) - 1),
		}},
	} {
		got := attributes(tt.span)
		if len(got["hallpass.request_id"]) != 16 || len(got["hallpass.policy.revision"]) != 40 {
			t.Errorf("the span says %v", got)
		}
		delete(got, "hallpass.request_id")
		delete(got, "hallpass.policy.revision")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
	}
	words := append(stack.Secrets(alice.Token), "alice", "u-7f3a9c21", "deploy", "curious", "app1", "app7", "INC-4711", "127.0.0.1", "s3cret")
	for _, word := range words {
		if bytes.Contains(c.raw.Bytes(), []byte(word)) {
			t.Errorf("the traces hold %q", word)
		}
	}
	for _, token := range c.tokens {
		if token != "Bearer s3cret" {
			t.Errorf("authorization: %q", token)
		}
	}
	if strings.Contains(s.Output.String(), "s3cret") {
		t.Error("the daemon wrote the token")
	}
}

// A caller that is traced is the parent of its call, up to a rate; one that says nonsense, or that it is not traced, gets what all
// others get. The ratio is so small that no call is chosen by chance.
func TestACallJoinsTheTraceOfItsCaller(t *testing.T) {
	c := collect(t)
	s := stack.New(t, "", tracing(c.URL, 1e-12))
	s.Run()
	api := pb.NewCertificateServiceClient(s.Dial())
	discover := func(traceparent ...string) {
		t.Helper()
		ctx := context.Background()
		for _, p := range traceparent {
			ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", p)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "tracestate", "rojo=00f067aa0ba902b7", "baggage", "who=alice")
		if _, err := api.Discover(ctx, &pb.DiscoverRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	discover("00-" + id + "-" + parent + "-01")
	for _, none := range []string{
		"00-" + id + "-" + parent + "-00", // not sampled
		"00-" + strings.Repeat("0", 32) + "-" + parent + "-01",
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01",
		"ff-" + id + "-" + parent + "-01",
		"00-" + id + "-" + parent + "-01-" + strings.Repeat("x", 4000),
		strings.Repeat("-", 55), "", "0",
	} {
		discover(none)
	}
	discover()
	discover("00-"+id+"-"+parent+"-01", "00-"+id+"-"+parent+"-01") // which of them?
	for range 200 {
		discover("00-" + strings.Repeat("1", 32) + "-" + parent + "-01")
	}
	s.Stop()
	var joined, flood int
	for _, span := range c.named("hallpass.v1.CertificateService/Discover") {
		switch hex.EncodeToString(span.GetTraceId()) {
		case id:
			joined++
			if hex.EncodeToString(span.GetParentSpanId()) != parent || span.GetTraceState() != "" {
				t.Errorf("the span is %v", span)
			}
		case strings.Repeat("1", 32):
			flood++
		default:
			t.Errorf("a call that nobody asked to trace was: %v", span)
		}
	}
	if joined != 1 || flood == 0 || flood > 100 { // ten at once, and ten a second
		t.Errorf("%d calls joined the trace, want 1; of a flood of 200, %d were traced", joined, flood)
	}
}

// A collector that is down, or that hangs, delays nobody: calls are answered while it holds their spans.
func TestACollectorThatHangsDelaysNobody(t *testing.T) {
	t.Parallel()
	release, held := make(chan struct{}), make(chan struct{}, 100)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	s := stack.New(t, "", watched, tracing(hanging.URL, 1))
	s.Run()
	alice := s.Forge("alice", nil)
	issue(t, s, alice)
	<-held // the spans are under way, and nobody answers
	for range 20 {
		issue(t, s, alice)
	}
	m := awaitMetric(t, s, "the spans are lost", func(m scraped) bool { return m.of("hallpass_trace_spans_lost_total") > 0 })
	if got := m.of("hallpass_trace_spans_sent_total"); got != 0 {
		t.Errorf("%v spans were sent", got)
	}
	if got := m.of("hallpass_certificates_issued_total", "default", "staging"); got != 21 {
		t.Errorf("%v certificates were issued", got)
	}
	s.Output.Await(t, 0, "the collector takes no traces")
}

func TestTracesThatAreNone(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{"{otlp: 'http://otel.example.com/v1/traces', insecure: true}", "must begin with https"},
		{"{otlp: 'http://127.0.0.1:4318/v1/traces'}", "http is allowed"},
		{"{otlp: 'https://user:secret@otel.example.com'}", "must not have a user"},
		{"{otlp: nowhere}", "not an absolute URL"},
		{"{ratio: 0.5}", "otlp is missing"},
		{"{otlp: 'https://otel.example.com', ratio: 1.5}", "not between 0 and 1"},
		{"{otlp: 'https://otel.example.com', ratio: -1}", "not between 0 and 1"},
		{"{otlp: 'https://otel.example.com', token_file: nowhere}", "nowhere"},
		{"{otlp: 'https://otel.example.com', ca_file: nowhere}", "nowhere"},
		{"{otlp: 'https://otel.example.com', sample: 1}", "sample"},
	} {
		t.Run(tt.config, func(t *testing.T) {
			s := stack.New(t, "", "traces: "+tt.config+"\n")
			cfg, err := daemon.LoadConfig(s.Config())
			if err == nil {
				err = daemon.Check(cfg)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "traces") && !strings.Contains(err.Error(), "sample") {
				t.Errorf("got %v, want an error about traces with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}
