package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
)

// record returns one of the records that a page holds.
func record(t testing.TB, e *pb.Entry) *pb.Record {
	t.Helper()
	var r pb.Record
	if err := proto.Unmarshal(e.GetRecord(), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// variedLog is a stack in whose log alice and bob have asked for several things.
func variedLog(t *testing.T) *stack.Stack {
	t.Helper()
	s := stack.Start(t, rules)
	alice, bob, c := s.Login("alice").SignIn, s.Login("bob").SignIn, s.Client()
	for i := range 4 {
		for _, who := range []client.SignIn{alice, bob} {
			host := fmt.Sprintf("APP%d.staging.example.com.", i)
			if _, err := c.Issue(t.Context(), who, ca.Request{Login: "deploy", Host: host}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Issue(t.Context(), alice, ca.Request{Login: "root", Host: "db1.prod.example.com"}); err == nil {
			t.Fatal("root on prod was granted")
		}
	}
	return s
}

func TestFilters(t *testing.T) {
	t.Parallel()
	s := variedLog(t)
	carol, c := auditor(s), s.Client()
	every, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	const aliceID, bobID = "u-7f3a9c21", "u-2be804d6"
	decided := func(want func(d *pb.Decided) bool) func(*pb.Record) bool {
		return func(r *pb.Record) bool { return r.GetDecided() != nil && want(r.GetDecided()) }
	}
	none := func(*pb.Record) bool { return false }
	for _, tt := range []struct {
		name string
		in   *pb.ListRecordsRequest
		fits func(*pb.Record) bool
	}{
		{"an email, in any case", &pb.ListRecordsRequest{Persons: []string{"Alice@Example.com"}, Events: []string{"decided"}},
			decided(func(d *pb.Decided) bool { return d.GetCaller().GetSubject() == aliceID })},
		{"an email or a subject", &pb.ListRecordsRequest{Persons: []string{"alice@example.com", bobID}, Decisions: []string{"granted"}},
			decided(func(d *pb.Decided) bool { return d.GetRefusal() == nil })},
		{"an email of nobody", &pb.ListRecordsRequest{Persons: []string{"eve@example.com"}}, none},
		{"a login", &pb.ListRecordsRequest{Logins: []string{"root"}}, decided(func(d *pb.Decided) bool { return d.GetAsked().GetLogin() == "root" })},
		{"a host, as nobody wrote it", &pb.ListRecordsRequest{Hosts: []string{"app2.STAGING.example.com"}},
			decided(func(d *pb.Decided) bool { return strings.HasPrefix(strings.ToLower(d.GetAsked().GetHost()), "app2.") })},
		{"a pattern of hosts", &pb.ListRecordsRequest{Hosts: []string{"*.prod.*", "app?.x"}}, decided(func(d *pb.Decided) bool { return d.GetAsked().GetLogin() == "root" })},
		{"an environment", &pb.ListRecordsRequest{Environments: []string{"staging"}}, decided(func(d *pb.Decided) bool { return d.GetDecision().GetEnvironment() == "staging" })},
		{"refusals", &pb.ListRecordsRequest{Decisions: []string{"denied", "needs"}}, decided(func(d *pb.Decided) bool { return d.GetRefusal() != nil })},
		{"all refusals", &pb.ListRecordsRequest{Decisions: []string{"refused"}}, decided(func(d *pb.Decided) bool { return d.GetRefusal() != nil })},
		{"all decisions", &pb.ListRecordsRequest{Decisions: []string{"granted", "refused"}}, decided(func(*pb.Decided) bool { return true })},
		{"a rule", &pb.ListRecordsRequest{Rules: []string{"developers"}}, decided(func(d *pb.Decided) bool { return d.GetDecision().GetRule() == "developers" })},
		{"a rule that there is not", &pb.ListRecordsRequest{Rules: []string{"nobody"}}, none},
		{"kinds of events", &pb.ListRecordsRequest{Events: []string{"genesis", "policy_loaded"}}, func(r *pb.Record) bool { return r.GetGenesis() != nil || r.GetPolicyLoaded() != nil }},
		{"an address", &pb.ListRecordsRequest{Sources: []string{"127.0.0.1"}}, decided(func(*pb.Decided) bool { return true })},
		{"another address", &pb.ListRecordsRequest{Sources: []string{"127.0.0.2", "2001:db8::1"}}, none},
		{"networks", &pb.ListRecordsRequest{Sources: []string{"10.0.0.0/8", "::ffff:127.0.0.0/104"}}, decided(func(*pb.Decided) bool { return true })},
		{"an expression", &pb.ListRecordsRequest{Where: `record.host.startsWith("app") && record.email == "bob@example.com"`},
			decided(func(d *pb.Decided) bool { return d.GetCaller().GetSubject() == bobID })},
		{"an expression and fields", &pb.ListRecordsRequest{Where: "record.index % 2 == 0", Persons: []string{aliceID}, Hosts: []string{"app*"}},
			func(r *pb.Record) bool {
				return r.GetIndex()%2 == 0 && r.GetDecided().GetCaller().GetSubject() == aliceID && r.GetDecided().GetAsked().GetLogin() == "deploy"
			}},
	} {
		var want []uint64
		for _, e := range every.GetEntries() {
			if r := record(t, e); tt.fits(r) {
				want = append(want, r.GetIndex())
			}
		}
		page, err := c.ListRecords(t.Context(), carol, tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(want, indexes(t, page.GetEntries())); diff != "" || page.GetOwn() || page.GetFailed() != 0 {
			t.Errorf("%s: own %v, failed %d; indexes (-want +got):\n%s", tt.name, page.GetOwn(), page.GetFailed(), diff)
		}
	}
	loaded := record(t, every.GetEntries()[len(every.GetEntries())-4]).GetPolicyLoaded().GetPolicy()
	page, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Policies: []string{fmt.Sprintf("%X", loaded.GetDigest())[:10]}, PageSize: 1000})
	if err != nil || len(page.GetEntries()) != 13 {
		t.Errorf("records by the beginning of the digest of the policy: %d, error %v, want its loading and 12 decisions", len(page.GetEntries()), err)
	}
}

func TestFiltersThatAreRefused(t *testing.T) {
	t.Parallel()
	s := variedLog(t)
	carol, c := auditor(s), s.Client()
	for _, tt := range []struct {
		name   string
		in     *pb.ListRecordsRequest
		kind   ca.Kind
		reason string
	}{
		{"a decision that there is not", &pb.ListRecordsRequest{Decisions: []string{"allow"}}, ca.Invalid, `no "allow"; there are granted, `},
		{"an event that there is not", &pb.ListRecordsRequest{Events: []string{"decide"}}, ca.Invalid, `no "decide"`},
		{"an empty login", &pb.ListRecordsRequest{Logins: []string{"deploy", ""}}, ca.Invalid, "logins: an empty value"},
		{"what is no address", &pb.ListRecordsRequest{Sources: []string{"localhost"}}, ca.Invalid, "sources"},
		{"a policy that was never in force", &pb.ListRecordsRequest{Policies: []string{"zzz"}}, ca.NotFound, "no policy was ever in force"},
		{"more values than are looked up", &pb.ListRecordsRequest{Hosts: make([]string, 101)}, ca.Invalid, "101 values"},
		{"an expression that does not compile", &pb.ListRecordsRequest{Where: "record.hots == 'x'"}, ca.Invalid, "did you mean record.host"},
		{"a scope that there is not", &pb.ListRecordsRequest{Scope: 9}, ca.Invalid, "scope"},
	} {
		if _, err := c.ListRecords(t.Context(), carol, tt.in); ca.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: got %v, want kind %v, about %s", tt.name, err, tt.kind, tt.reason)
		}
	}
	page, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Where: `record.host.split(".")[2] == "example"`})
	if err != nil || page.GetFailed() == 0 || !strings.Contains(page.GetFailure(), "index out of bounds") || len(page.GetEntries()) != 12 {
		t.Errorf("an expression that fails for some records: %d records, %d failed with %q, error %v", len(page.GetEntries()), page.GetFailed(), page.GetFailure(), err)
	}
}

// People without a role read what the log has about them, and nothing else; a refusal is recorded, a page of one's own is not.
func TestOwnRecords(t *testing.T) {
	t.Parallel()
	s := variedLog(t)
	alice, carol, c := s.Login("alice").SignIn, auditor(s), s.Client()
	every := func() (all []*pb.Record) {
		t.Helper()
		page, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{Scope: pb.RecordScope_RECORD_SCOPE_ALLOWED, PageSize: 1000})
		if err != nil || page.GetOwn() {
			t.Fatalf("what the auditor is allowed: own %v, error %v", page.GetOwn(), err)
		}
		for _, e := range page.GetEntries() {
			all = append(all, record(t, e))
		}
		return all
	}
	own, err := c.ListRecords(t.Context(), alice, &pb.ListRecordsRequest{Scope: pb.RecordScope_RECORD_SCOPE_OWN, PageSize: 1000})
	if err != nil || !own.GetOwn() || len(own.GetEntries()) < 8 {
		t.Fatalf("alice's own: %d records, own %v, error %v", len(own.GetEntries()), own.GetOwn(), err)
	}
	before := every() // with the sign-in, which the first call recorded
	mine := map[uint64]bool{}
	for _, e := range own.GetEntries() {
		r := record(t, e)
		mine[r.GetIndex()] = true
		if d := r.GetDecided(); d != nil && d.GetCaller().GetSubject() != "u-7f3a9c21" {
			t.Errorf("record %d is about %s", r.GetIndex(), d.GetCaller().GetSubject())
		}
	}
	for name, in := range map[string]*pb.ListRecordsRequest{
		"what she is allowed": {Scope: pb.RecordScope_RECORD_SCOPE_ALLOWED, PageSize: 1000},
		"her own by email":    {Scope: pb.RecordScope_RECORD_SCOPE_OWN, Persons: []string{"alice@example.com"}, PageSize: 1000},
	} {
		page, err := c.ListRecords(t.Context(), alice, in)
		if err != nil || !page.GetOwn() || len(page.GetEntries()) != len(own.GetEntries()) {
			t.Errorf("%s: %d records, own %v, error %v; want %d", name, len(page.GetEntries()), page.GetOwn(), err, len(own.GetEntries()))
		}
	}
	for name, in := range map[string]*pb.ListRecordsRequest{
		"bob by email":    {Scope: pb.RecordScope_RECORD_SCOPE_ALLOWED, Persons: []string{"bob@example.com"}},
		"bob by identity": {Scope: pb.RecordScope_RECORD_SCOPE_OWN, Issuer: s.IDP.URL(), Subject: "u-2be804d6"},
		"all but alice":   {Scope: pb.RecordScope_RECORD_SCOPE_OWN, Where: `record.email != "alice@example.com"`},
	} {
		if page, err := c.ListRecords(t.Context(), alice, in); err != nil || len(page.GetEntries()) != 0 {
			t.Errorf("%s: %d records, error %v, want none", name, len(page.GetEntries()), err)
		}
	}
	for index := range mine {
		if _, err := c.GetRecord(t.Context(), alice, index); err != nil {
			t.Errorf("record %d, which is alice's: %v", index, err)
		}
	}
	if after := every(); len(after) != len(before) {
		t.Errorf("%d records more for what alice may read", len(after)-len(before))
	}
	refused := 0
	for _, r := range every() {
		if mine[r.GetIndex()] || r.GetAccessRefused() != nil {
			continue
		}
		refused++
		if _, err := c.GetRecord(t.Context(), alice, r.GetIndex()); ca.KindOf(err) != ca.Denied {
			t.Errorf("record %d, which is not alice's: %v", r.GetIndex(), err)
		}
	}
	// Whether there is such a record is not for her to know either.
	if _, err := c.GetRecord(t.Context(), alice, 1<<40); ca.KindOf(err) != ca.Denied {
		t.Errorf("a record that there is not: %v, want that it is denied", err)
	}
	if _, err := c.ListRecords(t.Context(), alice, &pb.ListRecordsRequest{}); ca.KindOf(err) != ca.Denied {
		t.Errorf("everybody's records: %v, want that it is denied", err)
	}
	recorded := 0
	for _, r := range every() {
		if r.GetAccessRefused() != nil {
			recorded++
		}
	}
	if recorded != refused+2 {
		t.Errorf("%d refusals are recorded, want %d", recorded, refused+2)
	}
	if _, err := c.ListRecords(t.Context(), s.Workload("ci").SignIn, &pb.ListRecordsRequest{Scope: pb.RecordScope_RECORD_SCOPE_OWN}); ca.KindOf(err) != ca.Denied {
		t.Errorf("a job's own records: %v, want that it is denied", err)
	}
}

func TestCountRecords(t *testing.T) {
	t.Parallel()
	s := variedLog(t)
	alice, carol, c := s.Login("alice").SignIn, auditor(s), s.Client()
	count := func(who client.SignIn, of *pb.ListRecordsRequest) (*pb.CountRecordsResponse, map[string][3]uint64) {
		t.Helper()
		out, err := c.CountRecords(t.Context(), who, &pb.CountRecordsRequest{Of: of})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][3]uint64{}
		for _, tally := range out.GetTallies() {
			if !tally.GetLast().IsValid() {
				t.Errorf("%v has no time", tally)
			}
			got[tally.GetField()+" "+tally.GetValue()] = [3]uint64{tally.GetRecords(), tally.GetGranted(), tally.GetRefused()}
		}
		return out, got
	}
	_, got := count(carol, &pb.ListRecordsRequest{Events: []string{"decided"}})
	for name, want := range map[string][3]uint64{
		"event decided": {12, 8, 4}, "person alice@example.com": {8, 4, 4}, "person bob@example.com": {4, 4, 0}, "login deploy": {8, 8, 0},
		"login root": {4, 0, 4}, "host app0.staging.example.com": {2, 2, 0}, "decision granted": {8, 8, 0}, "decision denied": {4, 0, 4},
		"environment staging": {8, 8, 0}, "rule developers": {8, 8, 0}, "grant developers deploy": {8, 8, 0}, "source 127.0.0.1": {12, 8, 4},
	} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	if _, ok := got["event genesis"]; ok {
		t.Error("what the filter leaves out was counted")
	}
	_, got = count(carol, &pb.ListRecordsRequest{Where: `record.email == "bob@example.com"`, Logins: []string{"deploy"}})
	if want := [3]uint64{4, 4, 0}; got["event decided"] != want || len(got) == 0 {
		t.Errorf("bob's by an expression: %v, want %v", got["event decided"], want)
	}
	own, got := count(alice, &pb.ListRecordsRequest{Scope: pb.RecordScope_RECORD_SCOPE_ALLOWED})
	if _, ok := got["person bob@example.com"]; ok || !own.GetOwn() || got["person alice@example.com"][1] != 4 {
		t.Errorf("alice's own: %v", got)
	}
	if _, err := c.CountRecords(t.Context(), alice, &pb.CountRecordsRequest{}); ca.KindOf(err) != ca.Denied {
		t.Errorf("alice counts all: %v, want that it is denied", err)
	}
	if _, err := c.CountRecords(t.Context(), carol, &pb.CountRecordsRequest{}); err != nil {
		t.Errorf("all: %v", err)
	}
}
