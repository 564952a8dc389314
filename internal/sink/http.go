package sink

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

// Webhook posts events as a JSON array. Each request carries "Hallpass-Signature: t=<Unix seconds>,v1=<HMAC-SHA256 in hexadecimal>"
// over the seconds, a dot and the body, so that the receiver knows who sent it and that it is not an old one. Any 2xx takes them.
type Webhook struct {
	url    string
	key    []byte
	client *http.Client
	now    func() time.Time
}

// minHMACKey is in bytes.
const minHMACKey = 32

// NewWebhook returns the target at a URL. The key signs; it has at least 32 bytes.
func NewWebhook(url string, key []byte, via issuerhttp.Config, now func() time.Time) (*Webhook, error) {
	if len(key) < minHMACKey {
		return nil, fmt.Errorf("the HMAC key has %d bytes, and needs at least %d", len(key), minHMACKey)
	}
	client, err := httpClient(url, via)
	return &Webhook{url, key, client, now}, err
}

func httpClient(url string, via issuerhttp.Config) (*http.Client, error) {
	if err := via.CheckEndpoint(url); err != nil {
		return nil, err
	}
	client, err := via.Client()
	if err == nil {
		client.Timeout = sendTimeout
	}
	return client, err
}

// Send implements Target.
func (w *Webhook) Send(ctx context.Context, events []Event) error {
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	at := strconv.FormatInt(w.now().Unix(), 10)
	mac := hmac.New(sha256.New, w.key)
	mac.Write([]byte(at + "."))
	mac.Write(body)
	_, err = post(ctx, w.client, w.url, body, http.Header{
		"Hallpass-Signature": {"t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))},
		"Hallpass-Delivery":  {deliveryName(events)},
	})
	return err
}

// deliveryName is "<log id>/<epoch>/<index>-<epoch>/<index>", of the first event and the last. The same delivery has the same name, so
// that a receiver can tell one that it has had.
func deliveryName(events []Event) string {
	last := events[len(events)-1]
	return events[0].Event.ID + "-" + strings.TrimPrefix(last.Event.ID, last.Own.Log+"/")
}

// Close implements Target.
func (w *Webhook) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

// post sends JSON and returns the answer of a 2xx.
func post(ctx context.Context, client *http.Client, url string, body []byte, header http.Header) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "hallpassd")
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("post events: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, fmt.Errorf("post events: %s answered %s: %s", r.URL.Redacted(), answer.Status, issuerhttp.Clean(string(text), 200))
	case err != nil:
		return nil, fmt.Errorf("post events: read the answer of %s: %w", r.URL.Redacted(), err)
	}
	return text, nil
}
