package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/spf13/cobra"
)

// described is a request as flags describe it.
type described struct {
	wish
	at, sourceIP, keyType string
	lists                 string
	loginAge              time.Duration
	bound                 bool
}

func (d *described) flags(cmd *cobra.Command) {
	d.wish.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&d.at, "at", "", "when it is asked, RFC 3339 (default: now)")
	flags.DurationVar(&d.loginAge, "login-age", 0, "how long ago the person signed in, for example 10m")
	flags.BoolVar(&d.bound, "bound", true, "whether the sign-in is bound to the key, as that of a browser is")
	flags.StringVar(&d.sourceIP, "source-ip", "", "the address that the request comes from")
	flags.StringVar(&d.lists, "lists", "", "file that describes the lists which a daemon would have fetched")
	flags.StringVar(&d.keyType, "key-type", "ed25519", "type of the key: ed25519, sk-ed25519, ecdsa, sk-ecdsa or rsa")
	complete(cmd, "key-type", "ed25519", "sk-ed25519", "ecdsa", "sk-ecdsa", "rsa")
}

// question makes the question of it that nobody asks yet.
func (d *described) question(t target) (ca.Question, error) {
	q := ca.Question{Now: time.Now().UTC().Truncate(time.Second)}
	var err error
	if q.Request, err = d.request(t); err != nil {
		return q, err
	}
	if d.at != "" {
		if q.Now, err = time.Parse(time.RFC3339, d.at); err != nil {
			return q, fmt.Errorf("--at %q: want a time such as 2026-12-24T18:00:00Z", plain(d.at))
		}
	}
	if d.sourceIP != "" {
		if q.Request.SourceIP, err = netip.ParseAddr(d.sourceIP); err != nil {
			return q, fmt.Errorf("--source-ip %q: want an address such as 192.0.2.7", plain(d.sourceIP))
		}
	}
	if d.loginAge < 0 {
		return q, fmt.Errorf("--login-age %s: want how long ago it was, such as 10m", d.loginAge)
	}
	if q.Request.PublicKey, err = policy.KeyOfType(d.keyType); err != nil {
		return q, fmt.Errorf("--key-type: %w", err)
	}
	return q, nil
}

// fetched reads the lists that are described; none without a file.
func (d *described) fetched(p *policy.Policy, now time.Time) ([]ca.FetchedList, error) {
	if d.lists == "" {
		return nil, nil
	}
	text, err := os.ReadFile(d.lists)
	if err != nil {
		return nil, fmt.Errorf("read the lists: %w", err)
	}
	return p.ReadLists(d.lists, text, now)
}

// token is that of a sign-in as described. A workload signs in nowhere: its token is not bound, and has no time of sign-in.
func (d *described) token(id ca.Identity, now time.Time) ca.Token {
	if id.Kind == ca.Workload {
		return ca.Token{IssuedAt: now}
	}
	return ca.Token{Bound: d.bound, AuthTime: now.Add(-d.loginAge), IssuedAt: now}
}

func (a *app) policyExplainCommand() *cobra.Command {
	var d described
	var recorded recordFlags
	var file, text string
	cmd := &cobra.Command{
		Use:   "explain [DIR] LOGIN@HOST [--as FILE] | --record N | --serial N",
		Short: "Say what a policy answers, and why",
		Long: `Say what a policy answers to a request, and why.

With a folder, its files as they are now are asked about a described identity: each rule that nearly applied with its conditions, each
true, false or failed, and the values that made it so; what is missing, and what to type. That needs neither a daemon nor a sign-in.
The identity is YAML, with the keys email, groups, claims, kind (person or workload), issuer and subject. --lists FILE says in YAML
who is on the lists that a daemon would have fetched: "oncall: [alice@example.com]".

Without a folder, the daemon is asked what it would answer to you, now. It tells the names of rules, what they say to those whom they
refuse, and what you lack; nothing is issued and nothing recorded.

With --record or --serial, a decision of the log is explained in full, by the policy and the inputs that its record cites. That is for
auditors and admins.

The exit code is 0 for yes, 3 for no, and 5 if something is still needed.`,
		Example: "  hallpass policy explain deploy@db1.prod.example.com\n  hallpass policy explain --record 17\n" +
			"  hallpass policy explain ./policy deploy@db1.prod.example.com --identity '{email: alice@example.com, groups: [sre]}'\n" +
			"  hallpass policy explain ./policy deploy@db1.prod.example.com --as alice.yaml --at 2026-12-24T18:00:00Z --login-age 10m",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if recorded.given() {
				return a.policyExplainRecorded(cmd, recorded, args)
			}
			if len(args) == 1 {
				return a.policyExplainMine(cmd, args[0], d.wish)
			}
			if len(args) != 2 {
				return usageError(cmd, errors.New("of what? give DIR and LOGIN@HOST, LOGIN@HOST alone to ask the daemon, or --record N"))
			}
			t, err := parseTarget(args[1])
			if err != nil {
				return usageError(cmd, err)
			}
			if (file == "") == (text == "") {
				return usageError(cmd, errors.New("who asks? give --as FILE or --identity YAML"))
			}
			q, err := d.question(t)
			if err != nil {
				return usageError(cmd, err)
			}
			name, yaml := "--identity", []byte(text)
			if file != "" {
				name = file
				if yaml, err = os.ReadFile(file); err != nil {
					return fmt.Errorf("read the identity: %w", err)
				}
			}
			return a.policyExplain(cmd, args[0], d, q, name, yaml)
		},
	}
	d.flags(cmd)
	recorded.flags(cmd)
	cmd.Flags().StringVar(&file, "as", "", "file that describes the identity")
	cmd.Flags().StringVar(&text, "identity", "", "the identity itself, as YAML")
	return cmd
}

func (a *app) policyExplain(cmd *cobra.Command, dir string, d described, q ca.Question, name string, yaml []byte) error {
	p, err := a.compilePolicy(dir)
	if err != nil {
		return err
	}
	who, err := policy.ReadIdentity(name, yaml)
	if err != nil {
		return err
	}
	if q.Identity, err = p.Declare(who); err != nil {
		return err
	}
	for _, claim := range slices.Sorted(maps.Keys(who.Claims)) {
		if _, declared := q.Identity.Claims[claim]; !declared {
			a.note("note: the policy declares no claim %s, and does not see it", claim)
		}
	}
	if q.Lists, err = d.fetched(p, q.Now); err != nil {
		return err
	}
	q.Token = d.token(q.Identity, q.Now)
	x := p.Explain(cmd.Context(), q)
	x.Review = p.ReviewNames(cmd.Context(), q, x.Decision)
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	return a.showExplanation(x)
}

// showExplanation prints an explanation, and ends with the exit code of its outcome.
func (a *app) showExplanation(x policy.Explanation) error {
	if a.json() {
		if err := a.printJSON(x); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(a.out, plain(x.Text(a.width()))); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return exitOf(x.Decision.Outcome)
}

// exitOf is the error of an outcome that was shown already.
func exitOf(outcome ca.Outcome) error {
	switch outcome {
	case ca.Allow:
		return nil
	case ca.NeedsMore:
		return &failure{exit: exitNeeds, err: errShown}
	}
	return &failure{exit: exitDenied, err: errShown}
}

// errShown is an error that needs no more words: the result says it.
var errShown = errors.New("")

// compilePolicy compiles the policy in a folder, as its files are now.
func (a *app) compilePolicy(dir string) (*policy.Policy, error) {
	bundle, err := policy.ReadDir(dir, true)
	if err != nil {
		return nil, err
	}
	p, err := policy.Compile(bundle)
	if mistakes, ok := errors.AsType[policy.Errors](err); ok {
		fmt.Fprintln(a.err, plain(mistakes.Error()))
		return nil, &failure{exit: exitFailed, err: fmt.Errorf("the policy has %s", plural(len(mistakes), "mistake")), hint: "hallpass policy check " + dir}
	}
	return p, err
}

// width is how long lines for people may be.
func (a *app) width() int {
	const usual = 100
	if width := terminalWidth(a.out); width > 0 {
		return width
	}
	return usual
}
