package server_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"google.golang.org/protobuf/proto"
)

func none(uint64, uint64) {}

// TestBackup takes a backup as an admin does, and looks at who else gets one and at what the log says of it.
func TestBackup(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	alice, carol, c := s.Login("alice").SignIn, auditor(s), s.Client()
	for range 20 {
		issue(t, c, alice)
	}
	for name, who := range map[string]client.SignIn{
		"a developer": alice,
		"an auditor":  s.Forge("bob", map[string]any{"groups": []string{"security"}}),
	} {
		var got bytes.Buffer
		if _, err := c.Backup(t.Context(), who, &got, none); ca.KindOf(err) != ca.Denied || got.Len() > 0 {
			t.Errorf("%s got %d bytes, error %v; want %v", name, got.Len(), err, ca.Denied)
		}
	}
	var got bytes.Buffer
	header, err := c.Backup(t.Context(), carol, &got, none)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	if _, err := c.Backup(t.Context(), carol, fullDisk{full}, none); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := bolt.OpenCopy(path, header.GetLogPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Whole(t.Context()); err != nil {
		t.Error(err)
	}
	checkpoint, err := audit.OpenCheckpoint([]byte(header.GetCheckpoint()), header.GetLogPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	records := s.Records()
	taken := records[checkpoint.Size-1].GetBackupTaken()
	if taken.GetRecords() != checkpoint.Size-1 || taken.GetSourceIp() != "127.0.0.1" {
		t.Errorf("the last record in the backup is %v, want that it was taken", records[checkpoint.Size-1])
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, "log.db.backup*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, error %v", left, err)
	}
}

type fullDisk struct{ err error }

func (f fullDisk) Write([]byte) (int, error) { return 0, f.err }

func TestEraseIdentity(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	alice, carol, c := s.Login("alice").SignIn, auditor(s), s.Client()
	issue(t, c, alice)
	page, err := c.ListRecords(t.Context(), carol, &pb.ListRecordsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &pb.Record{}
	if err := proto.Unmarshal(page.GetEntries()[0].GetRecord(), r); err != nil {
		t.Fatal(err)
	}
	who := r.GetDecided().GetCaller()
	for _, tt := range []struct {
		name   string
		by     client.SignIn
		in     *pb.EraseIdentityRequest
		kind   ca.Kind
		reason string
	}{
		{"by the person alone", alice, &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: "x"}, ca.Denied, "role admin"},
		{"without a reason", carol, &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: " \n"}, ca.Invalid, "reason"},
		{"with a reason that is too long", carol, &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: strings.Repeat("x", 2000)}, ca.Invalid, "more than"},
		{"with a reason that is shown backwards", carol, &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: "\u202egnp.exe"}, ca.Invalid, "one line"},
		{"without an issuer", carol, &pb.EraseIdentityRequest{Subject: who.GetSubject(), Reason: "x"}, ca.Invalid, "issuer"},
		{"of nobody", carol, &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: "nobody", Reason: "x"}, ca.NotFound, "no record about"},
		{"of the same subject of another issuer", carol, &pb.EraseIdentityRequest{Issuer: who.GetIssuer() + "/", Subject: who.GetSubject(), Reason: "x"}, ca.NotFound, "no record about"},
	} {
		if _, err := c.EraseIdentity(t.Context(), tt.by, tt.in); ca.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("erase %s: error %v, want %v with %q", tt.name, err, tt.kind, tt.reason)
		}
	}
	if entry, err := c.GetRecord(t.Context(), carol, r.GetIndex()); err != nil || len(entry.GetSnapshot()) == 0 {
		t.Fatalf("what was refused erased the identity; error %v", err)
	}
	in := &pb.EraseIdentityRequest{Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: "she asked for it"}
	for _, want := range []uint32{1, 0} {
		if got, err := c.EraseIdentity(t.Context(), carol, in); err != nil || got.GetSnapshots() != want {
			t.Errorf("erased %v, error %v; want %d", got, err, want)
		}
	}
	if entry, err := c.GetRecord(t.Context(), carol, r.GetIndex()); err != nil || len(entry.GetSnapshot()) > 0 {
		t.Errorf("the identity is still shown; error %v", err)
	}
	issue(t, c, alice)
	last := s.Records()
	if e := last[len(last)-2].GetIdentityErased(); e.GetReason() != "she asked for it" || e.GetSubject() != who.GetSubject() {
		t.Errorf("record %v, want that of the erasure", last[len(last)-2])
	}
}
