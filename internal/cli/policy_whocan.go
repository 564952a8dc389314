package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

func (a *app) policyWhoCanCommand() *cobra.Command {
	var d described
	var users string
	everybody := false
	cmd := &cobra.Command{
		Use:   "who-can [DIR] LOGIN@HOST [--users FILE | --seen]",
		Short: "List who gets in, and by which rule",
		Long: `Ask a policy about each of many people and workloads, and list those whom it lets in, and those whom it would once they did something
more.

The policy is that in a folder, as its files are now; without a folder, the one that is in force. The people are those that a file
describes: a YAML list of identities, each with the keys email, groups, claims, kind, issuer and subject. Without a file they are
all of whom the log tells, each as a policy saw it last; that is for auditors and admins. With a folder, --seen asks for them. With
both a folder and a file it needs neither a daemon nor a sign-in.`,
		Example: "  hallpass policy who-can deploy@db1.prod.example.com\n" +
			"  hallpass policy who-can ./policy deploy@db1.prod.example.com --users users.yaml",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 1 && len(args) != 2:
				return usageError(cmd, errors.New("who can what? give LOGIN@HOST, or DIR and LOGIN@HOST"))
			case len(args) == 2 && users == "" && !everybody:
				return usageError(cmd, errors.New("of whom? give --users FILE, or --seen for all of whom the log tells"))
			case users != "" && everybody:
				return usageError(cmd, errors.New("of whom? --users and --seen exclude each other"))
			}
			t, err := parseTarget(args[len(args)-1])
			if err != nil {
				return usageError(cmd, err)
			}
			q, err := d.question(t)
			if err != nil {
				return usageError(cmd, err)
			}
			dir := ""
			if len(args) == 2 {
				dir = args[0]
			}
			return a.policyWhoCan(cmd, dir, d, q, users)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&users, "users", "", "file that lists the identities")
	cmd.Flags().BoolVar(&everybody, "seen", false, "ask about all of whom the log tells")
	return cmd
}

func (a *app) policyWhoCan(cmd *cobra.Command, dir string, d described, q ca.Question, users string) error {
	p, callers, erased, err := a.policyAndCallers(cmd.Context(), dir, users)
	if err != nil {
		return err
	}
	if q.Lists, err = d.fetched(p, q.Now); err != nil {
		return err
	}
	for i := range callers {
		callers[i].Token = d.token(callers[i].Identity, q.Now)
	}
	all, err := p.WhoCan(cmd.Context(), q, callers)
	if err != nil {
		return err
	}
	in := slices.DeleteFunc(slices.Clone(all), func(x policy.Access) bool { return x.Outcome == "deny" })
	if a.json() {
		return a.printJSON(struct {
			Login string    `json:"login"`
			Host  string    `json:"host"`
			Time  time.Time `json:"time"`
			Asked int       `json:"asked"`
			// Erased counts those of whom the log no longer has what a policy sees.
			Erased int             `json:"erased"`
			Users  []policy.Access `json:"users"`
		}{q.Request.Login, q.Request.Host, q.Now.UTC(), len(all), erased, in})
	}
	if len(in) > 0 {
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "WHO\tRULE\tFOR\tSTILL NEEDED")
		for _, x := range in {
			lifetime, needed := (time.Duration(x.TTL) * time.Second).String(), "nothing"
			if x.Outcome != "allow" {
				lifetime, needed = "-", strings.Join(x.Needs, ", ")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", plain(x.Identity), plain(x.Rule), lifetime, plain(needed))
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	a.note("%d of %d; the others are refused", len(in), len(all))
	if erased > 0 {
		a.note("%d more cannot be asked about: what the policy saw of them was erased", erased)
	}
	return nil
}

// policyAndCallers finds the policy to ask, and about whom: without a folder or a file, the daemon is asked for them. It counts those
// who were erased.
func (a *app) policyAndCallers(ctx context.Context, dir, users string) (p *policy.Policy, callers []ca.Caller, erased int, err error) {
	if dir != "" {
		if p, err = a.compilePolicy(dir); err != nil {
			return nil, nil, 0, err
		}
	}
	if users != "" {
		text, err := os.ReadFile(users)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("read the identities: %w", err)
		}
		if callers, err = policy.ReadIdentities(users, text); err != nil {
			return nil, nil, 0, err
		}
	}
	if dir != "" && users != "" {
		return p, callers, 0, nil
	}
	conn, who, err := a.dial(ctx)
	if err != nil {
		return nil, nil, 0, err
	}
	defer conn.Close()
	if dir == "" {
		inForce, files, err := conn.GetRevision(ctx, who, "")
		if err != nil {
			return nil, nil, 0, err
		}
		ref := inForce.GetLoaded().GetPolicy()
		if p, err = compileFiles(files, ca.PolicyRef{Digest: [32]byte(padded(ref.GetDigest())), Revision: ref.GetRevision(), Dirty: ref.GetDirty()}); err != nil {
			return nil, nil, 0, err
		}
	}
	if users == "" {
		callers, erased, err = seen(ctx, conn, who)
	}
	return p, callers, erased, err
}

// padded is a digest of 32 bytes, all zero if it was none.
func padded(digest []byte) []byte {
	if len(digest) != 32 {
		return make([]byte, 32)
	}
	return digest
}

// seen are all of whom the log tells, in the order of their names.
func seen(ctx context.Context, conn *client.Client, who client.SignIn) (callers []ca.Caller, erased int, err error) {
	page := &pb.ListIdentitiesRequest{PageSize: 1000}
	for {
		answer, err := conn.ListIdentities(ctx, who, page)
		if err != nil {
			return nil, 0, err
		}
		erased += int(answer.GetErased())
		for _, snapshot := range answer.GetSnapshots() {
			id, err := audit.Identity(snapshot)
			if err != nil {
				return nil, 0, err
			}
			callers = append(callers, ca.Caller{Identity: id, Claims: rawClaims(id.Claims)})
		}
		if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
			break
		}
	}
	slices.SortFunc(callers, func(x, y ca.Caller) int {
		return cmp.Or(strings.Compare(cmp.Or(x.Identity.Email, x.Identity.Subject), cmp.Or(y.Identity.Email, y.Identity.Subject)),
			strings.Compare(x.Identity.Issuer, y.Identity.Issuer))
	})
	return callers, erased, nil
}

// rawClaims are claims that a policy declared, as they were in the token: the policy that is asked now declares its own.
func rawClaims(declared map[string]any) map[string]any {
	out := map[string]any{}
	for name, value := range declared {
		switch v := value.(type) {
		case int64:
			out[name] = json.Number(strconv.FormatInt(v, 10))
		case []string:
			list := make([]any, len(v))
			for i, s := range v {
				list[i] = s
			}
			out[name] = list
		default:
			out[name] = v
		}
	}
	return out
}
