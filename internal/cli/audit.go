package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Read the log, prove it and keep it (for auditors and admins)", a.auditListCommand(), a.auditShowCommand(), a.auditTailCommand(),
		a.auditVerifyCommand(), a.auditFindCertCommand(), a.auditCheckpointCommand(), a.auditConsistencyCommand(), a.auditProveCommand(),
		a.auditKeyCommand(), a.auditEraseCommand())
}

func (a *app) auditListCommand() *cobra.Command {
	var (
		limit           uint32
		since, until    string
		issuer, subject string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List records, newest first",
		Example: "  hallpass audit list --since 24h\n  hallpass audit list --since 2026-11-01T00:00:00Z --limit 1000 -o json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			page := &pb.ListRecordsRequest{Issuer: issuer, Subject: subject}
			var err error
			if page.Since, err = parseWhen(since, time.Now()); err != nil {
				return usageError(cmd, fmt.Errorf("--since: %w", err))
			}
			if page.Until, err = parseWhen(until, time.Now()); err != nil {
				return usageError(cmd, fmt.Errorf("--until: %w", err))
			}
			if (issuer == "") != (subject == "") {
				return usageError(cmd, errors.New("--issuer and --subject go together: a subject means nothing without its issuer"))
			}
			return a.auditList(cmd.Context(), page, int(limit))
		},
	}
	cmd.Flags().Uint32Var(&limit, "limit", 50, "at most this many records; 0 for all")
	cmd.Flags().StringVar(&since, "since", "", "only records from this time on: RFC 3339, a date, or how long ago such as 30d or 24h")
	cmd.Flags().StringVar(&until, "until", "", "only records before this time")
	cmd.Flags().StringVar(&issuer, "issuer", "", "only decisions about a subject of this issuer (its URL)")
	cmd.Flags().StringVar(&subject, "subject", "", "only decisions about this subject")
	return cmd
}

// parseWhen reads a time, or how long ago it was; nil for none.
func parseWhen(s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	t, err := parseMoment(s, now)
	if err != nil {
		return nil, err
	}
	return timestamppb.New(t), nil
}

func (a *app) auditList(ctx context.Context, page *pb.ListRecordsRequest, limit int) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	records := []recordJSON{}
	for {
		page.PageSize = 1000
		if limit > 0 {
			page.PageSize = uint32(min(limit-len(records), 1000))
		}
		answer, err := conn.ListRecords(ctx, who, page)
		if err != nil {
			return err
		}
		for _, entry := range answer.GetEntries() {
			record, err := newRecordJSON(entry)
			if err != nil {
				return err
			}
			records = append(records, record)
		}
		page.PageToken = answer.GetNextPageToken()
		if page.PageToken == "" || len(answer.GetEntries()) == 0 || limit > 0 && len(records) >= limit {
			break
		}
	}
	if a.json() {
		return a.printJSON(records)
	}
	fmt.Fprintln(a.out, recordHeader)
	for _, record := range records {
		fmt.Fprintln(a.out, record.line())
	}
	return nil
}

func (a *app) auditShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show INDEX",
		Short:   "Show one record in full",
		Example: "  hallpass audit show 17",
		Args:    exactArgs("INDEX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usageError(cmd, fmt.Errorf("%q is not the index of a record", args[0]))
			}
			conn, who, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			entry, err := conn.GetRecord(cmd.Context(), who, index)
			if err != nil {
				return err
			}
			record, err := newRecordJSON(entry)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(record)
			}
			return record.show(a.out)
		},
	}
}

func (a *app) auditTailCommand() *cobra.Command {
	var last uint32
	cmd := &cobra.Command{
		Use:     "tail",
		Short:   "Show the newest records, and then each one as it is committed",
		Long:    "Show the newest records, and then each one as it is committed, until interrupted. If the CA goes away, it waits for\nit. With -o json, one line a record.",
		Example: "  hallpass audit tail -n 20",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.auditTail(cmd.Context(), &pb.FollowRecordsRequest{Last: last})
		},
	}
	cmd.Flags().Uint32VarP(&last, "last", "n", 10, "begin with this many records; 0 for all")
	return cmd
}

// tailRetry is how often a daemon that went away is looked for.
const tailRetry = time.Second

// auditTail goes on where it was when the ID token expires, and when the daemon comes back.
func (a *app) auditTail(ctx context.Context, from *pb.FollowRecordsRequest) error {
	if !a.json() {
		fmt.Fprintln(a.out, recordHeader)
	}
	began, lost := false, false
	for {
		progress := false
		err := a.follow(ctx, from, func(record recordJSON, index uint64) error {
			progress, began, lost = true, true, false
			from.From, from.Last = index+1, 0
			if a.json() {
				return a.printJSONLine(record)
			}
			_, err := fmt.Fprintln(a.out, record.line())
			return err
		})
		switch {
		case ctx.Err() != nil:
			return err
		case progress && ca.KindOf(err) == ca.Unauthenticated:
			continue
		case !began || ca.KindOf(err) != ca.Unavailable:
			return err
		case !lost:
			a.note("%v; waiting for it to come back", err)
			lost = true
		}
		select {
		case <-time.After(tailRetry):
		case <-ctx.Done():
		}
	}
}

func (a *app) follow(ctx context.Context, from *pb.FollowRecordsRequest, each func(recordJSON, uint64) error) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.FollowRecords(ctx, who, from, func(entry *pb.Entry) error {
		record, err := newRecordJSON(entry)
		if err != nil {
			return err
		}
		index, err := strconv.ParseUint(record.Index, 10, 64)
		if err != nil {
			return err
		}
		return each(record, index)
	})
}
