package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
)

// keptLog is the log of a folder, for commands that work on it while no daemon runs.
func keptLog(dir string) (path string, cfg bolt.Config, err error) {
	c, err := LoadConfig(filepath.Join(dir, ConfigName))
	if err != nil {
		return "", cfg, err
	}
	return c.keptLog()
}

func (c *Config) keptLog() (path string, cfg bolt.Config, err error) {
	key, err := audit.LoadLogKey(c.path(c.Log.Key))
	if err != nil {
		return "", cfg, err
	}
	return c.path(c.Log.File), bolt.Config{LogKey: key, Now: c.Now}, nil
}

func restoreCommand() *cobra.Command {
	var (
		dir         string
		checkpoints []string
		r           bolt.Restoring
	)
	cmd := &cobra.Command{
		Use:   "restore --from FILE [--checkpoint FILE]... [--accept-loss] [--reason TEXT]",
		Short: "Put a backup in the place of a log that was lost",
		Long: `Verify a backup of the log and put it in the place of the log that was lost. The log goes on in an epoch of its own, so that no
serial is ever used twice, and records that it was restored, by whom and why. The old file is kept.

It refuses to go back behind anything that is known of the log: the checkpoints that are given, the head beside the log, and the old
log itself. --accept-loss restores all the same: what was recorded after the backup is lost then. It is needed too if nothing at all
is known of the log. Those who knew more of it are told, in words that the log key signed.`,
		Example: "  hallpassd restore --from backup.db --checkpoint witness/checkpoint\n" +
			"  hallpassd restore --from backup.db --accept-loss --reason \"disk lost on 25 November\"",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.From == "" {
				return &usageError{errors.New("--from is required: which backup?")}
			}
			if err := checkReason(r.Reason); err != nil {
				return err
			}
			for _, name := range checkpoints {
				signed, err := os.ReadFile(name)
				if err != nil {
					return fmt.Errorf("read checkpoint: %w", err)
				}
				r.Known = append(r.Known, signed)
			}
			r.By = account()
			return restoreLog(dir, r, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	f.StringVar(&r.From, "from", "", "the backup; required")
	f.StringArrayVar(&checkpoints, "checkpoint", nil, "file with a signed checkpoint of the log, the newest that anybody has; may be repeated")
	f.BoolVar(&r.AcceptLoss, "accept-loss", false, "restore although records are missing, or may be")
	f.StringVar(&r.Reason, "reason", "", "why, for the record")
	return cmd
}

// checkReason holds a reason that goes into the log to what the daemon asks of those that others give.
func checkReason(reason string) error {
	if !ca.OneLine(strings.TrimSpace(reason)) {
		return &usageError{errors.New("--reason: write one line without control characters")}
	}
	return nil
}

func restoreLog(dir string, r bolt.Restoring, out io.Writer) error {
	path, cfg, err := keptLog(dir)
	if err != nil {
		return err
	}
	done, err := bolt.Restore(path, cfg, r)
	if _, ok := errors.AsType[*bolt.LossError](err); ok {
		return fmt.Errorf("%w. Look for a newer backup; --accept-loss goes on without what is missing", err)
	}
	if err != nil {
		return err
	}
	base := done.Restore.Base
	fmt.Fprintf(out, "restored %d records of the log %s, which goes on in epoch %d\n", base.Size, base.LogID, done.Restore.Epoch)
	switch {
	case done.Missing > 0:
		fmt.Fprintf(out, "records lost: at least %d\n", done.Missing)
	case done.Restore.Known == nil:
		fmt.Fprintln(out, "lost: nobody knows; records after the backup, if there were any")
	}
	if done.Aside != "" {
		fmt.Fprintf(out, "the old file is %s\n", done.Aside)
	}
	_, err = fmt.Fprintf(out, "start the daemon: hallpassd run --dir %s\n", dir)
	return err
}

// account is who runs this program, for a record.
func account() string {
	who := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		who = fmt.Sprintf("%s (uid %s)", u.Username, u.Uid)
	}
	if sudo := os.Getenv("SUDO_USER"); sudo != "" {
		who += ", by sudo of " + sudo
	}
	return who
}

func compactCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "compact [--dir DIR]",
		Short: "Write the log anew, without what was erased and without unused pages",
		Long: `Replace the log by a fresh copy of itself, made and verified from its records, while no daemon runs. It needs room for a second log.
The bytes of what was erased are in no page of the new file; the blocks of the old one are the file system's again.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, cfg, err := keptLog(dir)
			if err != nil {
				return err
			}
			before, after, err := bolt.Compact(path, cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes before, %d after\n", path, before, after)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	return cmd
}

func backupCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "backup FILE [--dir DIR]",
		Short: "Copy the log while no daemon runs; `hallpass backup` does while one does",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{errors.New("give one FILE")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path, cfg, err := keptLog(dir)
			if err != nil {
				return err
			}
			err = backupLog(cmd, path, cfg, args[0])
			if errors.Is(err, bolt.ErrTaken) {
				return fmt.Errorf("%w. While the daemon runs, an admin takes one with `hallpass backup`", err)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	return cmd
}

func backupLog(cmd *cobra.Command, path string, cfg bolt.Config, file string) (err error) {
	log, err := bolt.Open(path, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	copied, err := log.Backup(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copied.Close()) }()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, copied)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	c, err := audit.OpenCheckpoint(copied.Checkpoint, cfg.LogKey.Verifier())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d records of the log %s, epoch %d, %d bytes\n", file, c.Size, c.LogID, c.Epoch, copied.Bytes)
	return err
}
