package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/sink"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
)

func archiveCommand() *cobra.Command {
	var dir, before, reason string
	cmd := &cobra.Command{
		Use:   "archive --before TIME|AGE FILE [--reason TEXT] [--dir DIR]",
		Short: "Move old records out of the log, into a file that still verifies",
		Long: `Move the records that are older than a time, in whole blocks of 256, into FILE, while no daemon runs. FILE is a log of its own, which
the log key signs and ` + "`hallpass audit verify FILE`" + ` verifies. It is compared with the log before anything is removed.

The log keeps the hash of each record, so that checkpoints and proofs go on, and the records on which the CA itself hangs: its keys,
policies, restores, erasures, reviews and archives. A record says what was archived, by whom and why. It needs room for the archive and for a
second log. If it does not come to its end, run it again.`,
		Example: "  hallpassd archive --before 365d /srv/archive/2026.db\n" +
			"  hallpassd archive --before 2026-07-01 --reason \"records are kept online for half a year\" first-half.db",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{errors.New("give one FILE")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := LoadConfig(filepath.Join(dir, ConfigName))
			if err != nil {
				return err
			}
			at, err := parseBefore(before, c.Now())
			if err != nil {
				return &usageError{err}
			}
			if err := checkReason(reason); err != nil {
				return err
			}
			return archiveLog(c, bolt.Archiving{Before: at, File: args[0], Reason: reason, By: account()}, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	f.StringVar(&before, "before", "", "what is older: a time (RFC 3339), a date (UTC), or an age such as 365d; at least a day. Required")
	f.StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

// parseBefore reads a time, a date or an age.
func parseBefore(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, errors.New("--before is required: how old is what is archived?")
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	const most = 36500 // days: a century
	digits, ok := strings.CutSuffix(s, "d")
	if days, err := strconv.ParseUint(digits, 10, 32); ok && err == nil && days <= most {
		return now.Add(-time.Duration(days) * 24 * time.Hour), nil
	}
	return time.Time{}, fmt.Errorf("--before %q: want a time such as 2026-07-01T00:00:00Z, a date such as 2026-07-01, or an age such as 365d", s)
}

func archiveLog(c *Config, a bolt.Archiving, out io.Writer) error {
	path, cfg, err := c.keptLog()
	if err != nil {
		return err
	}
	a.Allow = func(log store.Reader, before uint64) error { return c.allSent(log, cfg.LogKey.ID(), before) }
	done, err := bolt.MoveToArchive(path, cfg, a)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: records %d to %d of the log %s, epoch %d, %d bytes\n", a.File, done.GetFrom(), done.GetBefore()-1, done.LogID, done.Epoch, done.ArchiveBytes)
	_, err = fmt.Fprintf(out, "%s: %d records from before %s are gone, see record %d; %d bytes before, %d after\n",
		path, done.GetRecords(), done.GetUntil().AsTime().Format(time.RFC3339), done.Index, done.BytesBefore, done.Bytes)
	return err
}

// allSent says whether all sinks have the records of a log before an index.
func (c *Config) allSent(log store.Reader, logID string, before uint64) error {
	for _, s := range c.Sinks {
		next, err := sink.Next(context.Background(), log, logID, c.path(sinksDir), s.Name)
		if err != nil {
			return err
		}
		if next < before {
			return fmt.Errorf("the sink %s has no more than the records before %d, and those before %d would leave: run the daemon until it has them, or take the sink out of %s",
				s.Name, next, before, ConfigName)
		}
	}
	return nil
}
