package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/replay"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
)

// replayOptions are the flags of `hallpass policy replay`.
type replayOptions struct {
	since, between string
	log, logKey    string
	markdown       bool
	expectNone     bool
}

func (a *app) policyReplayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay DIR",
		Short: "Say what a policy would have done to the decisions of the past",
		Long: `Ask the policy in a folder, as its files are now, about every decision that the log holds, and say which would come out otherwise:
who gains access, who loses it, whose certificates would differ. Instead of a folder DIR may be a txtar file that holds a policy.
The log is that of the daemon (for auditors and admins), or a copy of its file: --log needs neither a daemon nor a sign-in.

First each decision is made again by the policy that made it. If that comes to something else than the record says, it is an alarm
and the exit code is 1: there is a mistake in a program, or somebody changed the log. A decision that cannot be compared is listed
with the reason, and never guessed: the identity was erased, or the new policy declares a claim that was not recorded then.

Times are RFC 3339, or dates (their first moment, UTC), or how long ago: 30d, 2w, 24h. The end of a range is not part of it.

The exit code is 1 for an alarm or a record that cannot be read, and with --expect-none also if a decision would change, or cannot
be told because of a claim. Else it is 0.

-o json prints, under names that stay:
  decisions, compared          how many there are, and how many could be compared
  changed                      how many of these would change, the sum of:
  gains, loses                   refused then and allowed now, or the other way round
  grants_differ                  allowed by both, with other certificates or by other rules
  refusals_differ                refused by both, for other reasons
  not_reproduced, alarms       decisions that their own policy does not make again
  changes                      groups: kind, environment, before and after (outcome, rule, needs), differences of the grants (what,
                               before, after), decisions, identities, first_record
  skipped                      groups: reason, detail, decisions, first_record. The reasons: not_asked, inputs_erased,
                               record_unreadable, policy_not_reproducible, other_engine, claim_not_recorded, refused_by_ceiling,
                               out_of_time`,
		Example: "  hallpass policy replay ./policy --since 30d\n" +
			"  hallpass policy replay ./policy --log log-copy.db --markdown\n" +
			"  hallpass policy replay ./policy --between 2026-11-01..2026-11-15 --expect-none",
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := o.config(time.Now())
			if err != nil {
				return usageError(cmd, err)
			}
			if o.markdown && a.json() {
				return usageError(cmd, errors.New("--markdown and -o json are two forms of the same: give one"))
			}
			return a.policyReplay(cmd.Context(), args[0], o, config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.since, "since", "", "only decisions from this time on (default: all)")
	flags.StringVar(&o.between, "between", "", "only decisions between two times, A..B")
	flags.StringVar(&o.log, "log", "", "a copy of the log file instead of the daemon")
	flags.StringVar(&o.logKey, "log-key", "", "public key that the log must have, as hallpassd init printed it, or a file with it")
	flags.BoolVar(&o.markdown, "markdown", false, "print Markdown, for a pull request")
	flags.BoolVar(&o.expectNone, "expect-none", false, "fail if a decision would change")
	return cmd
}

// config reads the range.
func (o replayOptions) config(now time.Time) (replay.Config, error) {
	var c replay.Config
	var err error
	switch {
	case o.since != "" && o.between != "":
		return c, errors.New("--since and --between: give one")
	case o.logKey != "" && o.log == "":
		return c, errors.New("--log-key is for --log: a daemon is known by its address")
	case o.since != "":
		if c.Since, err = parseMoment(o.since, now); err != nil {
			return c, fmt.Errorf("--since %w", err)
		}
	case o.between != "":
		if c.Since, c.Until, err = parseBetween(o.between, now); err != nil {
			return c, fmt.Errorf("--between %w", err)
		}
	}
	return c, nil
}

func (a *app) policyReplay(ctx context.Context, dir string, o replayOptions, config replay.Config) error {
	bundle, err := readBundle(dir)
	if err != nil {
		return err
	}
	if config.Proposed, err = policy.Compile(bundle); err != nil {
		return a.mistaken(err)
	}
	if o.log == "" {
		config.Log = replay.Daemon{Dial: a.dial}
	} else {
		key, err := readLogKey(o.logKey)
		if err != nil {
			return err
		}
		copied, err := bolt.OpenCopy(o.log, key)
		if err != nil {
			return err
		}
		defer copied.Close()
		config.Log = replay.Copy{Reader: copied}
	}
	bar := a.progress("records")
	config.Progress = bar.show
	summary, err := replay.Run(ctx, config)
	bar.clear()
	if err == nil {
		err = a.noteArchived(ctx, config)
	}
	if err != nil {
		return err
	}
	switch {
	case a.json():
		err = a.printJSON(summary)
	case o.markdown:
		_, err = fmt.Fprint(a.out, plain(replayMarkdown(summary)))
	default:
		_, err = fmt.Fprint(a.out, plain(replayText(summary)))
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return replayVerdict(summary, o.expectNone)
}

// readLogKey returns the public key itself, or that in the file of this name.
func readLogKey(key string) (string, error) {
	switch {
	case key == "":
		return "", nil
	case strings.Count(key, "+") >= 2:
		return checkLogKey(key, "--log-key")
	}
	text, err := os.ReadFile(key)
	if err != nil {
		return "", fmt.Errorf("read the public key of the log: %w", err)
	}
	return checkLogKey(string(text), key)
}

// replayVerdict is the error of a replay that found what must not be.
func replayVerdict(s *policy.ReplaySummary, expectNone bool) error {
	skipped := func(reason policy.SkipReason) (n uint64) {
		for _, g := range s.Skipped {
			if g.Reason == reason {
				n += g.Decisions
			}
		}
		return n
	}
	unread, unknown := skipped(policy.SkipUnread), skipped(policy.SkipClaim)
	switch {
	case s.NotReproduced > 0:
		return &failure{
			exit: exitFailed, hint: "hallpass audit show " + s.Alarms[0].Record,
			err: fmt.Errorf("alarm: the policy that made %s does not make it again (record %s): a mistake in a program, or somebody changed the log",
				count(s.NotReproduced, "decision"), s.Alarms[0].Record),
		}
	case unread > 0:
		return fmt.Errorf("%s cannot be read: a newer program wrote them, or they are damaged", count(unread, "record"))
	case expectNone && s.Changed > 0:
		return fmt.Errorf("%s would change, and --expect-none expects none", count(s.Changed, "decision"))
	case expectNone && unknown > 0:
		return fmt.Errorf("of %s it cannot be told whether they would change, and --expect-none expects none", count(unknown, "decision"))
	}
	return nil
}

// count counts many things.
func count(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return grouped(n) + " " + thing + "s"
}

// grouped prints 1,000,000.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
