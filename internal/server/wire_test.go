package server_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/internal/server"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// goodRequest uses every field.
func goodRequest(t testing.TB) *pb.CertificateRequest {
	return &pb.CertificateRequest{
		PublicKey: stack.NewKey(t).PublicKey().Marshal(), Login: "deploy", Host: "db1.prod.example.com", Ttl: durationpb.New(time.Hour),
		Reason: "INC-1 é", Rule: "sre", BreakGlass: true, ClientTime: &timestamppb.Timestamp{Seconds: 1795424400, Nanos: 5},
		Nonce: bytes.Repeat([]byte{7}, 16), ServerName: "ca.example.com", TokenNonce: bytes.Repeat([]byte{9}, 32),
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRequest(t *testing.T) {
	m := goodRequest(t)
	got, err := server.ParseRequest(marshal(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(marshal(t, m)), string(marshal(t, message(got)))); diff != "" {
		t.Errorf("fields got lost (-want +got):\n%s", diff)
	}
	m.Ttl, m.TokenNonce = nil, nil
	if got, err = server.ParseRequest(marshal(t, m)); err != nil || got.TTL != 0 || got.TokenNonce != nil {
		t.Errorf("without what is optional: TTL %v, token nonce %x, %v", got.TTL, got.TokenNonce, err)
	}
	later := protowire.AppendString(protowire.AppendTag(marshal(t, m), 999, protowire.BytesType), "of a later version")
	if _, err = server.ParseRequest(later); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

// message is the wire form of a request.
func message(r ca.Request) *pb.CertificateRequest {
	m := &pb.CertificateRequest{
		PublicKey: r.PublicKey.Marshal(), Login: r.Login, Host: r.Host, Reason: r.Reason, Rule: r.Rule, BreakGlass: r.BreakGlass,
		ClientTime: timestamppb.New(r.ClientTime), Nonce: r.Nonce[:], ServerName: r.ServerName, TokenNonce: r.TokenNonce,
	}
	if r.TTL != 0 {
		m.Ttl = durationpb.New(r.TTL)
	}
	return m
}

func TestParseRequestRefuses(t *testing.T) {
	ttl := func(d *durationpb.Duration) func(*pb.CertificateRequest) {
		return func(m *pb.CertificateRequest) { m.Ttl = d }
	}
	for _, tt := range []struct {
		name   string
		change func(*pb.CertificateRequest)
		reason string
	}{
		{"a lifetime of zero", ttl(&durationpb.Duration{}), "ttl"},
		{"a negative lifetime", ttl(durationpb.New(-time.Hour)), "ttl"},
		{"a lifetime of minus a nanosecond", ttl(&durationpb.Duration{Nanos: -1}), "ttl"},
		{"the longest lifetime of the wire", ttl(&durationpb.Duration{Seconds: 315576000000}), "ttl"},
		{"a lifetime of more seconds than there are", ttl(&durationpb.Duration{Seconds: math.MaxInt64}), "ttl"},
		{"a lifetime that overflows into a good one", ttl(&durationpb.Duration{Seconds: 1<<55 + 3600}), "ttl"},
		{"a lifetime whose halves disagree", ttl(&durationpb.Duration{Seconds: 1, Nanos: -1}), "ttl"},
		{"a lifetime of too many nanoseconds", ttl(&durationpb.Duration{Seconds: 1, Nanos: 1e9}), "ttl"},
		{"no nonce", func(m *pb.CertificateRequest) { m.Nonce = nil }, "nonce"},
		{"a nonce that is too short", func(m *pb.CertificateRequest) { m.Nonce = make([]byte, 15) }, "nonce"},
		{"a nonce that is too long", func(m *pb.CertificateRequest) { m.Nonce = make([]byte, 17) }, "nonce"},
		{"random bytes of the token that are too few", func(m *pb.CertificateRequest) { m.TokenNonce = make([]byte, 31) }, "token_nonce"},
		{"random bytes of the token that are too many", func(m *pb.CertificateRequest) { m.TokenNonce = make([]byte, 33) }, "token_nonce"},
		{"no clock", func(m *pb.CertificateRequest) { m.ClientTime = nil }, "client_time"},
		{"a clock that shows no time", func(m *pb.CertificateRequest) { m.ClientTime = &timestamppb.Timestamp{Nanos: -1} }, "client_time"},
		{"a clock beyond all times", func(m *pb.CertificateRequest) { m.ClientTime = &timestamppb.Timestamp{Seconds: math.MaxInt64} }, "client_time"},
		{"no key", func(m *pb.CertificateRequest) { m.PublicKey = nil }, "key"},
		{"a key that is none", func(m *pb.CertificateRequest) { m.PublicKey = []byte("ssh-ed25519 AAAA") }, "key"},
	} {
		m := goodRequest(t)
		tt.change(m)
		_, err := server.ParseRequest(marshal(t, m))
		if ca.KindOf(err) != ca.Invalid || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: got %v, want kind invalid, about %s", tt.name, err, tt.reason)
		}
	}
	good := marshal(t, goodRequest(t))
	for _, tt := range []struct {
		name  string
		bytes []byte
	}{
		{"garbage", []byte("garbage")},
		{"bytes that end early", good[:len(good)-1]},
		{"a login that is not UTF-8", protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "\xff")},
		{"a reason that is not UTF-8", protowire.AppendString(protowire.AppendTag(nil, 5, protowire.BytesType), "a\xc3")},
		{"a field of another type", protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)},
		{"nothing", nil},
	} {
		if _, err := server.ParseRequest(tt.bytes); ca.KindOf(err) != ca.Invalid {
			t.Errorf("%s: got %v, want kind invalid", tt.name, err)
		}
	}
}

// FuzzSignRequestProto: whatever the bytes, reading them ends without a panic, an error has a kind, and what is read is what was
// written.
func FuzzSignRequestProto(f *testing.F) {
	m := goodRequest(f)
	f.Add(marshal(f, m))
	m.Ttl, m.TokenNonce, m.Reason = nil, nil, ""
	f.Add(marshal(f, m))
	m.Ttl = &durationpb.Duration{Seconds: 1, Nanos: -1}
	f.Add(marshal(f, m))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, signed []byte) {
		got, err := server.ParseRequest(signed)
		if err != nil {
			if ca.KindOf(err) == ca.Internal {
				t.Errorf("the error %v has no kind", err)
			}
			return
		}
		var read pb.CertificateRequest
		if err := proto.Unmarshal(signed, &read); err != nil {
			t.Fatalf("%x was taken: %v", signed, err)
		}
		read.ProtoReflect().SetUnknown(nil)
		if read.Ttl != nil {
			read.Ttl.ProtoReflect().SetUnknown(nil)
		}
		read.ClientTime.ProtoReflect().SetUnknown(nil)
		if want := message(got); !proto.Equal(want, &read) {
			t.Errorf("%x was read as\n%v, is\n%v", signed, want, &read)
		}
	})
}
