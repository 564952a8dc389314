package sink

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"github.com/hallpass-ssh/hallpass/internal/version"
)

// OTLP sends events as log records to an OpenTelemetry collector, over OTLP/HTTP in its JSON form (opentelemetry-proto 1.x). The
// event as JSON is the body; what one searches by is in attributes, under the names of the Elastic Common Schema.
type OTLP struct {
	url    string
	header http.Header
	client *http.Client
}

// NewOTLP returns the target at a URL, usually ".../v1/logs". The header is sent along: a collector may want a token.
func NewOTLP(url string, header http.Header, via issuerhttp.Config) (*OTLP, error) {
	client, err := httpClient(url, via)
	return &OTLP{url, header, client}, err
}

// The severities of OTLP, opentelemetry/proto/logs/v1.
const (
	severityInfo = 9
	severityWarn = 13
)

type otlpRequest struct {
	ResourceLogs []otlpResourceLogs `json:"resourceLogs"`
}

type otlpResourceLogs struct {
	Resource  otlpResource    `json:"resource"`
	ScopeLogs []otlpScopeLogs `json:"scopeLogs"`
}

type otlpResource struct {
	Attributes []otlpAttribute `json:"attributes"`
}

type otlpScopeLogs struct {
	Scope      otlpScope    `json:"scope"`
	LogRecords []otlpRecord `json:"logRecords"`
}

type otlpScope struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type otlpRecord struct {
	TimeUnixNano   string          `json:"timeUnixNano"`
	SeverityNumber int             `json:"severityNumber"`
	SeverityText   string          `json:"severityText"`
	Body           otlpValue       `json:"body"`
	Attributes     []otlpAttribute `json:"attributes"`
}

type otlpAttribute struct {
	Key   string    `json:"key"`
	Value otlpValue `json:"value"`
}

type otlpValue struct {
	String string `json:"stringValue"`
}

func attribute(key, value string) otlpAttribute { return otlpAttribute{key, otlpValue{value}} }

// Send implements Target.
func (o *OTLP) Send(ctx context.Context, events []Event) error {
	records := make([]otlpRecord, len(events))
	for i, e := range events {
		var err error
		if records[i], err = otlpRecordOf(e); err != nil {
			return err
		}
	}
	body, err := json.Marshal(otlpRequest{[]otlpResourceLogs{{
		Resource:  otlpResource{[]otlpAttribute{attribute("service.name", "hallpassd"), attribute("service.instance.id", events[0].Own.Log)}},
		ScopeLogs: []otlpScopeLogs{{otlpScope{"hallpass", version.String()}, records}},
	}}})
	if err != nil {
		return err
	}
	answer, err := post(ctx, o.client, o.url, body, o.header.Clone())
	if err != nil {
		return err
	}
	return o.rejected(answer)
}

// rejected reports records that the collector will never take.
func (o *OTLP) rejected(answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	var out struct {
		PartialSuccess struct {
			Rejected json.Number `json:"rejectedLogRecords"` // an int64, which JSON of protobuf writes as text
			Message  string      `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return fmt.Errorf("post events: the answer of %s is not that of an OTLP collector: %w", o.url, err)
	}
	if n, err := out.PartialSuccess.Rejected.Int64(); err == nil && n > 0 {
		return &RejectedError{Count: n, Reason: issuerhttp.Clean(out.PartialSuccess.Message, 200)}
	}
	return nil
}

func otlpRecordOf(e Event) (otlpRecord, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return otlpRecord{}, err
	}
	r := otlpRecord{
		TimeUnixNano: strconv.FormatInt(e.Time.UnixNano(), 10), SeverityNumber: severityInfo, SeverityText: "INFO", Body: otlpValue{string(body)},
		Attributes: []otlpAttribute{
			attribute("event.id", e.Event.ID), attribute("event.action", e.Event.Action), attribute("event.outcome", e.Event.Outcome),
		},
	}
	if e.Event.Outcome == "failure" {
		r.SeverityNumber, r.SeverityText = severityWarn, "WARN"
	}
	for _, a := range e.searchable() {
		if a.Value.String != "" {
			r.Attributes = append(r.Attributes, a)
		}
	}
	return r, nil
}

// searchable is what people look for events by.
func (e Event) searchable() []otlpAttribute {
	out := []otlpAttribute{attribute("hallpass.environment", e.Own.Environment), attribute("hallpass.serial", e.Own.Serial)}
	if e.User != nil {
		out = append(out, attribute("user.id", e.User.ID), attribute("user.email", e.User.Email))
		if e.User.Target != nil {
			out = append(out, attribute("user.target.name", e.User.Target.Name))
		}
	}
	if e.Target != nil {
		out = append(out, attribute("destination.domain", e.Target.Domain))
	}
	if e.Rule != nil {
		out = append(out, attribute("rule.name", e.Rule.Name))
	}
	if e.Source != nil {
		out = append(out, attribute("source.ip", e.Source.IP))
	}
	if e.Own.Redelivered {
		out = append(out, attribute("hallpass.redelivered", "true"))
	}
	return out
}

// Close implements Target.
func (o *OTLP) Close() error {
	o.client.CloseIdleConnections()
	return nil
}
