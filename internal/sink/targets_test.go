package sink_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"github.com/hallpass-ssh/hallpass/internal/sink"
)

// receiver is a web server that keeps what it is sent.
type receiver struct {
	*httptest.Server
	caFile string
	mu     sync.Mutex // guards what follows
	header []http.Header
	bodies [][]byte
	answer func(w http.ResponseWriter, n int) // n is how many came before; nil answers 200
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		n := len(r.bodies)
		r.header, r.bodies = append(r.header, req.Header.Clone()), append(r.bodies, body)
		if r.answer != nil {
			r.answer(w, n)
		}
	}))
	t.Cleanup(r.Close)
	r.caFile = filepath.Join(t.TempDir(), "ca.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(r.caFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWebhookIsSigned(t *testing.T) {
	w := newWorld(t)
	w.grant(2)
	r := newReceiver(t)
	r.answer = func(w http.ResponseWriter, n int) {
		if n == 0 {
			http.Error(w, "not \x1b[31mnow", http.StatusServiceUnavailable)
		}
	}
	key := []byte(strings.Repeat("k", 32))
	at := time.Unix(1_800_000_000, 0)
	hook, err := sink.NewWebhook(r.URL, key, issuerhttp.Config{CAFile: r.caFile}, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	w.sendAll(hook)
	if !strings.Contains(w.said.String(), "503") || strings.Contains(w.said.String(), "\x1b") {
		t.Errorf("the operators were told: %s", w.said)
	}
	for i, body := range r.bodies {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
		if got, want := r.header[i].Get("Hallpass-Signature"), fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil))); got != want {
			t.Errorf("delivery %d is signed %q, want %q", i, got, want)
		}
		if got, want := r.header[i].Get("Hallpass-Delivery"), fmt.Sprintf("%s/0/0-0/%d", w.id, w.size()-1); got != want {
			t.Errorf("delivery %d is named %q, want %q", i, got, want)
		}
		var events []sink.Event
		if err := json.Unmarshal(body, &events); err != nil {
			t.Fatal(err)
		}
		if got, again := len(events), events[0].Own.Redelivered; got != int(w.size()) || again != (i > 0) {
			t.Errorf("delivery %d has %d events, marked as again: %v", i, got, again)
		}
	}
	if _, err := sink.NewWebhook(r.URL, key[1:], issuerhttp.Config{}, time.Now); err == nil || !strings.Contains(err.Error(), "at least 32") {
		t.Errorf("with a short key: %v", err)
	}
	if _, err := sink.NewWebhook("http://hooks.example.com/", key, issuerhttp.Config{AllowInsecure: true}, time.Now); err == nil {
		t.Error("events would go over plain http to another machine")
	}
}

func TestOTLP(t *testing.T) {
	w := newWorld(t)
	w.grant(1)
	r := newReceiver(t)
	r.answer = func(w http.ResponseWriter, _ int) { fmt.Fprint(w, `{"partialSuccess":{}}`) }
	target, err := sink.NewOTLP(r.URL+"/v1/logs", http.Header{"Authorization": {"Bearer secret"}}, issuerhttp.Config{CAFile: r.caFile})
	if err != nil {
		t.Fatal(err)
	}
	w.sendAll(target)
	var got struct {
		ResourceLogs []struct {
			ScopeLogs []struct {
				LogRecords []struct {
					TimeUnixNano   string
					SeverityNumber int
					Body           struct{ StringValue string }
					Attributes     []struct {
						Key   string
						Value struct{ StringValue string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(r.bodies[0], &got); err != nil {
		t.Fatal(err)
	}
	if r.header[0].Get("Authorization") != "Bearer secret" {
		t.Error("the token was not sent")
	}
	records := got.ResourceLogs[0].ScopeLogs[0].LogRecords
	last := records[len(records)-1]
	attributes := map[string]string{}
	for _, a := range last.Attributes {
		attributes[a.Key] = a.Value.StringValue
	}
	want := map[string]string{
		"event.id": fmt.Sprintf("%s/0/%d", w.id, w.size()-1), "event.action": "certificate_granted", "event.outcome": "success",
		"hallpass.environment": "prod", "hallpass.serial": fmt.Sprint(w.size()), "user.id": "alice",
		"user.target.name": "deploy", "destination.domain": "db1.prod.example.com", "rule.name": "sre-on-prod",
	}
	for name, value := range want {
		if attributes[name] != value {
			t.Errorf("attribute %s is %q, want %q (all: %v)", name, attributes[name], value, attributes)
		}
	}
	var e sink.Event
	if err := json.Unmarshal([]byte(last.Body.StringValue), &e); err != nil {
		t.Fatal(err)
	}
	if last.TimeUnixNano != strconv.FormatInt(e.Time.UnixNano(), 10) || last.SeverityNumber != 9 {
		t.Errorf("time %s, severity %d of %v", last.TimeUnixNano, last.SeverityNumber, e.Time)
	}
}

func TestOTLPThatRefusesSome(t *testing.T) {
	for name, answer := range map[string]string{
		"as text":     `{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}`,
		"as a number": `{"partialSuccess":{"rejectedLogRecords":2,"errorMessage":"too old"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := newReceiver(t)
			r.answer = func(w http.ResponseWriter, _ int) { fmt.Fprint(w, answer) }
			target, err := sink.NewOTLP(r.URL, http.Header{}, issuerhttp.Config{CAFile: r.caFile})
			if err != nil {
				t.Fatal(err)
			}
			w.sendAll(target)
			if !strings.Contains(w.said.String(), "2 events were refused for good: too old") {
				t.Errorf("the operators were told: %s", w.said)
			}
		})
	}
}

// header is what a message of syslog begins with.
var header = regexp.MustCompile(`^<(85|84)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ hallpassd - [a-z_]{1,32} - (\{.*\})$`)

func checkMessages(t *testing.T, w *world, messages []string) {
	t.Helper()
	var got []string
	for _, m := range messages {
		parts := header.FindStringSubmatch(m)
		if parts == nil {
			t.Fatalf("%q is no message", m)
		}
		var e sink.Event
		if err := json.Unmarshal([]byte(parts[2]), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Event.Sequence))
	}
	if diff := cmp.Diff(sequence(0, w.size(), ""), got); diff != "" {
		t.Errorf("syslog got (-want +got):\n%s", diff)
	}
}

func TestSyslogOverTLSCountsOctets(t *testing.T) {
	w := newWorld(t)
	w.grant(3)
	certificate := newReceiver(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificate.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan []string)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			close(received)
			return
		}
		defer conn.Close()
		var messages []string
		for r := bufio.NewReader(conn); ; {
			count, err := r.ReadString(' ')
			if err != nil {
				break
			}
			n, err := strconv.Atoi(strings.TrimSuffix(count, " "))
			if err != nil {
				t.Error(err)
				break
			}
			message := make([]byte, n)
			if _, err := io.ReadFull(r, message); err != nil {
				t.Error(err)
				break
			}
			messages = append(messages, string(message))
		}
		received <- messages
	}()
	roots := certificate.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs //nolint:errcheck // httptest makes it so
	target, err := sink.NewSyslog("tls", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	w.sendAll(target)
	checkMessages(t, w, <-received)
}

func TestSyslogServerThatHangsUpIsNoticed(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	connections := 0
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			connections++
			first := connections == 1
			mu.Unlock()
			if first { // takes the first bytes, and goes
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.Close()
				continue
			}
			go func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }()
		}
	}()
	target, err := sink.NewSyslog("tcp", l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, done := w.run(target)
	defer done()
	w.await(func() bool { // one record after the other, until the server was called again
		w.grant(1)
		mu.Lock()
		defer mu.Unlock()
		return connections > 1
	})
	w.await(func() bool { return s.Status().Next == w.size() })
}

func TestSyslogOfThisMachine(t *testing.T) {
	w := newWorld(t)
	w.grant(3)
	path := filepath.Join(t.TempDir(), "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	messages := make(chan string, 100)
	go func() {
		defer close(messages)
		for b := make([]byte, 1<<17); ; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			messages <- string(b[:n])
		}
	}()
	target, err := sink.NewSyslog("unixgram", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.sendAll(target)
	var got []string
	for range w.size() {
		got = append(got, <-messages)
	}
	checkMessages(t, w, got)
}

func TestNoOtherNetworkForSyslog(t *testing.T) {
	if _, err := sink.NewSyslog("udp", "127.0.0.1:514", nil); err == nil || !strings.Contains(err.Error(), "tls, tcp or unixgram") {
		t.Error(err)
	}
}
