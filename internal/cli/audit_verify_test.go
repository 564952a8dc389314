package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/cli"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const verifiedPolicy = `version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
allow:
- name: developers
  when: environment == "staging" && "developers" in identity.groups
  grant: {logins: [deploy], ttl: 2h, extensions: [permit-pty]}
- name: jobs
  when: identity.kind == "workload"
  grant: {logins: [deploy], scope: environment, ttl: 10m}
- name: sre
  when: environment == "prod" && "sre" in identity.groups
  require: {reason: true}
  grant: {logins: [deploy], scope: host, ttl: 1h}
review:
- {name: first-on-prod, when: environment == "prod" && decision.first_use}
`

// The records of the real log: grants of alice on staging, one of bob on prod, and a refusal.
type realLog struct {
	path string
	key  *audit.LogKey
	// staging, prod and refusal are the indexes of the first grant on staging, of the one on prod, and of a refusal.
	staging, prod, refusal uint64
	// certificate is that of the first grant.
	certificate []byte
}

// newRealLog has a real daemon write a log.
func newRealLog(t testing.TB) *realLog {
	t.Helper()
	s := stack.Start(t, verifiedPolicy)
	l := &realLog{path: filepath.Join(s.Dir, "log.db")}
	alice, bob := s.Login("alice"), s.Login("bob")
	c := s.Client()
	get := func(who stack.Person, r ca.Request) uint64 {
		t.Helper()
		issued, err := c.Issue(t.Context(), who.SignIn, r)
		if err != nil {
			t.Fatal(err)
		}
		if l.certificate == nil {
			l.certificate = issued.Certificate.Marshal()
		}
		return issued.Index
	}
	l.staging = get(alice, ca.Request{Login: "deploy", Host: "app1.staging.example.com", TTL: 30 * time.Minute})
	l.prod = get(bob, ca.Request{Login: "deploy", Host: "db1.prod.example.com", Reason: "INC-1"})
	if _, err := c.Issue(t.Context(), alice.SignIn, ca.Request{Login: "deploy", Host: "db1.prod.example.com"}); ca.KindOf(err) != ca.Denied {
		t.Fatalf("got %v, want a refusal", err)
	}
	l.refusal = l.prod + 1
	get(s.Workload("ci"), ca.Request{Login: "deploy", Host: "app2.staging.example.com"})
	for i := range 8 {
		get(alice, ca.Request{Login: "deploy", Host: fmt.Sprintf("app%d.staging.example.com", i)})
	}
	s.Stop()
	var err error
	if l.key, err = audit.LoadLogKey(filepath.Join(s.Dir, "keys", "log")); err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs the tool and returns its exit code and what it wrote.
func run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	out, errs := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = files[0], files[1]
	code = cli.Run(t.Context(), args)
	os.Stdout, os.Stderr = out, errs
	var texts [2]string
	for i, f := range files {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return code, texts[0], texts[1]
}

// TestVerifyNamesTheFirstBadRecord changes copies of a real log, as somebody would who holds the disk, or the log key too.
func TestVerifyNamesTheFirstBadRecord(t *testing.T) {
	l := newRealLog(t)
	whole := copyOf(t, l.path, l.key)
	code, out, errs := run(t, "audit", "verify", whole.path, "--public-key", l.key.Verifier(), "-o", "json")
	if code != 0 {
		t.Fatalf("the log as it is: exit code %d\n%s", code, errs)
	}
	var summary struct {
		Certificates, Refusals, Evaluated, Facts, Blobs int
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil || summary.Certificates != 11 || summary.Refusals != 1 || summary.Evaluated != 12 || summary.Facts < 20 || summary.Blobs < 3 {
		t.Fatalf("summary %+v, %v", summary, err)
	}
	newest := filepath.Join(t.TempDir(), "newest")
	if err := os.WriteFile(newest, whole.checkpoint(), 0o600); err != nil {
		t.Fatal(err)
	}
	size := uint64(len(whole.records()))
	swap := func(tx *bbolt.Tx, a, b uint64) error {
		records := tx.Bucket([]byte("records"))
		x, y := bytes.Clone(records.Get(place(a))), bytes.Clone(records.Get(place(b)))
		if err := records.Put(place(a), y); err != nil {
			return err
		}
		return records.Put(place(b), x)
	}
	other := stack.NewKey(t)
	for _, tt := range []struct {
		name   string
		change func(d *doctored)
		record uint64 // noRecord: the fault is not one of a record
		want   string
	}{
		{"a bit flipped in a record", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				records := tx.Bucket([]byte("records"))
				text := bytes.Clone(records.Get(place(l.staging)))
				text[len(text)/2] ^= 4
				return records.Put(place(l.staging), text)
			})
		}, l.staging, "not what was hashed"},
		{"a record removed", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("records")).Delete(place(l.refusal)) })
		}, l.refusal, "it is missing"},
		{"the last record removed", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("records")).Delete(place(size - 1)) })
		}, size - 1, "the end is missing"},
		{"two records swapped", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return swap(tx, l.staging, l.prod) })
		}, l.staging, "not what was hashed"},
		{"two records swapped, and signed by the log key", func(d *doctored) {
			records := d.records()
			records[l.staging], records[l.prod] = records[l.prod], records[l.staging]
			d.rewrite(records)
		}, l.staging, "its place is"},
		{"a record removed, and signed by the log key", func(d *doctored) {
			records := d.records()
			d.rewrite(append(records[:l.refusal:l.refusal], records[l.refusal+1:]...))
		}, l.refusal, "its place is"},
		{"the tail cut, against a newer checkpoint", func(d *doctored) { d.rewrite(d.records()[:size-3]) }, size - 3, "are missing"},
		{"a forged record added", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				records := tx.Bucket([]byte("records"))
				return records.Put(place(size), records.Get(place(size-1)))
			})
		}, size, "more records than"},
		{"a forged grant added, and signed by the log key", func(d *doctored) {
			records := d.records()
			d.rewrite(append(records, d.changed(records[l.staging], func(r *pb.Record) {
				r.Index, r.Time = size, timestamppb.Now()
				r.GetDecided().DecidedAt, r.GetDecided().GetAsked().ClientTime = r.Time, r.Time
				r.GetDecided().GetAsked().Nonce = make([]byte, 16)
				r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) { c.Serial = size + 1 })
			})))
		}, size, "its certificate is not what the decision leads to"},
		{"a forged record repeats a request", func(d *doctored) {
			records := d.records()
			d.rewrite(append(records, d.changed(records[l.staging], func(r *pb.Record) {
				r.Index = size
				r.Time = timestamppb.Now()
				r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) { c.Serial = size + 1 })
			})))
		}, size, "does not follow from the policy"},
		{"a hash of the tree changed", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("hashes")).Put(place(2), make([]byte, 32)) })
		}, 1, "hashes of the tree above it"},

		{"a fact removed", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("facts"))
				return b.Delete(audit.RevisionFact(3))
			})
		}, 3, `"revision/0000000000000003", which follows from it, is not stored`},
		{"a fact that expires removed, so that a request could be repeated", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("facts"))
				k, _ := b.Cursor().Seek([]byte("nonce/"))
				return b.Delete(k)
			})
		}, noRecord + 1, "which follows from it, is not stored"},
		{"a fact edited", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts")).Put([]byte(audit.PolicyFact), make([]byte, 33))
			})
		}, 3, `the stored fact "policy", which follows from it, was changed`},
		{"the expiry of a fact edited", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				c := tx.Bucket([]byte("facts_expiry")).Cursor()
				k, v := c.First()
				for !bytes.Equal(v, place(l.staging)) {
					k, v = c.Next()
				}
				earlier, later := bytes.Clone(k), bytes.Clone(k)
				later[7]++
				return errors.Join(tx.Bucket([]byte("facts_expiry")).Put(later, bytes.Clone(v)), tx.Bucket([]byte("facts_expiry")).Delete(earlier))
			})
		}, l.staging, "was changed"},
		{"a fact that never expires given an expiry", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				v := bytes.Clone(tx.Bucket([]byte("facts")).Get([]byte(audit.PolicyFact)))
				return errors.Join(tx.Bucket([]byte("facts_expiry")).Put(slices.Concat(place(1<<40), place(0), []byte(audit.PolicyFact)), v), tx.Bucket([]byte("facts")).Delete([]byte(audit.PolicyFact)))
			})
		}, 3, "was changed"},
		{"a fact added that names a record", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts")).Put(audit.RevisionFact(l.staging), []byte{})
			})
		}, noRecord, fmt.Sprintf("follows from no record; it names record %d", l.staging)},
		{"a CA key added to the facts", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts")).Put(audit.AuthorityFact("prod", other.PublicKey().Marshal()), []byte("listed"))
			})
		}, noRecord, "follows from no record"},
		{"a fact without an expiry among those that expire", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("facts_expiry")).Put([]byte("policy"), []byte{}) })
		}, noRecord, "has no expiry"},
		{"a nonce that no record used", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts_expiry")).Put(slices.Concat(place(1<<40), place(0), audit.NonceFact("i", "s", make([]byte, 16))), place(l.staging))
			})
		}, noRecord, "follows from no record"},
		{"a file of the policy edited", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				blobs := tx.Bucket([]byte("blobs"))
				digest := audit.Digest([]byte(verifiedPolicy))
				return blobs.Put(digest[:], []byte(strings.ReplaceAll(verifiedPolicy, "2h", "9h")))
			})
		}, 3, "the bytes have another digest"},
		{"a file of the policy removed", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				digest := audit.Digest([]byte(verifiedPolicy))
				return tx.Bucket([]byte("blobs")).Delete(digest[:])
			})
		}, 3, "does not have it"},

		{"a certificate for a principal that was not asked for", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} })
		}, l.staging, `has the principals ["root"]`},
		{"a certificate with a principal more", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.ValidPrincipals = append(c.ValidPrincipals, "root") })
		}, l.staging, "has the principals"},
		{"a certificate whose principal is wider than the scope", func(d *doctored) {
			d.certify(l.prod, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"deploy"} })
		}, l.prod, "not what the decision leads to"},
		{"a certificate that is valid longer than was asked for", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.ValidBefore += 60 })
		}, l.staging, "longer than"},
		{"a certificate that is valid longer than the rule allows", func(d *doctored) {
			d.certify(l.prod, func(c *ssh.Certificate) { c.ValidBefore += 60 })
		}, l.prod, "not what the decision leads to"},
		{"a certificate with an extension that the rule does not grant", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.Extensions["permit-agent-forwarding"] = "" })
		}, l.staging, "not what the decision leads to"},
		{"a certificate with an option that no policy grants", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x@example.com": ""} })
		}, l.staging, "which no policy can grant"},
		{"a certificate for another key", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.Key = other.PublicKey() })
		}, l.staging, "another key than the one that was asked for"},
		{"a certificate by a CA key that is not listed", func(d *doctored) {
			d.certify(l.staging, func(c *ssh.Certificate) { c.SignatureKey = other.PublicKey() })
		}, l.staging, "not listed before"},
		{"a certificate by the key of another environment", func(d *doctored) {
			var prod ssh.PublicKey
			d.doctor(l.prod, func(r *pb.Record) {
				d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) { prod = c.SignatureKey })
			})
			d.doctor(l.staging, func(r *pb.Record) {
				r.GetDecided().Authority = "prod"
				r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) { c.SignatureKey = prod })
			})
		}, l.staging, `authority "prod" is recorded, "default" follows`},
		{"a certificate by a policy that is not in force", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) { r.GetDecided().Policy.Digest = make([]byte, 32) })
		}, l.staging, "was in force"},
		{"a certificate by another rule", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) { r.GetDecided().Decision.Rule = "sre" })
		}, l.staging, `rule "sre" is recorded, "developers" follows`},
		{"a certificate for somebody whom the policy refuses", func(d *doctored) {
			records := d.records()
			d.doctor(l.prod, func(r *pb.Record) { // bob's certificate becomes one of alice, who was refused the same
				refused := &pb.Record{}
				if err := proto.Unmarshal(records[l.refusal], refused); err != nil {
					t.Fatal(err)
				}
				r.GetDecided().Caller = refused.GetDecided().GetCaller()
			})
		}, l.prod, `outcome "allow" is recorded, "deny" follows`},
		{"a certificate without the reason that the rule requires", func(d *doctored) {
			d.doctor(l.prod, func(r *pb.Record) { r.GetDecided().Asked.Reason = "" })
		}, l.prod, `outcome "allow" is recorded, "needs" follows`},
		{"a refusal that the policy does not lead to", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) { r.GetDecided().Asked.Host = "app1.staging.example.com" })
		}, l.refusal, `outcome "deny" is recorded, "allow" follows`},
		{"a review that the policy asks for left out", func(d *doctored) {
			d.doctor(l.prod, func(r *pb.Record) { r.GetDecided().Review.Rules, r.GetDecided().Review.Due = nil, nil })
		}, l.prod, `review "" is recorded, "first-on-prod" follows`},
		{"all of a review left out", func(d *doctored) {
			d.doctor(l.prod, func(r *pb.Record) { r.GetDecided().Review = nil })
		}, l.prod, `history "" is recorded, "first use" follows`},
		{"a review that the policy does not ask for", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) {
				r.GetDecided().Review = &pb.Review{Rules: []*pb.ReviewRule{{Name: "first-on-prod"}}, Due: r.GetTime()}
			})
		}, l.refusal, `review "first-on-prod" is recorded, "" follows`},
		{"an open review forgotten", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				open, _ := tx.Bucket([]byte("facts")).Cursor().Seek([]byte(audit.ReviewPrefix))
				return tx.Bucket([]byte("facts")).Delete(open)
			})
		}, l.prod, "which follows from it, is not stored"},
		{"a nonce used twice", func(d *doctored) {
			records := d.records()
			first := &pb.Record{}
			if err := proto.Unmarshal(records[size-2], first); err != nil {
				t.Fatal(err)
			}
			d.doctor(size-1, func(r *pb.Record) { r.GetDecided().Asked.Nonce = first.GetDecided().GetAsked().GetNonce() })
		}, size - 1, fmt.Sprintf("its nonce was used before, by record %d", size-2)},
		{"a decision at another time than its record", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) { r.GetDecided().DecidedAt = timestamppb.New(r.GetTime().AsTime().Add(-time.Hour)) })
		}, l.staging, "says that it was decided at"},
		{"a decision by another engine, which comes to something else", func(d *doctored) {
			records := d.records()
			records[3] = d.changed(records[3], func(r *pb.Record) { r.GetPolicyLoaded().Engine = "cel-go v9.9.9" })
			records[l.staging] = d.changed(records[l.staging], func(r *pb.Record) { r.GetDecided().Decision.Rule = "sre" })
			d.rewrite(records)
		}, l.staging, `compiled by the engine "cel-go v9.9.9"`},
		{"a lifetime asked for that no decision gives", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) { r.GetDecided().Asked.Ttl = durationpb.New(time.Minute) })
		}, l.staging, "longer than"},
		{"a grant that cites an identity which is not there", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) {
				r.GetDecided().Caller.Snapshot = make([]byte, 32)
				r.GetDecided().Asked.Login = "root"
				r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} })
			})
		}, l.staging, "no record says that it was erased"},
		{"a grant that cites an identity which was erased before", func(d *doctored) {
			records := append(d.records(), d.erasure(l.prod, l.staging))
			d.rewrite(append(records, d.changed(records[l.prod], func(r *pb.Record) {
				r.Index, r.Time = size+1, timestamppb.Now()
				r.GetDecided().DecidedAt, r.GetDecided().GetAsked().ClientTime = r.Time, r.Time
				r.GetDecided().GetAsked().Nonce = make([]byte, 16)
				r.GetDecided().Review = nil
				r.GetDecided().ToBeSigned = d.recertify(r.GetDecided().GetToBeSigned(), func(c *ssh.Certificate) {
					c.Serial, c.ValidAfter, c.ValidBefore = size+2, uint64(r.Time.AsTime().Unix()), uint64(r.Time.AsTime().Unix()+60)
				})
			})))
			d.removeSnapshot(l.prod)
		}, size + 1, fmt.Sprintf("erased before, by record %d", size)},
		{"a grant recorded as that of somebody else", func(d *doctored) {
			d.doctor(l.prod, func(r *pb.Record) { r.GetDecided().Caller.Subject = "nobody" })
		}, l.prod, `its caller is "nobody"`},
		{"a person in the place of a workload", func(d *doctored) {
			d.doctor(l.refusal+1, func(r *pb.Record) { r.GetDecided().Caller.Kind = pb.CallerKind_CALLER_KIND_PERSON })
		}, l.refusal + 1, "its caller is"},
		{"a review by somebody who is not there", func(d *doctored) {
			records := d.records()
			d.rewrite(append(records, d.changed(records[l.prod], func(r *pb.Record) {
				r.Index, r.Time = size, timestamppb.Now()
				r.Event = &pb.Record_Reviewed{Reviewed: &pb.Reviewed{
					Caller:  &pb.Caller{Issuer: "x", Subject: "y", Kind: pb.CallerKind_CALLER_KIND_PERSON, Snapshot: make([]byte, 32)},
					Decided: l.prod, Due: r.GetDecided().GetReview().GetDue(), Comment: "fine",
				}}
			})))
		}, size, "no record says that it was erased"},
		{"an identity that was erased and is still there", func(d *doctored) {
			d.rewrite(append(d.records(), d.erasure(l.prod, l.staging)))
		}, size, "and that is there"},
		{"a refusal by a policy that never was in force", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) { r.GetDecided().Policy.Digest = make([]byte, 32) })
		}, l.refusal, "was not in force before"},
		{"a refusal at another time than its record", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) { r.GetDecided().DecidedAt = timestamppb.New(time.Unix(1e9, 0)) })
		}, l.refusal, "says that it was decided at"},
		{"a grant to a token that had expired", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) { r.GetDecided().Token.ExpiresAt = timestamppb.New(time.Unix(1, 0)) })
		}, l.staging, "ID token that expired at"},
		{"a grant by a sign-in that is still to come", func(d *doctored) {
			d.doctor(l.staging, func(r *pb.Record) {
				r.GetDecided().Token.AuthTime = timestamppb.New(r.GetTime().AsTime().Add(time.Hour))
			})
		}, l.staging, "by a sign-in at"},
		{"a fact that expires said to be of another record", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("facts_expiry"))
				k, v := b.Cursor().First()
				earlier, value := bytes.Clone(k), bytes.Clone(v)
				other := bytes.Clone(earlier)
				other[15] ^= 0x40
				return errors.Join(b.Put(other, value), b.Delete(earlier))
			})
		}, noRecord + 1, "was changed"},
		{"a fact hidden behind one that expired", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("facts_expiry")).Put(slices.Concat(place(1<<63), place(0), []byte(audit.PolicyFact)), []byte{1})
			})
		}, 3, "was changed"},
		{"a nonce hidden behind one that expired", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("facts_expiry"))
				k, v := b.Cursor().First()
				return b.Put(slices.Concat(place(1<<63), place(0), k[16:]), bytes.Clone(v))
			})
		}, noRecord + 1, "was changed"},
		{"a fact where nobody looks for it", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				k, v := tx.Bucket([]byte("facts")).Cursor().Seek([]byte(audit.ReviewPrefix))
				key, value := bytes.Clone(k), bytes.Clone(v)
				return errors.Join(tx.Bucket([]byte("index")).Put(key, value), tx.Bucket([]byte("facts")).Delete(key))
			})
		}, noRecord, "where nobody looks for it"},
		{"a bucket in the place of a fact", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error {
				facts := tx.Bucket([]byte("facts"))
				k, _ := facts.Cursor().Seek([]byte("bound/"))
				key := bytes.Clone(k)
				if err := facts.Delete(key); err != nil {
					return err
				}
				_, err := facts.CreateBucket(key)
				return err
			})
		}, noRecord, "is no value"},
		{"more beside the checkpoint", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("more"), []byte("x")) })
		}, noRecord, `it says something of "more"`},
		{"a record of a newer program", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) { r.Version = 2 })
		}, l.refusal, "version 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := copyOf(t, l.path, l.key)
			tt.change(d)
			args := []string{"audit", "verify", d.path, "--public-key", l.key.Verifier(), "-o", "json"}
			if strings.Contains(tt.name, "against a newer checkpoint") {
				args = append(args, "--checkpoint", newest)
			}
			code, out, errs := run(t, args...)
			var answer struct {
				Error struct{ Message, Record string }
			}
			if err := json.Unmarshal([]byte(errs), &answer); err != nil || code != 1 || out != "" {
				t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errs)
			}
			record := answer.Error.Record
			if tt.record < noRecord && record != fmt.Sprint(tt.record) || tt.record == noRecord && record != "" || !strings.Contains(answer.Error.Message, tt.want) {
				t.Errorf("record %q: %s\nwant record %d, and %q", record, answer.Error.Message, tt.record, tt.want)
			}
		})
	}
}

// noRecord says that no record is named; one more, that any is.
const noRecord = 1 << 40

// TestVerifyTellsWhatItCannot shows that what was erased, and what another engine decided, is not passed over.
func TestVerifyTellsWhatItCannot(t *testing.T) {
	l := newRealLog(t)
	for _, tt := range []struct {
		name   string
		change func(d *doctored)
		want   string
	}{
		{"an identity that was erased", func(d *doctored) {
			d.rewrite(append(d.records(), d.erasure(l.prod, l.staging)))
			d.removeSnapshot(l.prod)
		}, "erased       1 decisions cannot be made again"},
		{"an identity that was erased after an archive was taken", func(d *doctored) {
			d.edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("archive"), place(0)) })
			d.removeSnapshot(l.prod)
		}, "erased       of 1 of those no record of this archive tells it"},
		{"a fault of the daemon", func(d *doctored) {
			d.doctor(l.refusal, func(r *pb.Record) {
				r.GetDecided().Refusal = &pb.Refusal{Kind: pb.ErrorKind_ERROR_KIND_INTERNAL, Message: "x"}
			})
		}, "not asked    1 refusals are for a fault of the daemon"},
		{"another engine, which comes to the same", func(d *doctored) {
			d.doctor(3, func(r *pb.Record) { r.GetPolicyLoaded().Engine = "cel-go v9.9.9" })
		}, "engine       12 of them were made by another engine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := copyOf(t, l.path, l.key)
			tt.change(d)
			key := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(key, []byte(l.key.Verifier()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			code, out, errs := run(t, "audit", "verify", d.path, "--key", key)
			if code != 0 || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d\n%s%swant %q", code, out, errs, tt.want)
			}
		})
	}
	foreign, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(t, "audit", "verify", l.path, "--public-key", foreign.Verifier()); code != 1 || !strings.Contains(errs, "not signed by the log") {
		t.Errorf("with the key of another log: exit code %d\n%s", code, errs)
	}
}

// Whoever takes one file for another does not get a private key shown.
func TestPrivateKeysAreNotShown(t *testing.T) {
	dir := t.TempDir()
	_, secret, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Generate(filepath.Join(dir, "ca")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"log": "the private key of a log", "ca": "not the public key of a log"} {
		file := filepath.Join(dir, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"--key", file}, {"--public-key", string(text)}} {
			code, out, errs := run(t, append([]string{"audit", "verify", "log.db"}, args...)...)
			if code != 2 || !strings.Contains(errs, want) {
				t.Errorf("exit code %d, want 2 and %q\n%s", code, want, errs)
			}
			if args[0] == "--key" && !strings.Contains(errs, file) {
				t.Errorf("%q does not name the file", errs)
			}
			t.Setenv("HALLPASS_LOG_KEY", string(text))
			_, _, shown := run(t, "audit", "verify", "log.db")
			if !strings.Contains(shown, "HALLPASS_LOG_KEY") || !strings.Contains(shown, want) {
				t.Errorf("%q does not say what HALLPASS_LOG_KEY is", shown)
			}
			errs += shown
			t.Setenv("HALLPASS_LOG_KEY", "")
			for line := range strings.Lines(string(text)) {
				if secret := strings.TrimPrefix(strings.TrimSpace(line), "PRIVATE+KEY+"); strings.Contains(out+errs, secret) {
					t.Errorf("%q shows %q", out+errs, secret)
				}
			}
		}
	}
}
