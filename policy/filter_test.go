package policy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// aRefusal is a record with something in each field that filters see.
func aRefusal(t testing.TB) (*pb.Record, func() ([]byte, error)) {
	t.Helper()
	snapshot, err := proto.Marshal(&pb.IdentitySnapshot{Email: "alice@example.com", Groups: []string{"dba", "sre"}})
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Record{
		Index: 17, Time: timestamppb.New(time.Date(2026, 11, 25, 22, 0, 0, 0, time.UTC)),
		Event: &pb.Record_Decided{Decided: &pb.Decided{
			Caller: &pb.Caller{Issuer: "https://id.example.com", Subject: "u-1", Kind: pb.CallerKind_CALLER_KIND_PERSON},
			Token:  &pb.TokenFacts{Bound: true},
			Asked: &pb.Asked{
				Login: "deploy", Host: "DB1.prod.example.com.", Ttl: durationpb.New(2 * time.Hour), Reason: "ticket 4711", KeyType: "ssh-ed25519",
				BreakGlass: true, SourceIp: "192.0.2.7",
			},
			Policy:   &pb.PolicyRef{Revision: "8f14e45f", Digest: make([]byte, 32)},
			Decision: &pb.Decision{Environment: "prod", Rule: "change-freeze"},
			Refusal:  &pb.Refusal{Kind: pb.ErrorKind_ERROR_KIND_DENIED, Message: "frozen"},
		}},
	}, func() ([]byte, error) { return snapshot, nil }
}

func TestFilterMatches(t *testing.T) {
	filters, err := policy.NewFilters()
	if err != nil {
		t.Fatal(err)
	}
	refusal, snapshot := aRefusal(t)
	genesis := &pb.Record{Time: timestamppb.Now(), Event: &pb.Record_Genesis{Genesis: &pb.Genesis{}}}
	for _, tt := range []struct {
		where   string
		refusal bool
		genesis bool
	}{
		{`record.host.endsWith(".prod.example.com")`, true, false},
		{`record.host == "db1.prod.example.com" && record.login == "deploy"`, true, false},
		{`record.decision == "denied" && record.event == "decided"`, true, false},
		{`record.decision == ""`, false, true},
		{`record.decision in ["needs", "granted"]`, false, false},
		{`record.email == "alice@example.com"`, true, false},
		{`"sre" in record.groups`, true, false},
		{`record.groups.exists(g, g.startsWith("db"))`, true, false},
		{`record.groups.size() == 0`, false, true},
		{`record.time < timestamp("2026-11-26T00:00:00Z") && record.time.getHours() == 22 && record.index > 0`, true, false},
		{`record.ttl > duration("1h")`, true, false},
		{`record.reason.matches("[0-9]{4}")`, true, false},
		{`record.break_glass || record.index == 0`, true, true},
		{`record.caller == "person" && record.bound`, true, false},
		{`record.rule == "change-freeze" && record.environment == "prod" && record.message == "frozen"`, true, false},
		{`record.policy.startsWith("8f14") && record.policy_digest.startsWith("00")`, true, false},
		{`record.source_ip != "" && cidr("192.0.2.0/24").containsIP(record.source_ip)`, true, false},
		{`record.issuer.contains("id.example") && record.subject == "u-1"`, true, false},
		{`record.key_type == "ssh-ed25519" && record.authority == "" && record.method == ""`, true, false},
		{`true`, true, true},
	} {
		f, err := filters.Compile(tt.where)
		if err != nil {
			t.Errorf("%s: %v", tt.where, err)
			continue
		}
		for name, want := range map[string]bool{"refusal": tt.refusal, "genesis": tt.genesis} {
			r, blob := refusal, snapshot
			if name == "genesis" {
				r, blob = genesis, func() ([]byte, error) { return nil, nil }
			}
			if got, err := f.Match(t.Context(), r, blob); got != want || err != nil {
				t.Errorf("%s, of a %s: %v, error %v, want %v", tt.where, name, got, err, want)
			}
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	filters, err := policy.NewFilters()
	if err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]string{
		"":                                  "at 1: ",
		`record.hots == "db1"`:              "no such variable record.hots; did you mean record.host?",
		`record == "db1"`:                   "name one of its parts",
		`record.host.endswith("x")`:         "at 21: ",
		`record.host`:                       "gives string, and must give bool",
		`record.index`:                      "gives int, and must give bool",
		`record.decision == "grunted"`:      `never "grunted"; did you mean granted?`,
		`"decide" == record.event`:          `never "decide"`,
		`record.caller in ["robot"]`:        `never "robot"`,
		`record.host == `:                   "the expression ends too early",
		`record.host.matches("(")`:          "at ",
		`request.host == "x"`:               "undeclared reference",
		`record.host.matches(record.login)`: "must be a literal",
		`record.index == "17"`:              "cannot apply == to",
		`record.groups.exists(a, record.groups.exists(b, record.groups.exists(c, a == b && b == c)))`: "at ",
		`record.groups.all(a, record.groups.all(b, a == b))`:                                          "at ",
		`record.time > timestamp("yesterday")`:                                                        "at ",
		strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60):                                    "at ",
		strings.Repeat("true||", 2000) + "true":                                                       "at ",
	} {
		if _, err := filters.Compile(where); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error %v, want one with %q", where, err, want)
		}
	}
}

// A filter that fails for a record says so, and one whose time is over, or whose identity cannot be read, is no failure of the filter.
func TestFilterFails(t *testing.T) {
	filters, err := policy.NewFilters()
	if err != nil {
		t.Fatal(err)
	}
	f, err := filters.Compile(`record.host.split(".")[7] == "x" || record.email == "x"`)
	if err != nil {
		t.Fatal(err)
	}
	r, snapshot := aRefusal(t)
	if _, err := f.Match(t.Context(), r, snapshot); !isFilterError(err) || !strings.Contains(err.Error(), "index out of bounds") {
		t.Errorf("error %v, want that the index is out of bounds", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Match(ctx, r, snapshot); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	broken := errors.New("disk")
	if f, err = filters.Compile(`record.email == "x"`); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Match(t.Context(), r, func() ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func isFilterError(err error) bool {
	_, ok := errors.AsType[*policy.FilterError](err)
	return ok
}
