package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
)

func (a *app) backupCommand() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Fetch a copy of the log (for admins)",
		Long: `Fetch a copy of the whole log while the CA goes on, and read it back before FILE appears. It holds every record, policy and
identity, and no key: keep it as you keep the log, and the keys elsewhere. The log records who took it.

"hallpassd restore --from FILE" puts it in the place of a log that was lost.`,
		Example: "  hallpass backup hallpass-2026-11-25.db",
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backup(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists")
	return cmd
}

type backupJSON struct {
	File         string `json:"file"`
	Bytes        uint64 `json:"bytes"`
	Records      string `json:"records"`
	Epoch        uint32 `json:"epoch"`
	Checkpoint   string `json:"checkpoint"`
	LogPublicKey string `json:"log_public_key"`
}

func (a *app) backup(ctx context.Context, file string, force bool) error {
	switch info, err := os.Lstat(file); {
	case err != nil: // it is not there, or the temporary file beside it cannot be made either
	case !force:
		return existsError(file)
	case !info.Mode().IsRegular(): // the backup would take the place of a device, and not go to it
		return &failure{exit: exitFailed, err: fmt.Errorf("%s is not a regular file: --force replaces no other", file), hint: "give another name"}
	}
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	tmp, err := os.CreateTemp(filepath.Dir(file), ".hallpass-backup-") // 0600
	if err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	defer os.Remove(tmp.Name())
	header, err := conn.Backup(ctx, who, tmp, a.backupProgress())
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	checkpoint, err := readBack(ctx, tmp.Name(), header)
	if err != nil {
		return fmt.Errorf("the backup is not a good one, and was thrown away: %w", err)
	}
	if err := appear(tmp.Name(), file, force); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(backupJSON{
			File: file, Bytes: header.GetBytes(), Records: fmt.Sprint(checkpoint.Size), Epoch: checkpoint.Epoch,
			Checkpoint: header.GetCheckpoint(), LogPublicKey: header.GetLogPublicKey(),
		})
	}
	fmt.Fprintf(a.out, "%s: %d records of the log %s, epoch %d, %.1f MB\n", plain(file), checkpoint.Size, checkpoint.LogID, checkpoint.Epoch,
		float64(header.GetBytes())/1e6)
	return nil
}

// backupProgress shows on a terminal how far a backup is.
func (a *app) backupProgress() func(have, of uint64) {
	if !isTerminal(a.err) || a.json() {
		return func(uint64, uint64) {}
	}
	var told time.Time
	return func(have, of uint64) {
		if now := time.Now(); have == of || now.Sub(told) > time.Second/5 {
			told = now
			fmt.Fprintf(a.err, "\r%d of %d MB", have/1e6, of/1e6)
			if have == of {
				fmt.Fprint(a.err, "\r\x1b[K")
			}
		}
	}
}

// readBack reads all of a backup, as whoever restores it will.
func readBack(ctx context.Context, path string, header *pb.BackupHeader) (audit.Checkpoint, error) {
	c, err := bolt.OpenCopy(path, header.GetLogPublicKey())
	if err != nil {
		return audit.Checkpoint{}, err
	}
	signed, err := c.Checkpoint(ctx)
	if err == nil && string(signed) != header.GetCheckpoint() {
		err = errors.New("it has another checkpoint than the CA said")
	}
	if err = errors.Join(err, c.Whole(ctx), c.Close()); err != nil {
		return audit.Checkpoint{}, err
	}
	return audit.OpenCheckpoint(signed, header.GetLogPublicKey())
}

// appear gives a file that is complete its name, in one step.
func appear(from, to string, force bool) error {
	err := error(nil)
	if force {
		err = os.Rename(from, to)
	} else if err = os.Link(from, to); errors.Is(err, fs.ErrExist) { // a rename would replace what came meanwhile
		return existsError(to)
	} else if err != nil {
		err = os.Rename(from, to) // the file system has no links
	}
	if err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	if dir, err := os.Open(filepath.Dir(to)); err == nil { // not every system can sync a folder
		_ = dir.Sync()
		dir.Close()
	}
	return nil
}

func existsError(file string) error {
	return &failure{exit: exitFailed, err: fmt.Errorf("%s exists: a backup never replaces another by itself", file), hint: "give another name, or --force"}
}
