package verify_test

import (
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

// A copy is a log as an outsider holds it. The outsider here has the log's key too, and so can sign what the daemon never would.
type copied struct {
	key     *audit.LogKey
	records [][]byte
}

// newLog is one with 0 genesis, 1 CA key and 2 policy. It is closed when the test ends.
func newLog(t *testing.T) (*audit.LogKey, *bolt.Store, *storetest.Clock, *storetest.Fixture) {
	t.Helper()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := storetest.NewClock()
	s, err := bolt.Create(t.TempDir()+"/log.db", bolt.Config{LogKey: key, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return key, s, clock, storetest.NewFixture(t, s, clock.Now)
}

// newCopy returns a log with grants, refusals and a failed signature: 0 genesis, 1 CA key, 2 policy, 3 grant, 4 refusal, 5 failed
// signature of 3, 6 another policy, 7 grant.
func newCopy(t *testing.T) *copied {
	t.Helper()
	key, s, clock, f := newLog(t)
	record := func(a *ca.Attempt) {
		t.Helper()
		clock.Move(time.Second)
		if _, err := f.Record(t, a); err != nil {
			t.Fatal(err)
		}
	}
	record(f.Grant(t, "alice"))
	denied := f.Grant(t, "bob")
	denied.Refusal, denied.Authority, denied.Decision.Outcome = ca.Errorf(ca.Denied, "no"), "", ca.Deny
	record(denied)
	if err := f.Recorder.SignatureFailed(t.Context(), 3, "default", errors.New("agent went away")); err != nil {
		t.Fatal(err)
	}
	f.Policy.Digest[0]++
	if err := f.Recorder.LoadPolicy(t.Context(), store.PolicyLoad{Policy: f.Policy, Source: "p", Cause: "reload", Engine: "cel"}); err != nil {
		t.Fatal(err)
	}
	record(f.Grant(t, "alice"))
	return &copied{key, storetest.Records(t, s)}
}

// sign returns a checkpoint over the records as they are, whatever they are.
func (c *copied) sign(t *testing.T, epoch uint32) []byte {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, r := range c.records {
		added, err := tlog.StoredHashes(int64(i), r, reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, added...)
	}
	root, err := tlog.TreeHash(int64(len(c.records)), reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.key.Sign(audit.Checkpoint{LogID: c.key.ID(), Epoch: epoch, Size: uint64(len(c.records)), Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// edit changes a record.
func (c *copied) edit(t *testing.T, index int, change func(*pb.Record)) {
	t.Helper()
	r := &pb.Record{}
	if err := proto.Unmarshal(c.records[index], r); err != nil {
		t.Fatal(err)
	}
	change(r)
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c.records[index] = b
}

func (c *copied) all() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, r := range c.records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestWholeLog(t *testing.T) {
	c := newCopy(t)
	got, err := verify.Log(c.all(), c.sign(t, 0), c.key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if got.Certificates != 2 || got.Refusals != 1 || got.Checkpoint.Size != 8 || got.Checkpoint.LogID != c.key.ID() {
		t.Errorf("summary %+v", got)
	}
}

// TestDaemonThatLies signs a log as no daemon of ours writes it: the first wrong record is named.
func TestDaemonThatLies(t *testing.T) {
	for _, tt := range []struct {
		name  string
		index int
		lie   func(t *testing.T, c *copied)
		want  string
	}{
		{"a record is left out", 4, func(_ *testing.T, c *copied) {
			c.records = append(c.records[:4:4], c.records[5:]...)
		}, "its place is 5"},
		{"a record is there twice", 5, func(_ *testing.T, c *copied) {
			c.records = append(c.records[:5:5], c.records[4:]...)
		}, "its place is 4"},
		{"it begins with another log's genesis", 0, func(t *testing.T, c *copied) { c.records[0] = newCopy(t).records[0] }, "it begins the log"},
		{"its genesis names another key", 0, func(t *testing.T, c *copied) {
			c.edit(t, 0, func(r *pb.Record) { r.GetGenesis().LogPublicKey = newCopy(t).key.Verifier() })
		}, "not the one given"},
		{"it has a second genesis", 4, func(_ *testing.T, c *copied) {
			c.edit(t, 4, func(r *pb.Record) { r.Event = &pb.Record_Genesis{Genesis: &pb.Genesis{}} })
		}, "only one"},
		{"it has no genesis", 0, func(t *testing.T, c *copied) {
			c.edit(t, 0, func(r *pb.Record) { r.Event = &pb.Record_PolicyRefused{PolicyRefused: &pb.PolicyRefused{}} })
		}, "begins with its genesis"},
		{"time goes back", 5, func(t *testing.T, c *copied) {
			c.edit(t, 5, func(r *pb.Record) { r.Time.Seconds -= 60 })
		}, "before that of the record before"},
		{"a record has no time", 5, func(t *testing.T, c *copied) { c.edit(t, 5, func(r *pb.Record) { r.Time = nil }) }, "time"},
		{"an epoch begins without a restore", 4, func(t *testing.T, c *copied) {
			c.edit(t, 4, func(r *pb.Record) { r.Epoch = 1 })
		}, "only a restore begins an epoch"},
		{"an epoch begins by a restore of which the log key says nothing", 5, func(t *testing.T, c *copied) {
			c.edit(t, 5, func(r *pb.Record) {
				r.Epoch, r.Event = 1, &pb.Record_Restored{Restored: &pb.Restored{Statement: "hallpass restore v1\n"}}
			})
		}, "not signed by the log"},
		{"an epoch begins by a restore from another state", 5, func(t *testing.T, c *copied) {
			statement, err := c.key.SignRestore(audit.Restore{LogID: c.key.ID(), Epoch: 1, Base: audit.Checkpoint{LogID: c.key.ID(), Size: 5}})
			if err != nil {
				t.Fatal(err)
			}
			c.edit(t, 5, func(r *pb.Record) {
				r.Epoch, r.Event = 1, &pb.Record_Restored{Restored: &pb.Restored{Statement: string(statement)}}
			})
		}, "from another state"},
		{"a record is of a newer version", 4, func(t *testing.T, c *copied) { c.edit(t, 4, func(r *pb.Record) { r.Version = 2 }) }, "version 2"},
		{"a record tells of something unknown", 4, func(t *testing.T, c *copied) { c.edit(t, 4, func(r *pb.Record) { r.Event = nil }) }, "does not know"},
		{"a record is none", 4, func(_ *testing.T, c *copied) { c.records[4] = []byte("none") }, "proto"},
		{"a certificate has the serial of another", 7, func(t *testing.T, c *copied) {
			c.edit(t, 7, func(r *pb.Record) { r.GetDecided().ToBeSigned = grant(t, c.records[3]).ToBeSigned })
		}, "has the serial 4, must have 8"},
		{"a certificate is for a key that is not listed", 3, func(t *testing.T, c *copied) {
			c.edit(t, 1, func(r *pb.Record) { r.GetAuthorityKeyListed().PublicKey[20]++ })
		}, "not listed before"},
		{"a certificate names another Authority", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().Authority = "prod" })
		}, "not listed before"},
		{"a certificate has a signature already", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().ToBeSigned = append(r.GetDecided().ToBeSigned, 0, 0, 0, 0) })
		}, "certificate"},
		{"a grant has no proof", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().Proven = false })
		}, "not shown"},
		{"a grant was denied", 3, func(t *testing.T, c *copied) {
			c.edit(t, 3, func(r *pb.Record) { r.GetDecided().Decision.Outcome = pb.Outcome_OUTCOME_DENY })
		}, "does not allow one"},
		{"a decision is none", 4, func(t *testing.T, c *copied) {
			c.edit(t, 4, func(r *pb.Record) { r.GetDecided().Refusal = nil })
		}, "neither grants nor refuses"},
		{"a grant is by a policy that was replaced", 7, func(t *testing.T, c *copied) {
			c.edit(t, 7, func(r *pb.Record) { r.GetDecided().Policy = grant(t, c.records[3]).Policy })
		}, "was in force"},
		{"a policy follows on one that was not in force", 6, func(t *testing.T, c *copied) {
			c.edit(t, 6, func(r *pb.Record) { r.GetPolicyLoaded().Previous = nil })
		}, "was in force before"},
		{"a signature failed that was never to be", 5, func(t *testing.T, c *copied) {
			c.edit(t, 5, func(r *pb.Record) { r.GetSignatureFailed().Decided = 4 })
		}, "grants none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCopy(t)
			tt.lie(t, c)
			_, err := verify.Log(c.all(), c.sign(t, 0), c.key.Verifier())
			bad, ok := errors.AsType[*verify.RecordError](err)
			if !ok || bad.Index != uint64(tt.index) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one of record %d with %q", err, tt.index, tt.want)
			}
		})
	}
}

func grant(t *testing.T, record []byte) *pb.Decided {
	t.Helper()
	r := &pb.Record{}
	if err := proto.Unmarshal(record, r); err != nil {
		t.Fatal(err)
	}
	return r.GetDecided()
}

// TestCopyThatWasChanged holds changed copies against the checkpoint of the true log.
func TestCopyThatWasChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, c *copied, checkpoint []byte) []byte
		want   string
	}{
		{"a word in a refusal", func(t *testing.T, c *copied, checkpoint []byte) []byte {
			c.edit(t, 4, func(r *pb.Record) { r.GetDecided().Refusal.Message = "yes" })
			return checkpoint
		}, "some record was changed"},
		{"the end is missing", func(_ *testing.T, c *copied, checkpoint []byte) []byte {
			c.records = c.records[:6]
			return checkpoint
		}, "the end is missing"},
		{"all is missing", func(_ *testing.T, c *copied, checkpoint []byte) []byte {
			c.records = nil
			return checkpoint
		}, "the end is missing"},
		{"there is more than was signed", func(_ *testing.T, c *copied, checkpoint []byte) []byte {
			c.records = append(c.records, c.records[4])
			return checkpoint
		}, "more records"},
		{"the checkpoint is of another epoch", func(t *testing.T, c *copied, _ []byte) []byte { return c.sign(t, 1) }, "epoch"},
		{"the checkpoint is another log's", func(t *testing.T, _ *copied, _ []byte) []byte {
			other := newCopy(t)
			return other.sign(t, 0)
		}, "not signed by"},
		{"the checkpoint was changed", func(_ *testing.T, _ *copied, checkpoint []byte) []byte {
			return []byte(strings.Replace(string(checkpoint), "\n8\n", "\n7\n", 1))
		}, "not signed by"},
		{"there is no checkpoint", func(_ *testing.T, _ *copied, _ []byte) []byte { return nil }, "not signed by"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCopy(t)
			checkpoint := tt.change(t, c, c.sign(t, 0))
			if _, err := verify.Log(c.all(), checkpoint, c.key.Verifier()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	c := newCopy(t)
	broken := func(yield func([]byte, error) bool) { yield(nil, store.ErrUnavailable) }
	if _, err := verify.Log(broken, c.sign(t, 0), c.key.Verifier()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a copy that cannot be read: error %v", err)
	}
	if _, err := verify.Log(c.all(), c.sign(t, 0), "no key"); err == nil {
		t.Error("no public key was needed")
	}
}
