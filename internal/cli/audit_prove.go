package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/spf13/cobra"
)

// checkpointJSON is the form of a checkpoint in results.
type checkpointJSON struct {
	LogID string `json:"log_id"`
	Epoch uint32 `json:"epoch"`
	Size  string `json:"size"`
	Root  string `json:"root"`
	// Checkpoint is the signed note.
	Checkpoint   string `json:"checkpoint"`
	LogPublicKey string `json:"log_public_key"`
}

func newCheckpointJSON(signed, key string) (checkpointJSON, error) {
	c, err := audit.OpenCheckpoint([]byte(signed), key)
	if err != nil {
		return checkpointJSON{}, fmt.Errorf("the CA gave a checkpoint of another log than the one known since login: %w", err)
	}
	return checkpointJSON{c.LogID, c.Epoch, strconv.FormatUint(c.Size, 10), c.Root.String(), signed, key}, nil
}

func (a *app) auditCheckpointCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest signed checkpoint of the log (for everybody who is signed in)",
		Long: `Print the newest checkpoint of the log as the log key signed it (C2SP tlog-checkpoint): its size and the hash that stands for all its
records. Keep it where the CA cannot reach it: "audit consistency" and "audit verify --checkpoint" show later whether the log was
only added to.`,
		Example: "  hallpass audit checkpoint >checkpoint.txt",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, who, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			answer, err := conn.GetCheckpoint(cmd.Context(), who)
			if err != nil {
				return err
			}
			c, err := newCheckpointJSON(answer.GetCheckpoint(), who.Log.PublicKey)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(c)
			}
			_, err = fmt.Fprint(a.out, c.Checkpoint)
			return err
		},
	}
}

func (a *app) auditKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "Print the public key of the log, which was pinned at login",
		Long: `Print the public key of the log, as it was pinned at login. It asks nobody. Auditors get it from the admins of the CA, and compare.
"hallpassd init" prints it too.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.session(cmd.Context())
			if err != nil {
				return err
			}
			address, err := a.sessionAddress(s)
			if err != nil {
				return err
			}
			log, err := a.knownLog(address)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]string{"log_public_key": log.PublicKey})
			}
			_, err = fmt.Fprintln(a.out, log.PublicKey)
			return err
		},
	}
}

func (a *app) auditProveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "prove RECORD",
		Short:   "Prove that a record is in the log",
		Long:    "Get a record with the proof that it is in the log (RFC 6962), and check the proof against a checkpoint that the log key signed.",
		Example: "  hallpass audit prove 17 -o json",
		Args:    exactArgs("RECORD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usageError(cmd, fmt.Errorf("%q is not the index of a record", args[0]))
			}
			return a.prove(cmd.Context(), index)
		},
	}
}

func (a *app) prove(ctx context.Context, index uint64) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := conn.ProveRecord(ctx, who, index)
	if err != nil {
		return err
	}
	c, err := newCheckpointJSON(answer.GetCheckpoint(), who.Log.PublicKey)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(struct {
			Index string `json:"index"`
			// Record is the exact bytes, in base64; the hash of the proof's leaf is SHA-256 of a zero byte and these.
			Record []byte   `json:"record"`
			Proof  []string `json:"proof"`
			checkpointJSON
		}{decimal(index), answer.GetEntry().GetRecord(), texts(answer.GetProof()), c})
	}
	record, err := newRecordJSON(answer.GetEntry())
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "record %d is in the log %s, among %s records\n%s\n", index, c.LogID, c.Size, record.line())
	return nil
}

// decimal is how results show indexes and sizes.
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// texts are hashes in base64.
func texts(hashes [][]byte) []string {
	out := []string{}
	for _, h := range hashes {
		out = append(out, base64.StdEncoding.EncodeToString(h))
	}
	return out
}

func (a *app) auditConsistencyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "consistency CHECKPOINT_FILE",
		Short: "Prove that the log was only added to since an older checkpoint (for everybody who is signed in)",
		Long: `Have the CA prove that its log begins with the records that a signed checkpoint is of (RFC 6962). The file is one that "audit
checkpoint" printed, or that a witness kept; of several checkpoints each is proven. It ends with 1 if one is not.`,
		Example: "  hallpass audit consistency checkpoint.txt",
		Args:    exactArgs("CHECKPOINT_FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			older, err := readCheckpoints(args)
			if err != nil {
				return err
			}
			return a.consistency(cmd.Context(), older)
		},
	}
}

func (a *app) consistency(ctx context.Context, older [][]byte) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	type provenJSON struct {
		From  string   `json:"from"`
		Proof []string `json:"proof"`
		checkpointJSON
	}
	var proven []provenJSON
	for _, signed := range older {
		answer, err := conn.ProveConsistency(ctx, who, signed)
		if _, ok := errors.AsType[*client.ForkError](err); ok {
			return &failure{exit: exitFailed, err: err, hint: "keep this checkpoint, and tell those who audit the CA"}
		}
		if err != nil {
			return err
		}
		before, err := audit.ReadCheckpoint(signed)
		if err != nil {
			return err
		}
		c, err := newCheckpointJSON(answer.GetCheckpoint(), who.Log.PublicKey)
		if err != nil {
			return err
		}
		proven = append(proven, provenJSON{decimal(before.Size), texts(answer.GetProof()), c})
	}
	if a.json() {
		return a.printJSON(proven)
	}
	for _, p := range proven {
		fmt.Fprintf(a.out, "the %s records of the log %s begin with the %s of the checkpoint\n", p.Size, p.LogID, p.From)
	}
	return nil
}
