package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
)

// verifyGCPercent lets the heap grow before it is collected: a verification makes much garbage and keeps little.
const verifyGCPercent = 400

// logFlags say whose log a copy must be, and what others have seen of it.
type logFlags struct {
	keyFile, publicKey string
	checkpoints        []string
}

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.keyFile, "key", "", "file with the public key of the log")
	cmd.Flags().StringVar(&f.publicKey, "public-key", "", "public key of the log, name+hash+key (HALLPASS_LOG_KEY, log_key in the settings)")
	cmd.MarkFlagsMutuallyExclusive("key", "public-key")
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var f logFlags
	var archives []string
	cmd := &cobra.Command{
		Use:   "verify [COPY]",
		Short: "Check that the log is whole, and that each certificate follows from the policy",
		Long: `Check the log, or a copy of its file, trusting nothing but the public key of the log: that the records are those that the log key
signed; that serials, times and epochs follow from each other; that each certificate was granted by a decision that follows from
the policy then in force, made again here from what the record cites; and, of a copy, that the hashes and all that the daemon looks
up follow from the records. It names the first record that is wrong, and ends with 1.

The log holds certificates as they were to be signed, without signatures: whether the CA key signed anything else, it cannot tell.
A certificate that was found on a server is looked up by "hallpass audit find-cert".

Of records that were archived only the hashes are in the log. With --archive it takes the records from their archives, which it
verifies too, and checks all of the log; without, it says how many records are vouched for by their hashes alone. An archive is a log,
and can be the COPY.

An older checkpoint that somebody else kept, such as a witness, shows whether records were cut off or exchanged since.`,
		Example: "  hallpass audit verify\n  hallpass audit verify log.db --public-key \"$(cat log-key.pub)\" --checkpoint witness.txt",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, fmt.Errorf("%s takes one COPY, got %q", cmd.CommandPath(), args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			older, err := readCheckpoints(f.checkpoints)
			if err != nil {
				return err
			}
			if len(args) == 0 && len(archives) > 0 {
				return usageError(cmd, errors.New("--archive is for a COPY: take one with `hallpass backup`"))
			}
			if len(args) == 0 {
				return a.verifyOnline(cmd.Context(), f, older)
			}
			key, err := a.logKey(cmd, f)
			if err != nil {
				return err
			}
			return a.verifyCopy(cmd.Context(), args[0], key, older, archives)
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&f.checkpoints, "checkpoint", nil, "file with older checkpoints of the log; may be repeated")
	cmd.Flags().StringArrayVar(&archives, "archive", nil, "archive with records that are not in COPY any more; may be repeated")
	return cmd
}

// signedNote is a checkpoint as it is signed (C2SP tlog-checkpoint).
var signedNote = regexp.MustCompile(`(?m)^[^\n]+/[0-9]+\n[0-9]+\n[A-Za-z0-9+/=]+\n\n(?:— [^\n]+\n)+`)

// readCheckpoints reads files of signed checkpoints, as witnesses keep them: one or more. One that was cut short, because a machine
// failed while it was written, is passed over.
func readCheckpoints(files []string) ([][]byte, error) {
	var out [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read checkpoints: %w", err)
		}
		found := signedNote.FindAll(append(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), '\n'), -1)
		if len(found) == 0 {
			return nil, fmt.Errorf("read checkpoints: %s holds no signed checkpoint", file)
		}
		for _, signed := range found {
			if _, err := audit.ReadCheckpoint(signed); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			out = append(out, signed)
		}
	}
	return out, nil
}

// logKey is the public key that a copy must be of: that of the flags, or that of the settings.
func (a *app) logKey(cmd *cobra.Command, f logFlags) (string, error) {
	key := f.publicKey
	if f.keyFile != "" {
		text, err := os.ReadFile(f.keyFile)
		if err != nil {
			return "", fmt.Errorf("read the public key of the log: %w", err)
		}
		key = string(text)
	}
	if key == "" {
		s, err := a.settings()
		if err != nil {
			return "", err
		}
		key = s.LogKey
	}
	if strings.TrimSpace(key) == "" {
		return "", usageError(cmd, errors.New("whose log? give --public-key or --key: your admins have the key from `hallpassd init`, and `hallpass audit key` prints it"))
	}
	key, err := checkLogKey(key, f.keyFile)
	if err != nil {
		return "", usageError(cmd, err)
	}
	return key, nil
}

// checkLogKey returns the public key of a log, and names where it came from if it is none.
func checkLogKey(key, source string) (string, error) {
	key = strings.TrimSpace(key)
	if _, err := audit.LogID(key); err != nil {
		if source != "" {
			err = fmt.Errorf("%s: %w", source, err)
		}
		return "", err
	}
	return key, nil
}

// verifyCopy checks a copy of the log's file, and the archives that hold what is not in it any more.
func (a *app) verifyCopy(ctx context.Context, file, key string, older [][]byte, archives []string) error {
	c, err := openLogFile(file)
	if err != nil {
		return err
	}
	defer c.close()
	if err := a.join(ctx, c, archives, key); err != nil {
		return err
	}
	summary, blobs, err := a.verifyFile(ctx, c, key, older, newEvaluator(ctx, c.blob).evaluate)
	if err != nil {
		return err
	}
	return a.showSummary(summary, len(older), blobs)
}

// verifyFile checks a copy together with its archives.
func (a *app) verifyFile(ctx context.Context, c *logFile, key string, older [][]byte, evaluate func(*pb.Record) error) (*verify.Summary, int, error) {
	source, err := c.source(key, older)
	if err != nil {
		return nil, 0, err
	}
	source.Evaluate = evaluate
	summary, err := a.check(ctx, source)
	if err != nil {
		return nil, 0, c.blame(err)
	}
	blobs, err := checkBlobs(c.raw)
	if err != nil {
		return nil, 0, wrong(err)
	}
	return summary, blobs, nil
}

// rows are the values of a bucket whose keys must count from 0.
func rows(stored iter.Seq2[bolt.Row, error], what string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		next := uint64(0)
		for row, err := range stored {
			if err == nil && string(row.Key) != string(binary.BigEndian.AppendUint64(nil, next)) {
				err = fmt.Errorf("%s %d is missing: what follows is stored under %x", what, next, row.Key)
			}
			if !yield(row.Value, err) || err != nil {
				return
			}
			next++
		}
	}
}

func storedFacts(raw *bolt.Raw) iter.Seq2[verify.Fact, error] {
	return func(yield func(verify.Fact, error) bool) {
		for f, err := range raw.Facts() {
			if !yield(verify.Fact{Key: f.Key, Value: f.Value, Expires: f.Expires, Record: f.Record}, err) || err != nil {
				return
			}
		}
	}
}

// checkBlobs holds each blob against its name, and returns how many there are. None may be there that was erased.
func checkBlobs(raw *bolt.Raw) (int, error) {
	erased := map[string]uint64{}
	for f, err := range raw.Facts() {
		if err != nil {
			return 0, err
		}
		if digest, ok := audit.ErasedDigest(f.Key); ok {
			erased[string(digest)], _ = audit.Number(f.Value)
		}
	}
	n := 0
	for row, err := range raw.Blobs() {
		if err != nil {
			return n, err
		}
		if digest := audit.Digest(row.Value); string(digest[:]) != string(row.Key) {
			return n, fmt.Errorf("the blob %x is not what its name says: it was changed", row.Key)
		}
		if by, ok := erased[string(row.Key)]; ok {
			return n, &verify.RecordError{Index: by, Err: fmt.Errorf("it says that the identity snapshot %x was erased, and that is there", row.Key)}
		}
		n++
	}
	return n, nil
}

// verifyOnline checks the log of the CA where the user is signed in, as it is sent.
func (a *app) verifyOnline(ctx context.Context, f logFlags, older [][]byte) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if f.publicKey != "" && strings.TrimSpace(f.publicKey) != who.Log.PublicKey {
		return fmt.Errorf("the CA has the log %s, not %s", who.Log.PublicKey, f.publicKey)
	}
	answer, err := conn.GetCheckpoint(ctx, who)
	if err != nil {
		return err
	}
	seen, err := who.Log.Memory.Load()
	if err != nil {
		return err
	}
	if seen != nil {
		older = append(older, seen)
	}
	checkpoint := []byte(answer.GetCheckpoint())
	c, err := verify.OpenCheckpoint(checkpoint, who.Log.PublicKey)
	if err != nil {
		return wrong(err)
	}
	blobs := newRemoteBlobs(ctx, conn, who)
	source := verify.Source{
		PublicKey: who.Log.PublicKey, Checkpoint: checkpoint, Older: older,
		Records: blobs.records(a, c.Size), Evaluate: newEvaluator(ctx, blobs.get).evaluate, Leaf: blobs.leaf, Blob: blobs.get,
	}
	if source.Archived, err = conn.NewestArchive(ctx, who); err != nil {
		return err
	}
	summary, err := a.check(ctx, source)
	if err != nil {
		return err
	}
	return a.showSummary(summary, len(older), -1)
}

// check runs a verification, and shows how far it is.
func (a *app) check(ctx context.Context, s verify.Source) (*verify.Summary, error) {
	if s.Derive, s.Engine = derive, policy.Engine; s.Stored != nil {
		s.Index = index
	}
	defer debug.SetGCPercent(debug.SetGCPercent(verifyGCPercent))
	if isTerminal(a.err) {
		shown := time.Now()
		s.Progress = func(done, total uint64) {
			if time.Since(shown) < 200*time.Millisecond && done < total {
				return
			}
			shown = time.Now()
			fmt.Fprintf(a.err, "\r%s %d of %d records", bar(done, total), done, total)
		}
		defer fmt.Fprint(a.err, "\r\x1b[K")
	}
	summary, err := verify.Check(ctx, s)
	if err != nil {
		return nil, wrong(err)
	}
	return summary, nil
}

// bar shows a part of a whole.
func bar(done, total uint64) string {
	const width = 30
	full := width
	if total > 0 {
		full = int(done * width / total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}

// wrong says that a log is not what it should be, unless it could not be read at all.
func wrong(err error) error {
	if _, ok := errors.AsType[*client.Refusal](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	f := &failure{exit: exitFailed, err: fmt.Errorf("the log is not what it should be: %w", err), hint: "keep this copy, and tell those who audit the CA"}
	if _, ok := errors.AsType[*verify.RecordError](err); ok {
		return f
	}
	if code := (&app{}).classify(err); code.exit != exitFailed {
		return err // not reachable, not signed in
	}
	return f
}

func (a *app) showSummary(s *verify.Summary, older, blobs int) error {
	archivedBy := ""
	if s.Archived > 0 {
		archivedBy = strconv.FormatUint(s.ArchivedBy, 10)
	}
	if a.json() {
		return a.printJSON(struct {
			LogID        string `json:"log_id"`
			Epoch        uint32 `json:"epoch"`
			Records      string `json:"records"`
			Root         string `json:"root"`
			Certificates uint64 `json:"certificates"`
			Refusals     uint64 `json:"refusals"`
			Evaluated    uint64 `json:"evaluated"`
			Erased       uint64 `json:"erased"`
			NoEraser     uint64 `json:"erased_elsewhere"`
			Faults       uint64 `json:"faults"`
			OtherEngine  uint64 `json:"other_engine"`
			Facts        uint64 `json:"facts"`
			Blobs        int    `json:"blobs"`
			Older        int    `json:"older_checkpoints"`
			Archived     uint64 `json:"archived"`
			ArchivedBy   string `json:"archived_by,omitempty"`
			Rejoined     uint64 `json:"from_archives"`
		}{s.Checkpoint.LogID, s.Checkpoint.Epoch, strconv.FormatUint(s.Checkpoint.Size, 10), s.Checkpoint.Root.String(), s.Certificates, s.Refusals,
			s.Evaluated, s.Erased, s.EraserMissing, s.Faults, s.OtherEngine, s.Facts, max(blobs, 0), older, s.Archived, archivedBy, s.Rejoined})
	}
	fmt.Fprintf(a.out, "the log %s is whole: %d records\n", s.Checkpoint.LogID, s.Checkpoint.Size)
	fmt.Fprintf(a.out, "  root         %s\n  granted      %d\n  refused      %d\n  made again   %d decisions, each with the same outcome\n", s.Checkpoint.Root, s.Certificates, s.Refusals, s.Evaluated)
	if older > 0 {
		fmt.Fprintf(a.out, "  goes on from %s\n", plural(older, "older checkpoint"))
	}
	if s.Erased > 0 {
		fmt.Fprintf(a.out, "  erased       %d decisions cannot be made again: the identity that they cite was erased\n", s.Erased)
	}
	if s.EraserMissing > 0 {
		fmt.Fprintf(a.out, "  erased       of %d of those no record of this archive tells it: verify the log with it, by --archive\n", s.EraserMissing)
	}
	if s.Faults > 0 {
		fmt.Fprintf(a.out, "  not asked    %d refusals are for a fault of the daemon, and say nothing of the policy\n", s.Faults)
	}
	if s.OtherEngine > 0 {
		fmt.Fprintf(a.out, "  engine       %d of them were made by another engine than %s, which came to the same\n", s.OtherEngine, policy.Engine)
	}
	if s.Rejoined > 0 {
		fmt.Fprintf(a.out, "  archives     %d of the records are in them\n", s.Rejoined)
	}
	if s.Archived > 0 {
		fmt.Fprintf(a.out, "  archived     %d records before record %d are vouched for by their hashes alone: record %d moved them to an archive on %s\n",
			s.Archived, s.Archive.GetBefore(), s.ArchivedBy, s.ArchivedAt.Format(time.DateOnly))
	}
	switch {
	case s.Facts > 0:
		fmt.Fprintf(a.out, "  stored       %d facts follow from the records, %d blobs are what they are called\n", s.Facts, blobs)
	case blobs >= 0:
		fmt.Fprintf(a.out, "  stored       %d blobs are what they are called\n", blobs)
		fmt.Fprintln(a.out, "  not checked  the facts that the daemon keeps beside them: another version of this program derived them")
	default:
		fmt.Fprintln(a.out, "  not checked  what the daemon keeps beside the records: verify a copy for that")
	}
	fmt.Fprintln(a.out, "  not checked  signatures of the CA keys: the log does not hold them")
	return nil
}
