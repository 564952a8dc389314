package faults_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
)

// check holds everything that the clients were answered against the log. The daemon has ended.
func (a *authority) check(t *testing.T) {
	t.Helper()
	records := a.verified(t)
	outcome := map[string]uint64{} // index of the record, by subject and nonce
	for _, r := range records {
		d := r.GetDecided()
		if d == nil {
			continue
		}
		by := d.GetCaller().GetSubject() + "\x00" + string(d.GetAsked().GetNonce())
		if other, ok := outcome[by]; ok {
			t.Errorf("the records %d and %d are about the same request", other, r.GetIndex())
		}
		outcome[by] = r.GetIndex()
	}
	s := &a.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	serials := map[uint64]string{}
	for _, g := range s.granted {
		serial, err := g.check(records)
		if err != nil {
			t.Errorf("a certificate with the index %d: %v", g.index, err)
		}
		if nonce, ok := serials[serial]; ok && nonce != g.nonce {
			t.Errorf("two requests got the serial %d", serial)
		}
		serials[serial] = g.nonce
	}
	for _, r := range s.refused {
		if err := r.check(records); err != nil {
			t.Errorf("a refusal with the index %d: %v", r.index, err)
		}
	}
	for _, r := range s.unwritten {
		if index, ok := outcome[r.caller.subject+"\x00"+r.nonce]; ok {
			t.Errorf("record %d is about a request that was answered with Unavailable", index)
		}
	}
	t.Logf("%d records, %d certificates, %d refusals, %d times Unavailable, %d answers lost, %d of them asked for again",
		len(records), len(s.granted), len(s.refused), len(s.unwritten), len(s.lost)+s.repeated, s.repeated)
}

// verified returns the records of the log, which must verify.
func (a *authority) verified(t *testing.T) []*pb.Record {
	t.Helper()
	key, err := audit.LoadLogKey(filepath.Join(a.dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Open(a.log(), bolt.Config{LogKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	size, err := log.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := log.Records(t.Context(), 0, int(size))
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Log(each(raw), checkpoint, key.Verifier()); err != nil {
		t.Errorf("the log does not verify: %v", err)
	}
	records := make([]*pb.Record, len(raw))
	for i, b := range raw {
		records[i] = &pb.Record{}
		if err := proto.Unmarshal(b, records[i]); err != nil {
			t.Fatal(err)
		}
	}
	return records
}

func each(records [][]byte) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for r := range slices.Values(records) {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// check holds a certificate against its record, and returns its serial.
func (g *grant) check(records []*pb.Record) (serial uint64, err error) {
	if g.index >= uint64(len(records)) {
		return 0, errors.New("the log has no such record")
	}
	d := records[g.index].GetDecided()
	key, err := ssh.ParsePublicKey(g.certificate)
	if err != nil {
		return 0, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return 0, errors.New("it is a plain key")
	}
	signature, ok := bytes.CutPrefix(g.certificate, d.GetToBeSigned())
	switch {
	case len(d.GetToBeSigned()) == 0:
		return cert.Serial, errors.New("its record grants none")
	case !ok || len(signature) < 4 || int(binary.BigEndian.Uint32(signature)) != len(signature)-4:
		return cert.Serial, errors.New("it is not its record and a signature")
	case string(d.GetAsked().GetNonce()) != g.nonce || d.GetCaller().GetSubject() != g.caller.subject:
		return cert.Serial, errors.New("its record is about another request")
	case cert.Serial != g.index+1:
		return cert.Serial, errors.New("its serial does not follow from its index")
	case !bytes.Equal(cert.Key.Marshal(), g.caller.key.PublicKey().Marshal()):
		return cert.Serial, errors.New("it is for another key")
	}
	return cert.Serial, cert.SignatureKey.Verify(d.GetToBeSigned(), cert.Signature)
}

// check holds a refusal against its record.
func (r *refusal) check(records []*pb.Record) error {
	if r.index >= uint64(len(records)) {
		return errors.New("the log has no such record")
	}
	d := records[r.index].GetDecided()
	switch {
	case d.GetRefusal().GetKind() != pb.ErrorKind_ERROR_KIND_DENIED || len(d.GetToBeSigned()) > 0:
		return errors.New("its record is not that of a refusal")
	case string(d.GetAsked().GetNonce()) != r.nonce || d.GetCaller().GetSubject() != r.caller.subject:
		return errors.New("its record is about another request")
	}
	return nil
}
