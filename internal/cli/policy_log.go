package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

// revisionJSON is the form of a revision in results.
type revisionJSON struct {
	// Revision is the commit, empty for a policy that is not from git. Digest names the files.
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
	Dirty    bool   `json:"dirty"`
	InForce  bool   `json:"in_force"`
	// Record put it in force at Time, because of Cause.
	Record string      `json:"record"`
	Time   time.Time   `json:"time"`
	Cause  string      `json:"cause"`
	Source string      `json:"source"`
	Commit *commitJSON `json:"commit,omitempty"`
}

type commitJSON struct {
	Author     string     `json:"author"`
	Time       *time.Time `json:"time,omitempty"`
	Subject    string     `json:"subject"`
	Signer     string     `json:"signer,omitempty"`
	SigningKey string     `json:"signing_key,omitempty"`
}

func newRevisionJSON(r *pb.Revision) revisionJSON {
	loaded := r.GetLoaded()
	out := revisionJSON{
		Revision: loaded.GetPolicy().GetRevision(), Digest: hex.EncodeToString(loaded.GetPolicy().GetDigest()), Dirty: loaded.GetPolicy().GetDirty(),
		InForce: r.GetInForce(), Record: strconv.FormatUint(r.GetIndex(), 10), Time: r.GetTime().AsTime(), Cause: loaded.GetCause(),
		Source: loaded.GetSource(),
	}
	if c := loaded.GetCommit(); c != nil {
		out.Commit = &commitJSON{Author: c.GetAuthor(), Subject: c.GetSubject(), Signer: c.GetSigner(), SigningKey: c.GetSigningKey()}
		if c.GetTime() != nil {
			at := c.GetTime().AsTime()
			out.Commit.Time = &at
		}
	}
	return out
}

// name is what people call a revision: the beginning of the commit, or of the digest.
func (r revisionJSON) name() string {
	name := short(cmp.Or(r.Revision, r.Digest))
	if r.Dirty {
		name += "+dirty"
	}
	return name
}

func (a *app) policyLogCommand() *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use:   "log",
		Short: "List the policies that were ever in force, newest first (for auditors and admins)",
		Long: `List the policies that were ever in force, newest first, with the record that put each in force. The one in force is marked with *.
Authors and subjects are what the commits claim; a signer is one whom the CA verified.`,
		Example: "  hallpass policy log --limit 5\n  hallpass policy log -o json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.policyLog(cmd.Context(), int(limit))
		},
	}
	cmd.Flags().Uint32Var(&limit, "limit", 50, "at most this many; 0 for all")
	return cmd
}

func (a *app) policyLog(ctx context.Context, limit int) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	revisions, page := []revisionJSON{}, &pb.ListRevisionsRequest{}
	for {
		page.PageSize = 1000
		if limit > 0 {
			page.PageSize = uint32(min(limit-len(revisions), 1000))
		}
		answer, err := conn.ListRevisions(ctx, who, page)
		if err != nil {
			return err
		}
		for _, r := range answer.GetRevisions() {
			revisions = append(revisions, newRevisionJSON(r))
		}
		page.PageToken = answer.GetNextPageToken()
		if page.PageToken == "" || len(answer.GetRevisions()) == 0 || limit > 0 && len(revisions) >= limit {
			break
		}
	}
	if a.json() {
		return a.printJSON(revisions)
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  POLICY\tTIME\tRECORD\tCAUSE\tAUTHOR\tSIGNER\tSUBJECT")
	for _, r := range revisions {
		mark := " "
		if r.InForce {
			mark = "*"
		}
		commit := r.Commit
		if commit == nil {
			commit = &commitJSON{}
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, r.name(), r.Time.Format(time.RFC3339), r.Record, r.Cause,
			cell(commit.Author), cell(commit.Signer), cell(commit.Subject))
	}
	return w.Flush()
}

// cell is text for a column of a table: on one line, not too long, and never nothing.
func cell(s string) string {
	const most = 60
	s = strings.Join(strings.Fields(plain(s)), " ")
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most-3]) + "..."
	}
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) policyShowCommand() *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "show [REV]",
		Short: "Show a policy that was in force, as the log has it (for auditors and admins)",
		Long: `Show the files of a policy that was in force, as the log has them, which is what decided. REV is a commit or a digest, or at
least the first 7 digits of either; without it, the policy in force. With --file, exactly that file and nothing else.`,
		Example: "  hallpass policy show\n  hallpass policy show 3f9c2ab --file policy.yaml",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, fmt.Errorf("%s wants at most one REV, got %d arguments", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.policyShow(cmd.Context(), strings.Join(args, ""), file)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "only this file of the policy")
	return cmd
}

func (a *app) policyShow(ctx context.Context, revision, file string) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	found, files, err := conn.GetRevision(ctx, who, revision)
	if err != nil {
		return err
	}
	r := newRevisionJSON(found)
	names := slices.Sorted(maps.Keys(files))
	if file != "" {
		if _, ok := files[file]; !ok {
			return fmt.Errorf("the policy %s has no file %q; it has %s", r.name(), file, strings.Join(names, ", "))
		}
		names = []string{file}
	}
	switch {
	case a.json():
		return a.printJSON(showJSON(r, names, files))
	case file != "":
		return a.printFile(files[file])
	}
	r.describe(a.out)
	for _, name := range names {
		fmt.Fprintf(a.out, "\n-- %s --\n", plain(name))
		if err := a.printFile(files[name]); err != nil {
			return err
		}
	}
	return nil
}

func showJSON(r revisionJSON, names []string, files map[string][]byte) any {
	type fileJSON struct {
		Path     string `json:"path"`
		Contents string `json:"contents"`
	}
	out := struct {
		revisionJSON
		Files []fileJSON `json:"files"`
	}{r, []fileJSON{}}
	for _, name := range names {
		out.Files = append(out.Files, fileJSON{name, string(files[name])})
	}
	return out
}

// describe writes what a revision is, a fact a line.
func (r revisionJSON) describe(w io.Writer) {
	facts := []struct{ name, value string }{
		{"policy", r.Revision}, {"digest", r.Digest}, {"record", r.Record}, {"time", r.Time.Format(time.RFC3339)}, {"cause", r.Cause}, {"source", r.Source},
	}
	if c := r.Commit; c != nil {
		facts = append(facts, []struct{ name, value string }{
			{"author", c.Author}, {"signer", c.Signer}, {"key", c.SigningKey}, {"subject", c.Subject},
		}...)
	}
	if r.InForce {
		facts = append(facts, struct{ name, value string }{"in force", "yes"})
	}
	for _, f := range facts {
		if f.value != "" {
			fmt.Fprintf(w, "%-9s %s\n", f.name, plain(f.value))
		}
	}
}

// printFile writes a file of a policy: byte for byte, but for what a terminal would act on if there is one.
func (a *app) printFile(data []byte) error {
	if isTerminal(a.out) {
		data = []byte(plain(string(data)))
	}
	_, err := a.out.Write(data)
	return err
}

func (a *app) policyReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the CA read the source of its policy now (for admins)",
		Long: `Make the CA read the source of its policy now instead of at the next poll. A policy that is not fit to be in force is an error,
which says why; the one before stays in force.`,
		Example: "  git push && hallpass policy reload",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.policyReload(cmd.Context())
		},
	}
}

func (a *app) policyReload(ctx context.Context) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	old, err := policyInForce(ctx, conn, who)
	if err != nil {
		return err
	}
	answer, err := conn.ReloadPolicy(ctx, who)
	if err != nil {
		return err
	}
	return a.printChange(old, answer.GetPolicy(), answer.GetChanged())
}

// policyInForce is the policy that is in force; nil for none.
func policyInForce(ctx context.Context, conn *client.Client, who client.SignIn) (*pb.PolicyRef, error) {
	newest, err := conn.ListRevisions(ctx, who, &pb.ListRevisionsRequest{PageSize: 1})
	if err != nil || len(newest.GetRevisions()) == 0 {
		return nil, err
	}
	return newest.GetRevisions()[0].GetLoaded().GetPolicy(), nil
}

// shortName is the name of a policy that people read.
func shortName(ref *pb.PolicyRef) string {
	name := policyName(ref)
	if text, dirty := strings.CutSuffix(name, "+dirty"); dirty {
		return short(text) + "+dirty"
	}
	return short(name)
}

// printChange tells which policy was in force and which one is.
func (a *app) printChange(old, now *pb.PolicyRef, changed bool) error {
	if a.json() {
		return a.printJSON(struct {
			Changed bool   `json:"changed"`
			Before  string `json:"before"`
			Policy  string `json:"policy"`
			Digest  string `json:"digest"`
		}{changed, policyName(old), policyName(now), hex.EncodeToString(now.GetDigest())})
	}
	if !changed {
		fmt.Fprintf(a.out, "nothing changed: the policy %s is in force\n", shortName(now))
		return nil
	}
	fmt.Fprintf(a.out, "%s -> %s\n", shortName(old), shortName(now))
	return nil
}

func (a *app) policyAcceptCommand() *cobra.Command {
	reason := ""
	cmd := &cobra.Command{
		Use:   "accept REV --reason WHY",
		Short: "Let a commit come into force that does not descend from the one that is (for admins)",
		Long: `Let the newest commit of the branch come into force although it does not descend from the commit that is: the branch was set back or
rewritten, and you know by whom. REV is the commit in full. Your word for it is a record of its own, with the reason. The commit
still has to be signed, to compile and to pass its tests, if that is asked of others.`,
		Example: "  hallpass policy accept 3f9c2ab1d0c54e6c8c1f0f9d5b7a8e2d4c6b8a90 --reason 'history cleaned up, reviewed by alice and bob'",
		Args:    exactArgs("REV"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usageError(cmd, errors.New("--reason is required: whoever reads the log wants to know"))
			}
			return a.policyAccept(cmd.Context(), args[0], reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why it is right that history does not lead here; required")
	return cmd
}

func (a *app) policyAccept(ctx context.Context, revision, reason string) error {
	conn, who, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	old, err := policyInForce(ctx, conn, who)
	if err != nil {
		return err
	}
	answer, err := conn.AcceptPolicy(ctx, who, strings.ToLower(revision), reason)
	if err != nil {
		return err
	}
	return a.printChange(old, answer.GetPolicy(), true)
}
