package bolt_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
	"go.etcd.io/bbolt"
)

// makeFormat writes testdata/format<N>.*, once for each format. A file that exists is never replaced: it is what a release wrote.
var makeFormat = flag.Bool("make-format", false, "write the log of the format of this program to testdata, if it has none yet")

// formats are the logs that programs wrote, by format, with the SHA-256 of all their records. Each must be read for ever, by a
// migration if need be; a test fails when the format rises and its own log is not here.
var formats = map[int]struct {
	records uint64
	digest  string
}{
	1: {records: 16, digest: "f8ab3121c7745a6007f68cf94bcb5ee59de52043cf3a8aef2682d8affc0b120b"},
}

func TestEveryFormatIsRead(t *testing.T) {
	if *makeFormat {
		writeFormat(t)
	}
	if _, ok := formats[audit.Format]; !ok {
		t.Errorf("there is no log of the format %d: make it with -make-format", audit.Format)
	}
	for format, want := range formats {
		t.Run(fmt.Sprint("format ", format), func(t *testing.T) {
			path, cfg := unpack(t, format)
			s := open(t, path, cfg)
			storetest.Check(t, s) // if the facts differ: raise audit.FactsVersion
			records := storetest.Records(t, s)
			if got := fmt.Sprintf("%x", sha256.Sum256(bytes.Join(records, nil))); uint64(len(records)) != want.records || got != want.digest {
				t.Errorf("it has %d records with the digest %s, want %d with %s", len(records), got, want.records, want.digest)
			}
			if index, err := s.Append(t.Context(), storetest.Refused("goes on")); err != nil || index != want.records {
				t.Errorf("the next record is %d, error %v; want %d", index, err, want.records)
			}
			backup := backup(t, s)
			mustClose(t, s)
			if _, _, err := bolt.Compact(path, cfg); err != nil {
				t.Error(err)
			}
			if _, err := bolt.Restore(path, cfg, bolt.Restoring{From: backup}); err != nil {
				t.Error(err)
			}
			s = open(t, path, cfg)
			storetest.Check(t, s)
		})
	}
}

// TestNewerFactsAreRefused shows that an older program does not go on with facts that it does not understand.
func TestNewerFactsAreRefused(t *testing.T) {
	clock := storetest.NewClock()
	cfg := newConfig(t, clock.Now)
	path, _ := filled(t, cfg, clock)
	logfile.Edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("facts"), []byte{audit.FactsVersion + 1})
	})
	if _, err := bolt.Open(path, cfg); err == nil || !strings.Contains(err.Error(), "use a newer program") {
		t.Errorf("error %v, want a refusal", err)
	}
}

func formatFile(format int, suffix string) string {
	return filepath.Join("testdata", fmt.Sprintf("format%d.%s", format, suffix))
}

// unpack makes a log of a file of testdata.
func unpack(t *testing.T, format int) (string, bolt.Config) {
	t.Helper()
	key, err := audit.ParseLogKey(strings.TrimSpace(string(read(t, formatFile(format, "key")))))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(read(t, formatFile(format, "db.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	log, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := newPath(t)
	write(t, path, log)
	write(t, path+".head", read(t, formatFile(format, "head")))
	return path, bolt.Config{LogKey: key, Now: time.Now}
}

// writeFormat makes a log with a bit of everything.
func writeFormat(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(formatFile(audit.Format, "db.gz")); err == nil {
		t.Fatalf("there is a log of the format %d, and it stays as it is", audit.Format)
	}
	key, secret, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := storetest.NewClock()
	path, cfg := newPath(t), bolt.Config{LogKey: key, Now: clock.Now}
	s := create(t, path, cfg)
	f := storetest.NewFixture(t, s, clock.Now)
	fill := func() {
		for _, who := range []string{"alice", "bob", "carol"} {
			if _, err := f.Record(t, f.Grant(t, who)); err != nil {
				t.Fatal(err)
			}
		}
		refused := f.Grant(t, "dave")
		refused.Refusal, refused.Authority, refused.Proven = ca.Errorf(ca.Denied, "no"), "", false
		if _, err := f.Record(t, refused); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	admin := ca.Caller{Identity: ca.Identity{Issuer: storetest.Issuer, Subject: "keeper", Kind: ca.Person}}
	if _, _, err := f.Recorder.EraseIdentity(t.Context(), admin, storetest.Issuer, "bob", "he asked for it"); err != nil {
		t.Fatal(err)
	}
	if err := f.Recorder.BackupTaken(t.Context(), admin, "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Recorder.RefusePolicy(t.Context(), store.PolicyRefusal{Source: "/etc/policy", Message: "line 1"}); err != nil {
		t.Fatal(err)
	}
	copied := backup(t, s)
	mustClose(t, s)
	if _, err := bolt.Restore(path, cfg, bolt.Restoring{From: copied, Reason: "the disk broke", By: "root (uid 0)"}); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, cfg)
	f.Recorder = store.NewRecorder(s)
	fill()
	if err := f.Recorder.CountStrangers(t.Context(), clock.Now().Add(-time.Minute), clock.Now(), map[string]uint64{"no token": 3}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records, digest %x", len(storetest.Records(t, s)), sha256.Sum256(bytes.Join(storetest.Records(t, s), nil)))
	mustClose(t, s)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(read(t, path)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, formatFile(audit.Format, "db.gz"), packed.Bytes())
	write(t, formatFile(audit.Format, "head"), read(t, path+".head"))
	write(t, formatFile(audit.Format, "key"), []byte(secret+"\n"))
}
