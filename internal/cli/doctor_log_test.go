package cli_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// doctored is a copy of a log that a test may change as somebody would who holds the disk, and the log key too.
type doctored struct {
	t    testing.TB
	path string
	key  *audit.LogKey
}

// copyOf returns a copy of a log of its own.
func copyOf(t testing.TB, path string, key *audit.LogKey) *doctored {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &doctored{t, filepath.Join(t.TempDir(), "copy.db"), key}
	if err := os.WriteFile(d.path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// edit changes the file behind everybody's back.
func (d *doctored) edit(change func(tx *bbolt.Tx) error) {
	d.t.Helper()
	logfile.Edit(d.t, d.path, change)
}

func place(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// records returns what the log holds.
func (d *doctored) records() (out [][]byte) {
	d.t.Helper()
	d.edit(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("records")).ForEach(func(_, v []byte) error {
			out = append(out, bytes.Clone(v))
			return nil
		})
	})
	return out
}

// checkpoint is the one that the copy has.
func (d *doctored) checkpoint() (out []byte) {
	d.t.Helper()
	d.edit(func(tx *bbolt.Tx) error {
		out = bytes.Clone(tx.Bucket([]byte("meta")).Get([]byte("checkpoint")))
		return nil
	})
	return out
}

// rewrite makes the log one of other records in every respect: hashes, facts, and a checkpoint that its own key signed.
func (d *doctored) rewrite(records [][]byte) {
	d.t.Helper()
	d.edit(func(tx *bbolt.Tx) error {
		for _, name := range []string{"records", "hashes", "facts", "facts_expiry"} {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		type placed struct {
			audit.Fact
			record uint64
		}
		facts := map[string]placed{}
		for i, record := range records {
			if err := tx.Bucket([]byte("records")).Put(place(uint64(i)), record); err != nil {
				return err
			}
			r := &pb.Record{}
			if err := proto.Unmarshal(record, r); err != nil {
				return err
			}
			follow, err := audit.Facts(r)
			if err != nil {
				return err
			}
			for _, f := range follow {
				if f.Rule == audit.Holds {
					continue
				}
				if f.Rule == audit.Ends {
					delete(facts, string(f.Key))
					continue
				}
				if old, stands := facts[string(f.Key)]; !stands || f.Rule != audit.Same || !old.Expires.Equal(f.Expires) {
					facts[string(f.Key)] = placed{f, uint64(i)}
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(facts)) {
			if err := putFact(tx, facts[key].Fact, facts[key].record); err != nil {
				return err
			}
		}
		return d.sign(tx, records)
	})
}

// putFact stores a fact where the store would.
func putFact(tx *bbolt.Tx, f audit.Fact, record uint64) error {
	if f.Expires.IsZero() {
		return tx.Bucket([]byte("facts")).Put(f.Key, append([]byte{}, f.Value...))
	}
	return tx.Bucket([]byte("facts_expiry")).Put(slices.Concat(place(uint64(f.Expires.Unix())), place(record), f.Key), f.Value)
}

// sign hashes the records and signs the tree.
func (d *doctored) sign(tx *bbolt.Tx, records [][]byte) error {
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, r := range records {
		added, err := tlog.StoredHashes(int64(i), r, reader)
		if err != nil {
			return err
		}
		hashes = append(hashes, added...)
	}
	for i, h := range hashes {
		if err := tx.Bucket([]byte("hashes")).Put(place(uint64(i)), h[:]); err != nil {
			return err
		}
	}
	root, err := tlog.TreeHash(int64(len(records)), reader)
	if err != nil {
		return err
	}
	signed, err := d.key.Sign(audit.Checkpoint{LogID: d.key.ID(), Size: uint64(len(records)), Root: root})
	if err != nil {
		return err
	}
	return tx.Bucket([]byte("meta")).Put([]byte("checkpoint"), signed)
}

// doctor rewrites the log with one record changed.
func (d *doctored) doctor(index uint64, change func(*pb.Record)) {
	d.t.Helper()
	records := d.records()
	records[index] = d.changed(records[index], change)
	d.rewrite(records)
}

func (d *doctored) changed(record []byte, change func(*pb.Record)) []byte {
	d.t.Helper()
	r := &pb.Record{}
	if err := proto.Unmarshal(record, r); err != nil {
		d.t.Fatal(err)
	}
	change(r)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// certify changes the certificate of a grant, as a daemon would that signs more than it was asked for.
func (d *doctored) certify(index uint64, change func(*ssh.Certificate)) {
	d.t.Helper()
	d.doctor(index, func(r *pb.Record) { r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), change) })
}

func (d *doctored) recertify(toBeSigned []byte, change func(*ssh.Certificate)) []byte {
	d.t.Helper()
	signature := ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519})})
	key, err := ssh.ParsePublicKey(append(bytes.Clone(toBeSigned), signature...))
	if err != nil {
		d.t.Fatal(err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		d.t.Fatalf("%s is no certificate", key.Type())
	}
	change(cert)
	cert.Signature = nil
	b := cert.Marshal()
	return b[:len(b)-4]
}

// erasure is the record, at the end of the log, by which the caller of one decision erased the identity of the caller of another.
func (d *doctored) erasure(of, by uint64) []byte {
	d.t.Helper()
	records := d.records()
	var erased, eraser pb.Record
	for at, r := range map[uint64]*pb.Record{of: &erased, by: &eraser} {
		if err := proto.Unmarshal(records[at], r); err != nil {
			d.t.Fatal(err)
		}
	}
	who := erased.GetDecided().GetCaller()
	return d.changed(records[by], func(r *pb.Record) {
		r.Index, r.Time = uint64(len(records)), timestamppb.Now()
		r.Event = &pb.Record_IdentityErased{IdentityErased: &pb.IdentityErased{
			Caller: eraser.GetDecided().GetCaller(), Issuer: who.GetIssuer(), Subject: who.GetSubject(), Reason: "x", Snapshots: [][]byte{who.GetSnapshot()},
		}}
	})
}

// removeSnapshot takes away the identity of the caller of a decision.
func (d *doctored) removeSnapshot(of uint64) {
	d.t.Helper()
	var r pb.Record
	if err := proto.Unmarshal(d.records()[of], &r); err != nil {
		d.t.Fatal(err)
	}
	d.edit(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("blobs")).Delete(r.GetDecided().GetCaller().GetSnapshot())
	})
}
