package audit_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestWordsHaveTheNumbersOfTheWire holds what conversions rely on.
func TestWordsHaveTheNumbersOfTheWire(t *testing.T) {
	got := []int{int(ca.Allow), int(ca.Deny), int(ca.NeedsMore), int(ca.NeedReason), int(ca.NeedFreshLogin), int(ca.Person), int(ca.Workload)}
	want := []int{
		int(pb.Outcome_OUTCOME_ALLOW), int(pb.Outcome_OUTCOME_DENY), int(pb.Outcome_OUTCOME_NEEDS),
		int(pb.NeedKind_NEED_KIND_REASON), int(pb.NeedKind_NEED_KIND_FRESH_LOGIN),
		int(pb.CallerKind_CALLER_KIND_PERSON), int(pb.CallerKind_CALLER_KIND_WORKLOAD),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-wire +core):\n%s", diff)
	}
	// Every kind of error comes back as it went.
	for kind := ca.Internal; kind <= ca.Unavailable; kind++ {
		a := refusal()
		a.Refusal.Kind = kind
		r := parse(t, marshal(t, audit.Decided(a, [32]byte{}, nil), 1))
		if got := audit.Recorded(r).Refusal.Kind; got != kind {
			t.Errorf("%v comes back as %v", kind, got)
		}
	}
}

func refusal() *ca.Attempt {
	return &ca.Attempt{
		Caller:  ca.Caller{Identity: ca.Identity{Issuer: "https://id.example.com", Subject: "alice", Kind: ca.Person}},
		Now:     noon,
		Refusal: ca.Errorf(ca.Denied, "no"),
	}
}

func marshal(t testing.TB, e *audit.Event, index uint64) []byte {
	t.Helper()
	b, err := audit.Marshal(e, index, noon, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, record []byte) *pb.Record {
	t.Helper()
	r, err := audit.Parse(record)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*pb.Record)
		want   string
	}{
		{"a newer version", func(r *pb.Record) { r.Version = 2 }, "newer than this program"},
		{"no version", func(r *pb.Record) { r.Version = 0 }, "version is 0"},
		{"no time", func(r *pb.Record) { r.Time = nil }, "no time"},
		{"a time that is none", func(r *pb.Record) { r.Time = &timestamppb.Timestamp{Nanos: -1} }, "nanos"},
		{"no event", func(r *pb.Record) { r.Event = nil }, "no event"},
		{"an index from which no serial follows", func(r *pb.Record) { r.Index = 1<<40 - 1 }, "no serial"},
		{"an epoch from which no serial follows", func(r *pb.Record) { r.Epoch = 1 << 24 }, "no serial"},
		{"a beginning that is no genesis", func(r *pb.Record) { r.Index = 0 }, "begins with its genesis"},
		{"a genesis that is no beginning", func(r *pb.Record) { r.Event = &pb.Record_Genesis{Genesis: &pb.Genesis{Format: 1}} }, "begins with its genesis"},
		{"a genesis of another format", func(r *pb.Record) {
			r.Index, r.Event = 0, &pb.Record_Genesis{Genesis: &pb.Genesis{Format: 2}}
		}, "format 2"},
		{"an unknown field", func(r *pb.Record) { r.ProtoReflect().SetUnknown(unknown) }, "Record has a field"},
		{"an unknown field deep inside", func(r *pb.Record) { r.GetDecided().GetCaller().ProtoReflect().SetUnknown(unknown) }, "Caller has a field"},
		{"an unknown enum value", func(r *pb.Record) { r.GetDecided().Caller.Kind = 9 }, "kind has the unknown value 9"},
		{"an unknown enum value in a list", func(r *pb.Record) {
			r.GetDecided().Decision = &pb.Decision{Needs: []*pb.Need{{Kind: 7}}}
		}, "kind has the unknown value 7"},
		{"no subject", func(r *pb.Record) { r.GetDecided().Caller.Subject = "" }, "lacks issuer"},
		{"no caller", func(r *pb.Record) { r.GetDecided().Caller = nil }, "lacks issuer"},
		{"a snapshot that is no digest", func(r *pb.Record) { r.GetDecided().Caller.Snapshot = []byte{1} }, "lacks issuer"},
		{"a policy that is no digest", func(r *pb.Record) { r.GetDecided().Policy = &pb.PolicyRef{Digest: []byte{1}} }, "policy"},
		{"neither grant nor refusal", func(r *pb.Record) { r.GetDecided().Refusal = nil }, "neither"},
		{"grant and refusal", func(r *pb.Record) { r.GetDecided().ToBeSigned = []byte{1} }, "neither"},
		{"proof of nothing", func(r *pb.Record) { r.GetDecided().Proven = true }, "lacks what follows"},
		{"a grant without proof", func(r *pb.Record) {
			r.GetDecided().Refusal, r.GetDecided().ToBeSigned = nil, []byte{1}
		}, "without proof"},
		{"fetched lists that are no digest", func(r *pb.Record) { r.GetDecided().Lists = []byte{1} }, "fetched lists is not a SHA-256"},
		{"fetched lists without their times", func(r *pb.Record) { r.GetDecided().Lists = make([]byte, 32) }, "without their times"},
		{"times of fetched lists without the lists", func(r *pb.Record) {
			r.GetDecided().Fetched = []*pb.FetchedList{{Name: "a", FetchedAt: timestamppb.New(noon)}}
		}, "times without the lists"},
		{"fetched lists that no policy saw", func(r *pb.Record) {
			r.GetDecided().Lists, r.GetDecided().Fetched = make([]byte, 32), []*pb.FetchedList{{Name: "a", FetchedAt: timestamppb.New(noon)}}
			r.GetDecided().Policy, r.GetDecided().Decision = nil, nil
		}, "without a policy that saw them"},
		{"a CA key without a name", func(r *pb.Record) {
			r.Event = &pb.Record_AuthorityKeyListed{AuthorityKeyListed: &pb.AuthorityKeyListed{PublicKey: []byte{1}}}
		}, "without name or key"},
		{"a policy loaded that is none", func(r *pb.Record) { r.Event = &pb.Record_PolicyLoaded{PolicyLoaded: &pb.PolicyLoaded{}} }, "policy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, marshal(t, audit.Decided(refusal(), [32]byte{}, nil), 1))
			tt.change(r)
			b, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := audit.Parse(b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// unknown is a field that no message has.
var unknown = protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1)

// TestRefusalsAreAlwaysRecordable shows that nothing in a refused request keeps it out of the log.
func TestRefusalsAreAlwaysRecordable(t *testing.T) {
	a := refusal()
	a.Request = ca.Request{
		Login: "\xff\x00", Host: strings.Repeat("ä", 4000), Reason: strings.Repeat("x", 1<<20), Rule: "\xc3", TTL: -time.Hour,
	}
	a.Refusal.Message = "no such login: \xff"
	long := strings.Repeat("\xff", 1<<20)
	a.Policy = ca.PolicyRef{Revision: long}
	a.Decision = ca.Decision{Outcome: ca.Deny, Rule: long, Message: long, Environment: ca.Environment{Name: long}}
	for range 1000 {
		a.Decision.Failed = append(a.Decision.Failed, ca.FailedRule{Rule: long, Message: long})
	}
	r := parse(t, marshal(t, audit.Decided(a, [32]byte{}, nil), 1))
	if got := r.GetDecided().GetDecision().GetFailed(); len(got) != 11 || got[10].GetMessage() != "and 990 more" {
		t.Errorf("%d failed rules, the last %v", len(got), got[len(got)-1])
	}
	if got := r.GetDecided().GetRefusal().GetMessage(); got != "no such login: \uFFFD" {
		t.Errorf("message %q", got)
	}
}

func TestSnapshot(t *testing.T) {
	id := ca.Identity{
		Issuer: "https://id.example.com", Subject: "alice", Kind: ca.Person, Email: "alice@example.com",
		Groups: []string{"sre", "developers"},
		Claims: map[string]any{"level": int64(3), "contractor": false, "team": "db", "areas": []string{"eu", "us"}},
	}
	blob, err := audit.Snapshot(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got pb.IdentitySnapshot
	if err := proto.Unmarshal(blob, &got); err != nil {
		t.Fatal(err)
	}
	want := &pb.IdentitySnapshot{
		Issuer: id.Issuer, Subject: id.Subject, Kind: pb.CallerKind_CALLER_KIND_PERSON, Email: id.Email, Groups: []string{"developers", "sre"},
		Claims: []*pb.Claim{
			{Name: "areas", Value: &pb.Claim_Strings{Strings: &pb.StringList{Values: []string{"eu", "us"}}}},
			{Name: "contractor", Value: &pb.Claim_Bool{}},
			{Name: "level", Value: &pb.Claim_Int{Int: 3}},
			{Name: "team", Value: &pb.Claim_String_{String_: "db"}},
		},
		Salt: got.Salt,
	}
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" || len(got.Salt) != 16 {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	same, err := audit.Snapshot(id, blob)
	if err != nil || string(same) != string(blob) {
		t.Errorf("the same identity has another snapshot; error %v", err)
	}
	fresh, err := audit.Snapshot(id, nil)
	if err != nil || string(fresh) == string(blob) {
		t.Errorf("two salts are the same; error %v", err)
	}
	other := id
	other.Subject = "bob"
	stolen, err := audit.Snapshot(other, blob)
	if err != nil || strings.Contains(string(stolen), string(got.Salt)) {
		t.Errorf("another identity has the same salt; error %v", err)
	}
	id.Claims["level"] = 3.5
	if _, err := audit.Snapshot(id, blob); err == nil {
		t.Error("a claim of no declared type was taken")
	}
	if len(id.Groups) != 2 || id.Groups[0] != "sre" {
		t.Errorf("the groups of the caller were changed: %v", id.Groups)
	}
}

func TestLogKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	created, err := audit.CreateLogKey(path)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := audit.LoadLogKey(path)
	if err != nil || loaded.ID() != created.ID() || loaded.Verifier() != created.Verifier() || len(loaded.ID()) != 32 {
		t.Fatalf("loaded %v, error %v, want %v", loaded, err, created)
	}
	if _, err := audit.CreateLogKey(path); err == nil {
		t.Error("a key was made over another")
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "no key": "log\n", "a public key": loaded.Verifier(), "cut short": string(secret[:len(secret)-9]),
		"two lines": string(secret) + string(secret), "another name": strings.Replace(string(secret), loaded.ID(), "example.com", 1),
	} {
		bad := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.LoadLogKey(bad); err == nil {
			t.Errorf("%s: was loaded", name)
		} else if strings.Contains(err.Error(), string(secret[60:80])) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.LoadLogKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: error %v", err)
	}
}

func TestCheckpoint(t *testing.T) {
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	want := audit.Checkpoint{LogID: key.ID(), Epoch: 3, Size: 12, Root: tlog.Hash(sha256.Sum256(nil))}
	signed, err := key.Sign(want)
	if err != nil {
		t.Fatal(err)
	}
	if text, _, _ := strings.Cut(string(signed), "\n\n"); text != key.ID()+"/3\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("text of the checkpoint: %q", text)
	}
	got, err := audit.OpenCheckpoint(signed, key.Verifier())
	if err != nil || got != want {
		t.Errorf("opened %v, error %v, want %v", got, err, want)
	}
	other, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"another size":  strings.Replace(string(signed), "\n12\n", "\n13\n", 1),
		"no signature":  strings.SplitAfter(string(signed), "\n\n")[0],
		"nothing":       "",
		"another epoch": strings.Replace(string(signed), "/3\n", "/4\n", 1),
	} {
		if _, err := audit.OpenCheckpoint([]byte(bad), key.Verifier()); err == nil {
			t.Errorf("%s: was opened", name)
		}
	}
	if _, err := audit.OpenCheckpoint(signed, other.Verifier()); err == nil {
		t.Error("it was opened with the key of another log")
	}
	if _, err := other.Sign(want); err == nil {
		t.Error("the key of another log signed it")
	}
}

func TestPolicyValue(t *testing.T) {
	seen := map[string]bool{}
	for _, want := range []ca.PolicyRef{{}, {Dirty: true}, {Revision: "abc"}, {Digest: sha256.Sum256(nil), Revision: "abc", Dirty: true}} {
		value := audit.PolicyValue(want)
		got, ok := audit.ParsePolicyValue(value)
		if !ok || got != want || seen[string(value)] {
			t.Errorf("%v comes back as %v, %v", want, got, ok)
		}
		seen[string(value)] = true
	}
	for _, bad := range [][]byte{nil, make([]byte, 32), append(make([]byte, 32), 2)} {
		if _, ok := audit.ParsePolicyValue(bad); ok {
			t.Errorf("%x was read", bad)
		}
	}
}

// TestSerial holds the numbers that design and sshd ask for.
func TestSerial(t *testing.T) {
	for _, tt := range []struct {
		epoch uint32
		index uint64
		want  uint64
	}{{0, 0, 1}, {0, 41, 42}, {1, 0, 1<<40 + 1}, {1<<24 - 1, 1<<40 - 2, 1<<64 - 1}} {
		if got := audit.Serial(tt.epoch, tt.index); got != tt.want {
			t.Errorf("epoch %d, index %d: serial %d, want %d", tt.epoch, tt.index, got, tt.want)
		}
	}
}

// FuzzAuditRecord: reading never panics; what is accepted can be written and read again, and means the same.
func FuzzAuditRecord(f *testing.F) {
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		f.Fatal(err)
	}
	proven := refusal()
	proven.Proven, proven.Caller.Token.Expires, proven.Caller.Token.AuthTime, proven.Request.ClientTime = true, noon, noon, noon
	for i, e := range []*audit.Event{
		{Event: &pb.Record_Genesis{Genesis: &pb.Genesis{LogId: key.ID(), LogPublicKey: key.Verifier(), Format: audit.Format}}},
		{Event: &pb.Record_AuthorityKeyListed{AuthorityKeyListed: &pb.AuthorityKeyListed{Authority: "default", PublicKey: []byte{1}}}},
		{Event: &pb.Record_PolicyLoaded{PolicyLoaded: &pb.PolicyLoaded{Policy: audit.Policy(ca.PolicyRef{Dirty: true})}}},
		audit.Decided(refusal(), [32]byte{1}, nil),
		audit.StrangersCounted(noon, noon, map[string]uint64{"expired": 2}),
		audit.RefusalsCounted(audit.Caller(proven.Caller.Identity, [32]byte{}), noon, noon, 3),
	} {
		f.Add(marshal(f, e, uint64(i)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.Parse(b)
		if err != nil {
			return
		}
		again, err := audit.Marshal(&audit.Event{Event: r.Event}, r.Index, r.Time.AsTime(), r.Epoch)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		r2, err := audit.Parse(again)
		if err != nil || !proto.Equal(r, r2) {
			t.Fatalf("what was written reads as %v, error %v, want %v", r2, err, r)
		}
		facts, err := audit.Facts(r)
		facts2, err2 := audit.Facts(r2)
		if (err == nil) != (err2 == nil) || !reflect.DeepEqual(facts, facts2) {
			t.Fatalf("facts %v, %v and %v, %v", facts, err, facts2, err2)
		}
		keys := map[string]bool{}
		for _, fact := range facts {
			if keys[string(fact.Key)] {
				t.Fatalf("two facts with the key %q", fact.Key)
			}
			keys[string(fact.Key)] = true
		}
		if r.GetDecided() != nil {
			audit.Recorded(r)
		}
	})
}
