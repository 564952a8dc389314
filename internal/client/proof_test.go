package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/fakelog"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
)

// newLog returns a log of the epoch that honest certificates are of.
func newLog() *fakelog.Log {
	l := fakelog.New()
	l.Epoch = 1
	return l
}

// change returns the record of an answer, changed.
func change(t testing.TB, answer *pb.IssueResponse, how func(*pb.Record)) []byte {
	r := &pb.Record{}
	if err := proto.Unmarshal(answer.GetRecord(), r); err != nil {
		t.Error(err)
	}
	how(r)
	b, err := proto.Marshal(r)
	if err != nil {
		t.Error(err)
	}
	return b
}

// relog puts another record into the log in the place of the one of the answer, and proves that.
func relog(t testing.TB, l *fakelog.Log, answer *pb.IssueResponse, how func(*pb.Record)) {
	record := change(t, answer, how)
	l.Cut(int(answer.GetIndex()))
	l.Add(record)
	l.Complete(answer, &pb.IssueRequest{})
}

// TestTheRecordOfACertificateIsChecked has a daemon that signs a good certificate, and lies about its record.
func TestTheRecordOfACertificateIsChecked(t *testing.T) {
	authority := newSigner(t)
	for _, tt := range []struct {
		name string
		lie  func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse)
		want string // empty: taken
	}{
		{"an honest answer is taken", func(*testing.T, *fakelog.Log, *pb.IssueResponse) {}, ""},
		{"a checkpoint later than the record is taken", func(_ *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			l.Add([]byte("after"))
			l.Complete(answer, &pb.IssueRequest{})
		}, ""},
		{"no record", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) { answer.Record = []byte{} }, "without its record"},
		{"a record that is none", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) { answer.Record = []byte("none") }, "read its record"},
		{"a record that was changed after it was logged", func(t *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) {
			answer.Record = change(t, answer, func(r *pb.Record) { r.GetDecided().Caller = &pb.Caller{Subject: "mallory"} })
		}, "not proven"},
		{"the record of a refusal", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.GetDecided().ToBeSigned = nil })
		}, "grants another certificate, or none"},
		{"the record of another certificate", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.GetDecided().ToBeSigned[30]++ })
		}, "grants another certificate, or none"},
		{"the record of another request", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.GetDecided().Asked.Digest[0]++ })
		}, "about another request"},
		{"a record with another rule", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.GetDecided().Decision = &pb.Decision{Environment: "prod", Rule: "other"} })
		}, "another rule"},
		{"a record with another policy", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.GetDecided().Policy = &pb.PolicyRef{Digest: []byte("other")} })
		}, "another rule, environment or policy"},
		{"a record that says another place", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.Index++ })
		}, "does not belong to record 18"},
		{"a record of another epoch", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			relog(t, l, answer, func(r *pb.Record) { r.Epoch = 0 })
		}, "of epoch 0"},
		{"no proof", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) { answer.InclusionProof = nil }, "not proven"},
		{"a proof with a hash too many", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) {
			answer.InclusionProof = append(answer.InclusionProof, make([]byte, 32))
		}, "not proven"},
		{"a proof with half a hash", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) {
			answer.InclusionProof[0] = answer.InclusionProof[0][:16]
		}, "has 16 bytes"},
		{"a checkpoint without the record", func(_ *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			l.Cut(17)
			answer.Checkpoint = l.Checkpoint()
		}, "not among the 17"},
		{"no checkpoint", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) { answer.Checkpoint = nil }, "checkpoint"},
		{"a checkpoint that nobody signed", func(_ *testing.T, _ *fakelog.Log, answer *pb.IssueResponse) {
			answer.Checkpoint = bytes.Replace(answer.Checkpoint, []byte("\n18\n"), []byte("\n19\n"), 1)
		}, "checkpoint"},
		{"the checkpoint of another log", func(t *testing.T, l *fakelog.Log, answer *pb.IssueResponse) {
			other := newLog()
			for _, r := range l.Records() {
				other.Add(r)
			}
			answer.Checkpoint = other.Checkpoint()
		}, "not that of the log known since login"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog()
			h := &lying{hostile: hostile{log: l}, lie: func(answer *pb.IssueResponse) { tt.lie(t, l, answer) }}
			h.issue = good(t, authority, func() uint64 { return 17 })
			address := serveAny(t, h)
			memory := &remembered{}
			who := newSignIn(t, authority, l)
			who.Log.Memory = memory.memory()
			issued, err := dial(t, address).Issue(t.Context(), who, asked)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want == "" && (issued.Index != 17 || len(memory.checkpoint) == 0):
				t.Errorf("got record %d, and %q is remembered", issued.Index, memory.checkpoint)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			case tt.want != "" && memory.checkpoint != nil:
				t.Errorf("what was refused is remembered: %s", memory.checkpoint)
			}
		})
	}
}

// lying is a daemon that changes its answers after they were proven.
type lying struct {
	hostile
	lie func(*pb.IssueResponse)
}

func (h *lying) Issue(ctx context.Context, in *pb.IssueRequest) (*pb.IssueResponse, error) {
	answer, err := h.hostile.Issue(ctx, in)
	if err == nil && h.lie != nil {
		h.lie(answer)
	}
	return answer, err
}

// good answers each new request with a good certificate at the next index.
func good(t testing.TB, authority ssh.Signer, next func() uint64) func(context.Context, *pb.CertificateRequest) (*pb.IssueResponse, error) {
	return func(_ context.Context, r *pb.CertificateRequest) (*pb.IssueResponse, error) {
		cert, _ := honest(t, r)
		index := next()
		cert.Serial = 1<<40 + index + 1
		if err := cert.SignCert(rand.Reader, authority); err != nil {
			return nil, err
		}
		return &pb.IssueResponse{Certificate: cert.Marshal(), Index: index, Decision: &pb.Decision{Environment: "prod"}}, nil
	}
}

// remembered is the memory of a user.
type remembered struct {
	lock       sync.Mutex // that of the memory
	mu         sync.Mutex // guards checkpoint
	checkpoint []byte
}

func (r *remembered) memory() client.Memory {
	return client.Memory{
		Lock: func(context.Context) (func(), error) { r.lock.Lock(); return r.lock.Unlock, nil },
		Load: func() ([]byte, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.checkpoint, nil },
		Save: func(c []byte) error { r.mu.Lock(); defer r.mu.Unlock(); r.checkpoint = c; return nil },
	}
}

// TestTheLogMayOnlyGrow has a daemon that shows a user one log, and then another.
func TestTheLogMayOnlyGrow(t *testing.T) {
	authority := newSigner(t)
	for _, tt := range []struct {
		name string
		// then happens to the log after the user has seen 18 records.
		then func(t *testing.T, l *fakelog.Log, h *lying)
		want string // empty: taken
	}{
		{"it grows", func(_ *testing.T, l *fakelog.Log, _ *lying) { l.Add([]byte("more")) }, ""},
		{"nothing comes between", func(*testing.T, *fakelog.Log, *lying) {}, ""},
		{"its end is cut off", func(_ *testing.T, l *fakelog.Log, _ *lying) { l.Cut(10) }, "lost records"},
		{"its last record is cut off, and the next takes its place", func(_ *testing.T, l *fakelog.Log, _ *lying) { l.Cut(17) }, "was changed"},
		{"it is cut and grows beyond what was seen", func(_ *testing.T, l *fakelog.Log, _ *lying) {
			l.Cut(10)
			for range 20 {
				l.Add([]byte("other"))
			}
		}, "was changed, or the CA does not prove"},
		{"an old record is another", func(_ *testing.T, l *fakelog.Log, _ *lying) {
			records := l.Records()
			l.Cut(3)
			l.Add([]byte("edited"))
			for _, r := range records[4:] {
				l.Add(r)
			}
		}, "was changed, or the CA does not prove"},
		{"it proves nothing", func(_ *testing.T, _ *fakelog.Log, h *lying) {
			h.lie = func(answer *pb.IssueResponse) { answer.ConsistencyProof = nil }
		}, "does not prove"},
		{"it begins another epoch", func(t *testing.T, l *fakelog.Log, h *lying) {
			h.lie = func(answer *pb.IssueResponse) {
				c, err := audit.ReadCheckpoint(answer.GetCheckpoint())
				if err != nil {
					t.Error(err)
				}
				c.Epoch = 2
				if answer.Checkpoint, err = l.Key.Sign(c); err != nil {
					t.Error(err)
				}
			}
		}, "another epoch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, memory := newLog(), &remembered{}
			h := &lying{hostile: hostile{log: l}}
			first := true
			h.issue = good(t, authority, func() uint64 {
				if first {
					return 17
				}
				return l.Size()
			})
			c := dial(t, serveAny(t, h))
			who := newSignIn(t, authority, l)
			who.Log.Memory = memory.memory()
			if _, err := c.Issue(t.Context(), who, asked); err != nil {
				t.Fatal(err)
			}
			first = false
			seen := memory.checkpoint
			tt.then(t, l, h)
			_, err := c.Issue(t.Context(), who, asked)
			if tt.want == "" {
				if err != nil || bytes.Equal(seen, memory.checkpoint) {
					t.Errorf("got %v, and remembered is\n%s", err, memory.checkpoint)
				}
				return
			}
			fork, ok := errors.AsType[*client.ForkError](err)
			if !ok || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want a ForkError with %q", err, tt.want)
			}
			if !bytes.Equal(fork.Seen, seen) || !bytes.Equal(memory.checkpoint, seen) {
				t.Errorf("the evidence is\n%s\nremembered is\n%s\nwant both to be\n%s", fork.Seen, memory.checkpoint, seen)
			}
			for _, signed := range [][]byte{fork.Seen, fork.Shown} {
				if _, err := audit.OpenCheckpoint(signed, l.Key.Verifier()); err != nil {
					t.Errorf("the evidence is not signed: %v", err)
				}
			}
			if !strings.Contains(err.Error(), "this user was shown 18 records") {
				t.Errorf("%v does not name what was seen", err)
			}
		})
	}
}

// TestManyAtOnceRememberTheNewest shows that answers which cross each other are held against each other.
func TestManyAtOnceRememberTheNewest(t *testing.T) {
	authority := newSigner(t)
	l, memory := newLog(), &remembered{}
	h := &lying{hostile: hostile{log: l}}
	answers := map[string]*pb.IssueResponse{}
	next, reasked := uint64(17), 0
	make := good(t, authority, func() uint64 { next++; return next - 1 })
	h.issue = func(ctx context.Context, r *pb.CertificateRequest) (*pb.IssueResponse, error) {
		if answer := answers[string(r.GetNonce())]; answer != nil { // the same bytes lead to the same certificate
			reasked++
			return &pb.IssueResponse{Certificate: answer.Certificate, Index: answer.Index, Decision: answer.Decision}, nil
		}
		answer, err := make(ctx, r)
		answers[string(r.GetNonce())] = answer
		return answer, err
	}
	// The newest answer arrives first.
	h.lie = func(answer *pb.IssueResponse) {
		for newest, _ := memory.memory().Load(); newest == nil && answer.GetIndex() < 17+15; newest, _ = memory.memory().Load() {
			time.Sleep(time.Millisecond)
		}
	}
	c := dial(t, serveAny(t, h))
	var wait sync.WaitGroup
	for range 16 {
		who := newSignIn(t, authority, l)
		who.Log.Memory = memory.memory()
		wait.Go(func() {
			if _, err := c.Issue(t.Context(), who, asked); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	got, err := audit.OpenCheckpoint(memory.checkpoint, l.Key.Verifier())
	if err != nil || got.Size != 17+16 {
		t.Errorf("remembered are %d records (%v), want %d", got.Size, err, 17+16)
	}
	if reasked != 15 {
		t.Errorf("%d answers were asked for again, want 15", reasked)
	}
}

// serveAny runs a daemon over TLS.
func serveAny(t testing.TB, h *lying) client.Address {
	t.Helper()
	return serve(t, h, &tls.Config{}, "127.0.0.1")
}
