package faults_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
)

// check holds everything that the clients were answered against the log, and the log against itself. The daemon has ended.
func (a *authority) check(t *testing.T) {
	t.Helper()
	records := a.verified(t)
	outcome := map[string]uint64{} // index of the record, by subject and nonce
	grants := 0
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
		if len(d.GetToBeSigned()) > 0 {
			grants++
		}
	}
	s := &a.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	serials, received := map[uint64]string{}, map[uint64]bool{}
	for _, g := range s.forgotten { // their records were lost, and that was accepted
		if cert, err := g.parse(); err != nil {
			t.Errorf("a certificate with the index %d: %v", g.index, err)
		} else {
			serials[cert.Serial] = g.nonce
		}
	}
	for _, g := range s.granted {
		serial, err := g.check(records)
		if err != nil {
			t.Errorf("a certificate with the index %d: %v", g.index, err)
		}
		if nonce, ok := serials[serial]; ok && nonce != g.nonce {
			t.Errorf("two requests got the serial %d", serial)
		}
		serials[serial], received[g.index] = g.nonce, true
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
	a.records, a.unclaimed = len(records), grants-len(received)
	t.Logf("%d records, %d certificates, %d refusals, %d times Unavailable, %d answers lost, %d of them asked for again",
		len(records), len(s.granted), len(s.refused), len(s.unwritten), len(s.lost)+s.repeated, s.repeated)
}

// verified returns the records of the log. `hallpass audit verify` must find it whole, with all decisions made again and all that the
// daemon looks up held against the records; it must go on from each state that it was in at the checks before; its pages must be in
// order; and its head must not be ahead of it.
func (a *authority) verified(t *testing.T) []*pb.Record {
	t.Helper()
	head, err := os.ReadFile(a.log() + ".head")
	if err != nil {
		t.Fatal(err)
	}
	a.past = append(a.past, '\n')
	a.past = append(a.past, head...)
	past := filepath.Join(t.TempDir(), "checkpoints")
	if err := os.WriteFile(past, a.past, 0o600); err != nil {
		t.Fatal(err)
	}
	if a.borrowed {
		a.checkBorrowed(t)
	} else if out, err := a.audit(a.log(), past); err != nil {
		t.Errorf("the log does not verify: %v\n%s", err, out)
	}
	logfile.Check(t, a.log())
	log, err := bolt.OpenRaw(a.log())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	signed, err := log.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	a.past = append(append(a.past, '\n'), signed...)
	var records []*pb.Record
	for row, err := range log.Records() {
		if err != nil {
			t.Fatal(err)
		}
		record := &pb.Record{}
		if err := proto.Unmarshal(row.Value, record); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	return records
}

// audit runs `hallpass audit verify` on a file, with checkpoints that were kept elsewhere.
func (a *authority) audit(file, checkpoints string) (output []byte, err error) {
	key, err := audit.LoadLogKey(filepath.Join(a.dir, "keys", "log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(hallpass, "audit", "verify", file, "--public-key", key.Verifier(), "--checkpoint", checkpoints)
	cmd.Env = []string{"HOME=" + filepath.Dir(hallpass)}
	return cmd.CombinedOutput()
}

// checkBorrowed verifies a log whose first decisions were made by no policy, but by the tests of package bolt: all but how they came
// about.
func (a *authority) checkBorrowed(t *testing.T) {
	t.Helper()
	key, err := audit.LoadLogKey(filepath.Join(a.dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.OpenCopy(a.log(), key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	storetest.Check(t, log)
}

// parse reads the certificate.
func (g *grant) parse() (*ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(g.certificate)
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("it is a plain key")
	}
	return cert, nil
}

// check holds a certificate against its record, and returns its serial.
func (g *grant) check(records []*pb.Record) (serial uint64, err error) {
	if g.index >= uint64(len(records)) {
		return 0, errors.New("the log has no such record")
	}
	r := records[g.index]
	d := r.GetDecided()
	cert, err := g.parse()
	if err != nil {
		return 0, err
	}
	signature, ok := bytes.CutPrefix(g.certificate, d.GetToBeSigned())
	switch {
	case len(d.GetToBeSigned()) == 0:
		return cert.Serial, errors.New("its record grants none")
	case !ok || len(signature) < 4 || int(binary.BigEndian.Uint32(signature)) != len(signature)-4:
		return cert.Serial, errors.New("it is not its record and a signature")
	case string(d.GetAsked().GetNonce()) != g.nonce || d.GetCaller().GetSubject() != g.caller.subject:
		return cert.Serial, errors.New("its record is about another request")
	case cert.Serial != uint64(r.GetEpoch())<<40+g.index+1:
		return cert.Serial, errors.New("its serial does not follow from its epoch and index")
	case !bytes.Equal(cert.Key.Marshal(), g.caller.key.PublicKey().Marshal()):
		return cert.Serial, errors.New("it is for another key")
	case len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != "deploy" || cert.CertType != ssh.UserCert:
		return cert.Serial, fmt.Errorf("it is for %q, and deploy was asked for", cert.ValidPrincipals)
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
