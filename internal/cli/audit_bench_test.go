package cli_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// BenchmarkVerify checks a copy of a log, with each decision made again. HALLPASS_BENCH_RECORDS is how many records it has.
func BenchmarkVerify(b *testing.B) {
	n := uint64(20_000)
	if text := os.Getenv("HALLPASS_BENCH_RECORDS"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 40); err != nil {
			b.Fatal(err)
		}
	}
	l := newRealLog(b)
	d := copyOf(b, l.path, l.key)
	d.extend(l.staging, n)
	for b.Loop() {
		if code, _, errs := run(b, "audit", "verify", d.path, "--public-key", l.key.Verifier()); code != 0 {
			b.Fatal(errs)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// extend appends grants like the one at index, one each ten milliseconds, until the log has n records. Facts are written as they
// follow; those that expired stay.
func (d *doctored) extend(index, n uint64) {
	d.t.Helper()
	records := d.records()
	like := &pb.Record{}
	if err := proto.Unmarshal(records[index], like); err != nil {
		d.t.Fatal(err)
	}
	toBeSigned := like.GetDecided().GetToBeSigned()
	oldID := []byte(fmt.Sprintf("hallpass1 i=%d ", index))
	last := &pb.Record{}
	if err := proto.Unmarshal(records[len(records)-1], last); err != nil {
		d.t.Fatal(err)
	}
	now := last.GetTime().AsTime()
	const batch = 10_000
	for next := uint64(len(records)); next < n; {
		d.edit(func(tx *bbolt.Tx) error {
			tx.Bucket([]byte("records")).FillPercent, tx.Bucket([]byte("hashes")).FillPercent = 0.9, 0.9
			for range batch {
				if next == n {
					break
				}
				now = now.Add(10 * time.Millisecond)
				at := timestamppb.New(now)
				decided := like.GetDecided()
				like.Index, like.Time, decided.DecidedAt, decided.Asked.ClientTime = next, at, at, at
				decided.Asked.Nonce = append(make([]byte, 8), place(next)...)
				digest := audit.Digest(decided.Asked.Nonce)
				decided.Asked.Digest = digest[:]
				decided.ToBeSigned = d.recertify(toBeSigned, func(c *ssh.Certificate) {
					length := c.ValidBefore - c.ValidAfter
					c.Serial, c.ValidAfter = next+1, uint64(now.Unix())-60
					c.ValidBefore = c.ValidAfter + length
					c.KeyId = strings.Replace(c.KeyId, string(oldID), fmt.Sprintf("hallpass1 i=%d ", next), 1)
				})
				if err := d.append(tx, next, like); err != nil {
					return err
				}
				next++
			}
			return d.seal(tx, next)
		})
	}
}

// append writes a record with what follows from it.
func (d *doctored) append(tx *bbolt.Tx, index uint64, r *pb.Record) error {
	record, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return err
	}
	if err := tx.Bucket([]byte("records")).Put(place(index), record); err != nil {
		return err
	}
	added, err := tlog.StoredHashes(int64(index), record, hashesOf(tx))
	if err != nil {
		return err
	}
	first := uint64(tlog.StoredHashIndex(0, int64(index)))
	for i, h := range added {
		if err := tx.Bucket([]byte("hashes")).Put(place(first+uint64(i)), h[:]); err != nil {
			return err
		}
	}
	facts, err := audit.Facts(r)
	if err != nil {
		return err
	}
	for _, f := range facts {
		if f.Rule == audit.Holds {
			continue
		}
		if err := putFact(tx, f); err != nil {
			return err
		}
	}
	return nil
}

// seal signs the tree of n records.
func (d *doctored) seal(tx *bbolt.Tx, n uint64) error {
	root, err := tlog.TreeHash(int64(n), hashesOf(tx))
	if err != nil {
		return err
	}
	signed, err := d.key.Sign(audit.Checkpoint{LogID: d.key.ID(), Size: n, Root: root})
	if err != nil {
		return err
	}
	return tx.Bucket([]byte("meta")).Put([]byte("checkpoint"), signed)
}

func hashesOf(tx *bbolt.Tx) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, tlog.Hash(tx.Bucket([]byte("hashes")).Get(place(uint64(i)))))
		}
		return out, nil
	})
}
