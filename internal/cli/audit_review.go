package cli

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

func (a *app) auditReviewCommand() *cobra.Command {
	var (
		overdue bool
		comment string
	)
	cmd := &cobra.Command{
		Use:   "review [INDEX...]",
		Short: "List the decisions that ask for review, or mark some as reviewed (for auditors and admins)",
		Long: `List the decisions that ask for review and that nobody looked at yet: what is due first comes first. The review rules of the policy
say which do. With the index of one or more records and a comment, mark them as reviewed. The mark is a record itself, and is not
for whoever asked for the certificate.

With --overdue, list only those whose time has come, and end with 1 if there are any: for a cron job.`,
		Example: `  hallpass audit review
  hallpass audit review --overdue
  hallpass audit review 17 18 --comment "INC-4711: she was on call, and the incident needed it"`,
		Args: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if _, err := strconv.ParseUint(arg, 10, 64); err != nil {
					return usageError(cmd, fmt.Errorf("%q is not the index of a record", arg))
				}
			}
			return nil
		},
		Annotations: map[string]string{formsAnnotation: "csv"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && cmd.Flags().Changed("comment"):
				return usageError(cmd, errors.New("--comment is for records that you mark: name them by their index"))
			case len(args) == 0:
				return a.listReviews(cmd.Context(), overdue)
			case overdue:
				return usageError(cmd, errors.New("--overdue is for the list: name no records"))
			case strings.TrimSpace(comment) == "":
				return usageError(cmd, errors.New("--comment is required: say what you found, it stays in the log"))
			}
			return a.markReviewed(cmd.Context(), args, comment)
		},
	}
	cmd.Flags().BoolVar(&overdue, "overdue", false, "only those that are overdue; ends with 1 if there are any")
	cmd.Flags().StringVar(&comment, "comment", "", "what you found, for the log; required to mark records")
	return cmd
}

// reviewJSON is a decision that asks for review.
type reviewJSON struct {
	recordJSON
	Overdue bool             `json:"overdue"`
	Asked   []reviewRuleJSON `json:"asked"`
}

// reviewRuleJSON is a review rule that asks.
type reviewRuleJSON struct {
	Name    string `json:"name"`
	Message string `json:"message"`
	// Failed says why its condition could not be evaluated; empty if it is true.
	Failed string `json:"failed,omitempty"`
}

func newReviewJSON(entry *pb.Entry, now time.Time) (reviewJSON, error) {
	record, err := newRecordJSON(entry)
	if err != nil {
		return reviewJSON{}, err
	}
	asked, err := askedReview(entry)
	return reviewJSON{recordJSON: record, Overdue: !now.Before(record.ReviewDue), Asked: asked}, err
}

func askedReview(entry *pb.Entry) ([]reviewRuleJSON, error) {
	var record pb.Record
	if err := proto.Unmarshal(entry.GetRecord(), &record); err != nil {
		return nil, fmt.Errorf("read a record of the log: %w", err)
	}
	asked := []reviewRuleJSON{}
	for _, rule := range record.GetDecided().GetReview().GetRules() {
		asked = append(asked, reviewRuleJSON{rule.GetName(), rule.GetMessage(), rule.GetFailed()})
	}
	return asked, nil
}

// String is the rule in a line.
func (r reviewRuleJSON) String() string {
	text := r.Name
	if r.Message != "" {
		text += ": " + r.Message
	}
	if r.Failed != "" {
		text += " (could not be evaluated: " + r.Failed + ")"
	}
	return text
}

// what says what was asked for and how it ended.
func (r reviewJSON) what() string {
	what := r.Outcome
	if r.Login != "" || r.Host != "" {
		what += " " + r.Login + "@" + r.Host
	}
	if r.Rule != "" {
		what += " rule=" + r.Rule
	}
	return what
}

func (r reviewJSON) why() string {
	var all []string
	for _, rule := range r.Asked {
		all = append(all, rule.String())
	}
	return strings.Join(all, "; ")
}

func (a *app) listReviews(ctx context.Context, overdue bool) error {
	p, err := a.openPager(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	all, err := p.reviews(ctx, overdue)
	if err != nil {
		return err
	}
	switch a.output {
	case "json":
		err = a.printJSON(all)
	case "csv":
		err = writeReviewCSV(a.out, all)
	default:
		if len(all) > 0 {
			err = a.writeReviewTable(all)
			break
		}
		a.note("%s", map[bool]string{false: "nothing asks for review", true: "no review is overdue"}[overdue])
	}
	if err == nil && overdue && len(all) > 0 {
		err = &failure{exit: exitFailed, err: fmt.Errorf("%s overdue", plural(len(all), "review")), hint: "hallpass audit show INDEX, then hallpass audit review INDEX --comment TEXT"}
	}
	return err
}

// reviews returns the whole queue.
func (p *pager) reviews(ctx context.Context, overdue bool) ([]reviewJSON, error) {
	all := []reviewJSON{}
	for in := (&pb.ListReviewsRequest{PageSize: pageSize, Overdue: overdue}); ; {
		var answer *pb.ListReviewsResponse
		if err := p.again(ctx, func() (err error) {
			answer, err = p.conn.ListReviews(ctx, p.who, in)
			return err
		}); err != nil {
			return nil, err
		}
		for _, entry := range answer.GetEntries() {
			review, err := newReviewJSON(entry, answer.GetNow().AsTime())
			if err != nil {
				return nil, err
			}
			all = append(all, review)
		}
		if in.PageToken = answer.GetNextPageToken(); in.PageToken == "" {
			return all, nil
		}
	}
}

func (a *app) writeReviewTable(all []reviewJSON) error {
	t := a.newRecordTable()
	if err := t.line(bold(t.w, cut("RECORD   DUE                   OVERDUE  WHO AND WHAT; WHY", t.width))); err != nil {
		return err
	}
	for _, r := range all {
		late := "no"
		if r.Overdue {
			late = "yes"
		}
		text := strings.Join(strings.Fields(plain(r.Who+" "+r.what()+"; "+r.why())), " ")
		if err := t.line(cut(fmt.Sprintf("%-8s %-21s %-8s %s", r.Index, r.ReviewDue.Format(time.RFC3339), late, text), t.width)); err != nil {
			return err
		}
	}
	return nil
}

func writeReviewCSV(w io.Writer, all []reviewJSON) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	rows := [][]string{{"record", "time", "due", "overdue", "who", "decision", "login", "host", "rule", "reviews", "why"}}
	for _, r := range all {
		row := []string{
			r.Index, r.Time.Format(time.RFC3339), r.ReviewDue.Format(time.RFC3339), strconv.FormatBool(r.Overdue), r.Who, r.Outcome, r.Login, r.Host, r.Rule,
			strings.Join(r.Reviews, " "), r.why(),
		}
		for i := range row {
			row[i] = noFormula(plain(row[i]))
		}
		rows = append(rows, row)
	}
	if err := c.WriteAll(rows); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// markReviewed marks records one after another, and ends with the first that is refused.
func (a *app) markReviewed(ctx context.Context, indexes []string, comment string) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	type markJSON struct {
		Record string `json:"record"`
		Mark   string `json:"mark"`
	}
	marks := []markJSON{}
	for _, arg := range indexes {
		index, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not the index of a record", arg)
		}
		at, markErr := conn.MarkReviewed(ctx, who, index, comment)
		if markErr != nil {
			if a.json() && len(marks) > 0 {
				markErr = errors.Join(markErr, a.printJSON(marks))
			}
			f := *a.classify(markErr)
			switch ca.KindOf(markErr) {
			case ca.NotFound:
				f.hint = "hallpass audit review lists what asks for review"
			case ca.Denied: // for want of a role, or because the record is about the user
				f.hint = "somebody else who may review has to look at it"
			}
			return &f
		}
		if marks = append(marks, markJSON{arg, strconv.FormatUint(at, 10)}); !a.json() {
			fmt.Fprintf(a.out, "reviewed record %d, see record %d\n", index, at)
		}
	}
	if a.json() {
		return a.printJSON(marks)
	}
	return nil
}

// newMarkJSON reads the record of whoever reviewed; nil for nil.
func newMarkJSON(entry *pb.Entry) (*recordJSON, error) {
	if entry == nil {
		return nil, nil
	}
	mark, err := newRecordJSON(entry)
	return &mark, err
}

// showReview shows that a record asks for review, and who looked.
func showReview(w io.Writer, answer *pb.GetRecordResponse, mark *recordJSON, now time.Time) error {
	review, err := newReviewJSON(answer.GetEntry(), now)
	if err != nil || len(review.Asked) == 0 {
		return err
	}
	s := &sheet{w: w, section: "Review"}
	for _, rule := range review.Asked {
		s.fact("asked by", rule.String())
	}
	due := review.ReviewDue.Format(time.RFC3339)
	if mark == nil && review.Overdue && !answer.GetOwn() { // somebody may have looked at it
		due += ", overdue"
	}
	s.fact("until", due)
	if mark == nil {
		return nil
	}
	var record pb.Record
	if err := proto.Unmarshal(answer.GetReviewed().GetRecord(), &record); err != nil {
		return fmt.Errorf("read a record of the log: %w", err)
	}
	s.fact("reviewed by", fmt.Sprintf("%s, %s, record %s", mark.Who, mark.Time.Format(time.RFC3339), mark.Index))
	s.fact("comment", record.GetReviewed().GetComment())
	return nil
}
