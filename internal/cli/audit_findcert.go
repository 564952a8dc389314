package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"
)

// maxCertificateFile is how much of a file is read, in bytes. A certificate has less than 10 KB.
const maxCertificateFile = 1 << 20

func (a *app) auditFindCertCommand() *cobra.Command {
	var (
		f    logFlags
		file string
	)
	cmd := &cobra.Command{
		Use:   "find-cert FILE",
		Short: "Tell whether a certificate that was found somewhere is in the log",
		Long: `Look for a certificate in the log: one that was found on a server or a laptop, valid or long expired. FILE is as ssh writes it
("ssh-ed25519-cert-v01@openssh.com AAAA..."), or the bare bytes; - reads standard input.

It ends with 0 if a record of the log grants exactly this certificate, and with 1 if none does. A certificate that a CA key of the
log signed and that is not in the log was made outside of the CA: whoever made it has the key.`,
		Example: "  hallpass audit find-cert id-cert.pub\n  hallpass audit find-cert id-cert.pub --log log.db --key log-key.pub",
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cert, err := readAnyCertificate(args[0])
			if err != nil {
				return err
			}
			if file == "" {
				return a.findOnline(cmd.Context(), cert)
			}
			key, err := a.logKey(cmd, f)
			if err != nil {
				return err
			}
			return a.findInCopy(cmd.Context(), cert, file, key)
		},
	}
	cmd.Flags().StringVar(&file, "log", "", "look into this copy of the log instead of asking the CA")
	f.add(cmd)
	return cmd
}

// readAnyCertificate reads a user certificate in either form.
func readAnyCertificate(file string) (*ssh.Certificate, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxCertificateFile))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	key, err := ssh.ParsePublicKey(text)
	if err != nil {
		key, _, _, _, err = ssh.ParseAuthorizedKey(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: it holds neither a line such as \"ssh-ed25519-cert-v01@openssh.com AAAA...\" nor the bytes of a certificate", file)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("read certificate %s: it is a plain %s key, not a certificate", file, key.Type())
	}
	if cert.CertType != ssh.UserCert {
		return nil, fmt.Errorf("read certificate %s: it is that of a host, not of a user", file)
	}
	return cert, nil
}

// lookedUp is what a log has at the place that a serial names.
type lookedUp struct {
	index uint64
	entry *pb.Entry // nil if there is none
	// authority is the name under which the log lists the key that signed; empty if it does not.
	authority string
}

func (a *app) findOnline(ctx context.Context, cert *ssh.Certificate) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	found := lookedUp{}
	discovered, err := conn.Discover(ctx)
	if err != nil {
		return err
	}
	keys, err := client.CAKeys(discovered)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if bytes.Equal(k.Key.Marshal(), cert.SignatureKey.Marshal()) {
			found.authority = k.Authority
		}
	}
	_, index, ok := audit.IndexOf(cert.Serial)
	if !ok {
		return a.showFound(cert, found)
	}
	found.index = index
	answer, err := conn.ProveRecord(ctx, who, index)
	if _, archived := archivedBy(err); ca.KindOf(err) == ca.NotFound && !archived {
		return a.showFound(cert, found)
	}
	if err != nil {
		return err
	}
	found.entry = answer.GetEntry()
	return a.showFound(cert, found)
}

func (a *app) findInCopy(ctx context.Context, cert *ssh.Certificate, file, key string) error {
	log, err := bolt.OpenCopy(file, key)
	if err != nil {
		return err
	}
	defer log.Close()
	found := lookedUp{}
	if found.authority, err = listedAs(ctx, log, cert.SignatureKey); err != nil {
		return err
	}
	_, index, ok := audit.IndexOf(cert.Serial)
	if !ok {
		return a.showFound(cert, found)
	}
	found.index = index
	if found.entry, err = provenEntry(ctx, log, index, file); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return a.showFound(cert, found)
}

// provenEntry returns a record of a copy, which proves it against its checkpoint, with the identity that it cites.
func provenEntry(ctx context.Context, log *bolt.Copy, index uint64, file string) (*pb.Entry, error) {
	p, err := store.ProveRecord(ctx, log, index)
	if archived, ok := errors.AsType[*store.ArchivedError](err); ok {
		return nil, &failure{exit: exitFailed, err: errors.New(archived.Error()), hint: "give the archive in the place of " + file}
	}
	if err != nil {
		return nil, err
	}
	checkpoint, err := audit.OpenCheckpoint(p.Checkpoint, log.PublicKey())
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckRecord(p.Inclusion, int64(checkpoint.Size), checkpoint.Root, int64(index), tlog.RecordHash(p.Record)); err != nil {
		return nil, wrong(fmt.Errorf("record %d is not what was signed: %w", index, err))
	}
	entry, record := &pb.Entry{Record: p.Record}, &pb.Record{}
	if err := proto.Unmarshal(p.Record, record); err != nil {
		return nil, fmt.Errorf("read record %d: %w", index, err)
	}
	if digest := audit.CallerOf(record).GetSnapshot(); len(digest) == 32 {
		if entry.Snapshot, err = log.Blob(ctx, [32]byte(digest)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return entry, nil
}

// listedAs returns the name under which a log lists a CA key; empty if it does not.
func listedAs(ctx context.Context, log store.Reader, key ssh.PublicKey) (string, error) {
	const most = 10_000
	facts, err := log.Facts(ctx, []byte(audit.AuthorityPrefix), nil, most)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(key.Marshal())
	for _, f := range facts {
		name, ok := bytes.CutSuffix(f.Key[len(audit.AuthorityPrefix):], append([]byte("/"), digest[:]...))
		if ok && audit.IsListed(f.Value) {
			return string(name), nil
		}
	}
	return "", nil
}

// showFound says whether the log has a certificate.
func (a *app) showFound(cert *ssh.Certificate, found lookedUp) error {
	signer := ssh.FingerprintSHA256(cert.SignatureKey)
	unsigned := *cert
	unsigned.Signature = nil
	toBeSigned := unsigned.Marshal()
	toBeSigned = toBeSigned[:len(toBeSigned)-4] // the length of the empty signature
	missing := func(hint, format string, args ...any) error {
		return &failure{exit: exitFailed, err: fmt.Errorf("the certificate with the serial %d is not in the log: "+format, append([]any{cert.Serial}, args...)...), hint: hint}
	}
	if cert.Signature == nil || cert.SignatureKey.Verify(toBeSigned, cert.Signature) != nil {
		return missing("", "its signature is not by the key %s that it names, so no server takes it", signer)
	}
	record := &pb.Record{}
	if found.entry != nil {
		if err := proto.Unmarshal(found.entry.GetRecord(), record); err != nil {
			return fmt.Errorf("read record %d: %w", found.index, err)
		}
	}
	same := bytes.Equal(record.GetDecided().GetToBeSigned(), toBeSigned)
	switch {
	case !same && found.authority == "":
		return missing("find out which servers trust that key", "it is signed by %s, which is not a CA key that this log lists", signer)
	case !same:
		what := "no record grants it"
		if found.entry != nil {
			what = fmt.Sprintf("record %d, to which its serial leads, grants another certificate or none", found.index)
		}
		return missing("take that CA key for stolen: make a new one, and have servers trust no other",
			"it is signed by %s, the CA key of the authority %q that this log lists, but %s. The key was used outside of the log", signer, found.authority, what)
	}
	return a.showGranted(cert, found)
}

func (a *app) showGranted(cert *ssh.Certificate, found lookedUp) error {
	record, err := newRecordJSON(found.entry)
	if err != nil {
		return err
	}
	ends := certTime(cert.ValidBefore)
	if a.json() {
		return a.printJSON(struct {
			InLog       bool       `json:"in_log"`
			ValidBefore time.Time  `json:"valid_before"`
			Record      recordJSON `json:"record"`
		}{true, ends, record})
	}
	state := "expired at " + clock(ends)
	if holds(cert, time.Now()) {
		state = "valid until " + clock(ends)
	}
	fmt.Fprintf(a.out, "record %d grants exactly this certificate, %s\n", found.index, state)
	for _, line := range [][2]string{{"who", record.Who}, {"login", record.Login}, {"host", record.Host}, {"rule", record.Rule}, {"time", record.Time.Format(time.RFC3339)}} {
		fmt.Fprintf(a.out, "  %-6s %s\n", line[0], strings.TrimSpace(plain(line[1])))
	}
	return nil
}
