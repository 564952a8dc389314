package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

func (a *app) policyWhoCanCommand() *cobra.Command {
	var d described
	var users string
	cmd := &cobra.Command{
		Use:   "who-can DIR LOGIN@HOST --users FILE",
		Short: "List who of some people gets in, and by which rule",
		Long: `Ask the policy in a folder, as its files are now, about each of the people and workloads that a file describes, and list those
whom it lets in, and those whom it would once they did something more. It needs neither a daemon nor a sign-in.

The file is a YAML list of identities, each with the keys email, groups, claims, kind, issuer and subject.`,
		Example: "  hallpass policy who-can ./policy deploy@db1.prod.example.com --users users.yaml",
		Args:    exactArgs("DIR", "LOGIN@HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[1])
			if err != nil {
				return usageError(cmd, err)
			}
			if users == "" {
				return usageError(cmd, errors.New("of whom? give --users FILE"))
			}
			q, err := d.question(t)
			if err != nil {
				return usageError(cmd, err)
			}
			return a.policyWhoCan(cmd, args[0], d, q, users)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&users, "users", "", "file that lists the identities")
	return cmd
}

func (a *app) policyWhoCan(cmd *cobra.Command, dir string, d described, q ca.Question, users string) error {
	p, err := a.compilePolicy(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(users)
	if err != nil {
		return fmt.Errorf("read the identities: %w", err)
	}
	callers, err := policy.ReadIdentities(users, text)
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
			Login string          `json:"login"`
			Host  string          `json:"host"`
			Time  time.Time       `json:"time"`
			Asked int             `json:"asked"`
			Users []policy.Access `json:"users"`
		}{q.Request.Login, q.Request.Host, q.Now.UTC(), len(all), in})
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
	return nil
}
