package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v4"
)

const watched = "metrics: {listen: \"127.0.0.1:0\"}\n"

// watchURL is a path of the address at which the daemon, in its newest run, serves metrics.
func watchURL(t testing.TB, s *stack.Stack, path string) string {
	t.Helper()
	text := s.Output.String()
	at := strings.LastIndex(text, `"msg":"metrics","address":"`)
	if at < 0 {
		t.Fatalf("the daemon serves no metrics:\n%s", text)
	}
	address, _, _ := strings.Cut(text[at+len(`"msg":"metrics","address":"`):], `"`)
	return "http://" + address + path
}

// get returns the status and the body of an answer.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// scraped is what a daemon says, as Prometheus reads it.
type scraped map[string]*dto.MetricFamily

func scrape(t testing.TB, s *stack.Stack) scraped {
	t.Helper()
	_, body := get(t, watchURL(t, s, "/metrics"))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// of returns the value of a metric whose labels have these values, in their order: of a histogram the number of observations, and
// -1 if there is none.
func (m scraped) of(name string, labels ...string) float64 {
	for _, one := range m[name].GetMetric() {
		var values []string
		for _, l := range one.GetLabel() {
			values = append(values, l.GetValue())
		}
		if !slices.Equal(values, labels) {
			continue
		}
		switch m[name].GetType() {
		case dto.MetricType_HISTOGRAM:
			return float64(one.GetHistogram().GetSampleCount())
		case dto.MetricType_COUNTER:
			return one.GetCounter().GetValue()
		}
		return one.GetGauge().GetValue()
	}
	return -1
}

// awaitMetric waits until a metric is as it should be, and returns that scrape.
func awaitMetric(t testing.TB, s *stack.Stack, what string, fits func(scraped) bool) scraped {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		m := scrape(t, s)
		if fits(m) {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("never: %s\n%s", what, s.Output)
		}
	}
}

// everything is a daemon that has one of all that is watched, and has begun with all of it.
func everything(t *testing.T) *stack.Stack {
	t.Helper()
	k := keep(t, `{"users": [{"email": "alice@example.com"}]}`)
	dir := t.TempDir()
	s := stack.New(t, onCall(k), insecureLists, watched, fmt.Sprintf("sinks: [{name: archive, file: %q}]\nwitnesses: [{file: %q, every: 1s}]\n",
		filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "witness.txt")))
	s.Run()
	s.Output.Await(t, 0, "list fetched")
	awaitMetric(t, s, "the keys of both issuers", func(m scraped) bool {
		return m.of("hallpass_issuer_up", "people") == 1 && m.of("hallpass_issuer_up", "ci") == 1
	})
	return s
}

// Each metric that is served is in docs/watching.md, with its labels, before anything happened; and each that is there is served.
func TestMetricsAreDocumented(t *testing.T) {
	s := everything(t)
	served := map[string][]string{}
	for name, family := range scrape(t, s) {
		if !strings.HasPrefix(name, "hallpass_") {
			continue
		}
		served[name] = []string{}
		for _, l := range family.GetMetric()[0].GetLabel() {
			served[name] = append(served[name], l.GetName())
		}
	}
	documented := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(hallpass_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(read(t, "../../docs/watching.md")), -1) {
		labels := append([]string{}, regexp.MustCompile("[a-z]+").FindAllString(row[2], -1)...)
		slices.Sort(labels)
		documented[row[1]] = labels
	}
	if diff := cmp.Diff(documented, served); diff != "" {
		t.Errorf("metrics (-documented +served):\n%s", diff)
	}
	posted, err := http.Post(watchURL(t, s, "/metrics"), "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer posted.Body.Close()
	if posted.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", posted.Status)
	}
}

// The configurations of docs/watching.md are such: the daemon takes the one, and the other names the job and the file of the alerts.
func TestTheWatchingPageConfigures(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(read(t, "../../docs/watching.md")), -1)
	if len(blocks) != 2 {
		t.Fatalf("the page has %d blocks of YAML", len(blocks))
	}
	s := stack.New(t, "", blocks[0][1])
	cfg, err := daemon.LoadConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Check(cfg); err != nil {
		t.Error(err)
	}
	var prometheus struct {
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
		RuleFiles []string `yaml:"rule_files"`
	}
	d := yaml.NewDecoder(strings.NewReader(blocks[1][1]))
	d.KnownFields(true)
	if err := d.Decode(&prometheus); err != nil {
		t.Fatal(err)
	}
	if job := prometheus.ScrapeConfigs[0]; job.JobName != "hallpass" || job.StaticConfigs[0].Targets[0] != cfg.Metrics.Listen {
		t.Errorf("Prometheus asks %+v, and the daemon listens at %s", job, cfg.Metrics.Listen)
	}
	if _, err := os.Stat(filepath.Join("../../docs/watching", prometheus.RuleFiles[0])); err != nil {
		t.Error(err)
	}
}

// The alerts and the dashboard ask for metrics, labels and bounds that the daemon serves. `make lint` has Prometheus parse them.
func TestAlertsAndDashboardAskForWhatIsServed(t *testing.T) {
	served := scrape(t, everything(t))
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				For                 string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(read(t, "../../docs/watching/alerts.yaml"))))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	asked := map[string]string{} // by where
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if asked["alert "+r.Alert] != "" {
				t.Errorf("two alerts are called %s", r.Alert)
			}
			asked["alert "+r.Alert] = r.Expr
			if severity := r.Labels["severity"]; severity != "warning" && severity != "critical" {
				t.Errorf("%s has the severity %q", r.Alert, severity)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say what it means", r.Alert)
			}
		}
	}
	for title, queries := range dashboard(t) {
		asked["panel "+title] = strings.Join(queries, "\n")
	}
	if len(asked) < 40 {
		t.Errorf("there are %d alerts and panels: were all read?", len(asked))
	}
	for where, query := range asked {
		names := regexp.MustCompile(`\bhallpass_[a-z_]+`).FindAllString(query, -1)
		if len(names) == 0 && !strings.Contains(query, `job="hallpass"`) {
			t.Errorf("%s asks for nothing of ours: %s", where, query)
		}
		for _, name := range names {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && served[base].GetType() == dto.MetricType_HISTOGRAM {
					name = base
				}
			}
			if served[name] == nil {
				t.Errorf("%s asks for %s, which is not served", where, name)
			}
		}
		for _, match := range regexp.MustCompile(`(hallpass_[a-z_]+?)(?:_bucket)?\{[^}]*\ble="([^"]+)"`).FindAllStringSubmatch(query, -1) {
			if !hasBound(served[match[1]], match[2]) {
				t.Errorf("%s asks for the bound %s, which %s does not have", where, match[2], match[1])
			}
		}
	}
}

func hasBound(family *dto.MetricFamily, bound string) bool {
	for _, m := range family.GetMetric() {
		for _, b := range m.GetHistogram().GetBucket() {
			if fmt.Sprint(b.GetUpperBound()) == bound {
				return true
			}
		}
	}
	return false
}

// dashboard returns the queries of docs/watching/dashboard.json by the titles of its panels, after it was looked at as Grafana does.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	type grid struct{ H, W, X, Y int }
	var board struct {
		UID, Title    string
		SchemaVersion int
		Templating    struct{ List []struct{ Name, Type string } }
		Panels        []struct {
			ID          int
			Type, Title string
			GridPos     grid
			Datasource  struct{ UID string }
			Targets     []struct {
				RefID, Expr string
				Datasource  struct{ UID string }
			}
		}
	}
	if err := json.Unmarshal(read(t, "../../docs/watching/dashboard.json"), &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title == "" || board.SchemaVersion == 0 || len(board.Templating.List) != 2 {
		t.Errorf("the dashboard lacks what Grafana needs: %+v", board)
	}
	ids, places, queries := map[int]bool{}, map[grid]bool{}, map[string][]string{}
	for _, p := range board.Panels {
		if ids[p.ID] || places[p.GridPos] || queries[p.Title] != nil || p.Title == "" {
			t.Errorf("two panels have the id, place or title of %q", p.Title)
		}
		ids[p.ID], places[p.GridPos] = true, true
		if p.GridPos.H <= 0 || p.GridPos.W <= 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s does not fit: %+v", p.Title, p.GridPos)
		}
		if p.Type == "row" {
			continue
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.RefID == "" || target.Datasource.UID != "${datasource}" {
				t.Errorf("%s has the target %+v", p.Title, target)
			}
			refs[target.RefID] = true
			queries[p.Title] = append(queries[p.Title], target.Expr)
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s shows nothing", p.Title)
		}
	}
	return queries
}

// What callers do shows: a certificate, the same again, a refusal, a stranger, and a follower.
func TestMetricsTellWhatHappened(t *testing.T) {
	s := stack.New(t, "", watched)
	s.Run()
	const issueMethod = "CertificateService/Issue"
	before := scrape(t, s)
	for _, name := range []string{"hallpass_certificates_issued_total", "hallpass_refusals_total", "hallpass_calls_total", "hallpass_strangers_total"} {
		for _, m := range before[name].GetMetric() {
			if m.GetCounter().GetValue() != 0 && m.GetLabel()[0].GetValue() != "OK" { // the stack itself discovers
				t.Errorf("%s begins as %v", name, m)
			}
		}
	}
	alice, api := s.Login("alice").SignIn, pb.NewCertificateServiceClient(s.Dial())
	ask := func(token string, login string) error {
		r := stack.Request(alice)
		r.Login = login
		signed, sig := stack.Sign(t, alice, ca.RequestNamespace, r)
		_, err := api.Issue(stack.Bearer(t.Context(), token), &pb.IssueRequest{Request: signed, Sshsig: sig})
		return err
	}
	signed, sig := stack.Sign(t, alice, ca.RequestNamespace, stack.Request(alice))
	for range 2 { // the same bytes
		if _, err := api.Issue(stack.Bearer(t.Context(), alice.Token), &pb.IssueRequest{Request: signed, Sshsig: sig}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(alice.Token, "nobody"); err == nil {
		t.Fatal("a login that no rule grants was granted")
	}
	if err := ask("not.a.token", "deploy"); err == nil {
		t.Fatal("a stranger got a certificate")
	}
	carol := s.Login("carol").SignIn
	follow, err := pb.NewAuditServiceClient(s.Dial()).FollowRecords(
		stack.Prove(t, carol, pb.AuditService_FollowRecords_FullMethodName), &pb.FollowRecordsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := follow.Recv(); err != nil {
		t.Fatal(err)
	}
	m := awaitMetric(t, s, "calls are counted when they end", func(m scraped) bool {
		return m.of("hallpass_calls_total", "Unauthenticated", issueMethod) == 1
	})
	for _, tt := range []struct {
		want float64
		name string
		of   []string // in the order of the names of the labels
	}{
		{1, "hallpass_certificates_issued_total", []string{"default", "staging"}},
		{0, "hallpass_certificates_issued_total", []string{"prod", "prod"}},
		{1, "hallpass_certificates_repeated_total", nil},
		{1, "hallpass_refusals_total", []string{"denied"}},
		{0, "hallpass_refusals_total", []string{"unauthenticated"}}, // a stranger's is none
		{1, "hallpass_strangers_total", []string{"unauthenticated"}},
		{0, "hallpass_rate_limited_total", []string{"address"}},
		{2, "hallpass_issue_duration_seconds", []string{"issued"}},
		{1, "hallpass_issue_duration_seconds", []string{"refused"}},
		{2, "hallpass_step_duration_seconds", []string{"decide"}},
		{2, "hallpass_step_duration_seconds", []string{"record"}},
		{2, "hallpass_step_duration_seconds", []string{"sign"}},
		{0, "hallpass_signature_failures_total", []string{"default"}},
		{2, "hallpass_calls_total", []string{"OK", issueMethod}},
		{1, "hallpass_calls_total", []string{"PermissionDenied", issueMethod}},
		{1, "hallpass_followers", nil},
		{0, "hallpass_log_dead", nil},
		{0, "hallpass_log_commit_failures_total", nil},
	} {
		if got := m.of(tt.name, tt.of...); got != tt.want {
			t.Errorf("%s%v is %v, want %v", tt.name, tt.of, got, tt.want)
		}
	}
	if hits, misses := m.of("hallpass_token_cache_hits_total"), m.of("hallpass_token_cache_misses_total"); hits < 2 || misses < 2 {
		t.Errorf("of the tokens %v were known and %v new", hits, misses)
	}
	if open := m.of("hallpass_connections"); open < 2 { // of the two clients that are left
		t.Errorf("%v connections are open", open)
	}
	records, commits := m.of("hallpass_log_records"), m.of("hallpass_log_commit_records")
	if commits < 2 || m.of("hallpass_log_sync_duration_seconds") < 2 || m.of("hallpass_log_bytes") <= 0 || m.of("hallpass_log_free_bytes") <= 0 {
		t.Errorf("the log says of itself: %v commits", commits)
	}
	awaitMetric(t, s, "the head catches up", func(m scraped) bool { return m.of("hallpass_log_head_lag_records") == 0 })
	if size := float64(len(s.Records())); size < records || records < 6 {
		t.Errorf("there were %v records, and in the end %v", records, size)
	}
}

// A sink that is down shows how far it is behind, delays nobody, and shows when it has caught up.
func TestASinkThatIsDownShows(t *testing.T) {
	var up atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer target.Close()
	s := stack.New(t, "", watched, fmt.Sprintf("sinks: [{name: soc, webhook: %q, key_file: keys/soc, insecure: true}]\n", target.URL))
	if err := os.WriteFile(filepath.Join(s.Dir, "keys", "soc"), []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run()
	issue(t, s, s.Forge("alice", nil)) // while the sink is down
	down := awaitMetric(t, s, "the sink shows that it is down", func(m scraped) bool {
		return m.of("hallpass_sink_up", "soc") == 0 && m.of("hallpass_sink_lag_records", "soc") == m.of("hallpass_log_records")
	})
	if down.of("hallpass_sink_lag_seconds", "soc") <= 0 || down.of("hallpass_sink_failures_total", "soc") < 1 ||
		down.of("hallpass_sink_last_failure_timestamp_seconds", "soc") <= 0 {
		t.Errorf("of the sink: %v", down["hallpass_sink_lag_seconds"])
	}
	up.Store(true)
	awaitMetric(t, s, "the sink has caught up", func(m scraped) bool {
		return m.of("hallpass_sink_up", "soc") == 1 && m.of("hallpass_sink_lag_records", "soc") == 0 && m.of("hallpass_sink_lag_seconds", "soc") == 0
	})
}

// A witness that gets nothing shows, and so does an issuer that is down.
func TestWitnessesAndIssuersThatAreDownShow(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nowhere", "witness.txt")
	s := stack.New(t, "", watched, fmt.Sprintf("witnesses: [{file: %q, every: 1s}]\n", file))
	address := strings.TrimPrefix(s.IDP.URL(), "http://")
	if err := s.IDP.Close(); err != nil {
		t.Fatal(err)
	}
	s.Run()
	m := awaitMetric(t, s, "both are down", func(m scraped) bool {
		return m.of("hallpass_witness_up", "1") == 0 && m.of("hallpass_issuer_fetch_failures_total", "people") > 0
	})
	if m.of("hallpass_witness_lag_records", "1") != m.of("hallpass_log_records") || m.of("hallpass_witness_failures_total", "1") < 1 ||
		m.of("hallpass_issuer_up", "people") != 0 || m.of("hallpass_issuer_keys_age_seconds", "people") != -1 {
		t.Errorf("they show as %v, %v", m["hallpass_witness_lag_records"], m["hallpass_issuer_up"])
	}
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.IDP.Listen(address); err != nil {
		t.Fatal(err)
	}
	awaitMetric(t, s, "both are up", func(m scraped) bool {
		return m.of("hallpass_witness_up", "1") == 1 && m.of("hallpass_witness_lag_records", "1") == 0 &&
			m.of("hallpass_issuer_up", "people") == 1 && m.of("hallpass_issuer_keys", "people") > 0
	})
}

// A daemon is sound while it serves. While it ends it is not ready, and lives until the calls under way have their answer.
func TestHealth(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	agent, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := stack.New(t, "", watched)
	edit(t, s.Dir, "{key: keys/ca-default}", "{agent: "+agent.Addr().String()+", public_key: keys/ca-default.pub}")
	s.Run()
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(t, watchURL(t, s, path)); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	alice := s.Login("alice").SignIn
	var ended sync.WaitGroup
	ended.Go(func() {
		_, err := s.Client().Issue(t.Context(), alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com"})
		if ca.KindOf(err) != ca.Unavailable {
			t.Errorf("with an agent that does not answer: %v", err)
		}
	})
	asked, err := agent.Accept() // a call is under way
	if err != nil {
		t.Fatal(err)
	}
	health, ready := watchURL(t, s, "/healthz"), watchURL(t, s, "/readyz")
	ended.Go(s.Stop)
	for code := http.StatusOK; code == http.StatusOK; time.Sleep(5 * time.Millisecond) {
		var body string
		if code, body = get(t, ready); code != http.StatusOK && (code != http.StatusServiceUnavailable || !strings.Contains(body, "ends")) {
			t.Errorf("while it ends: %d %s", code, body)
		}
	}
	if code, body := get(t, health); code != http.StatusOK {
		t.Errorf("/healthz while it ends: %d %s", code, body)
	}
	if err := agent.Close(); err != nil { // so that nobody asks again
		t.Error(err)
	}
	asked.Close()
	ended.Wait()
}

// A label never holds what a caller chose.
func TestLabelsNameNobody(t *testing.T) {
	s := stack.Start(t, "", watched)
	alice := s.Login("alice")
	issue(t, s, alice.SignIn)
	if _, err := s.Client().Issue(t.Context(), alice.SignIn, ca.Request{Login: "curious", Host: "app7.staging.example.com", Reason: "INC-4711"}); err == nil {
		t.Error("a login that no rule grants was granted")
	}
	_, body := get(t, watchURL(t, s, "/metrics"))
	words := append(stack.Secrets(alice.Token), "alice", "u-7f3a9c21", "deploy", "curious", "app1", "app7", "INC-4711", "127.0.0.1")
	for _, word := range words {
		if strings.Contains(body, word) {
			t.Errorf("the metrics hold %q", word)
		}
	}
	if names := slices.Sorted(maps.Keys(scrape(t, s))); len(names) < 60 {
		t.Errorf("only %d metrics were looked at: %v", len(names), names)
	}
}
