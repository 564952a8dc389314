package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is one run of the tool.
type app struct {
	out *result
	err io.Writer
	// flags that every command has
	server, configFile, output string
	// noPrompt forbids to ask the user anything.
	noPrompt bool
	// tokenFile is where the token of the sign-in came from, once that was read; empty for people.
	tokenFile string
}

// Run does what args say and returns the exit code.
func Run(ctx context.Context, args []string) int {
	a := &app{out: &result{file: os.Stdout}, err: os.Stderr}
	if len(args) == 3 && args[0] == "match" && a.matchHeld(ctx, args[1], args[2]) {
		return exitOK // before anything else is set up: ssh waits
	}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && a.out.failed != nil {
		err = fmt.Errorf("write result: %w", a.out.failed)
	}
	return a.report(ctx, err)
}

// root is the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hallpass",
		Short: "Temporary SSH access, decided by policy",
		Long: "hallpass gets SSH certificates that are valid for hours, from a certificate authority that decides by policy\n" +
			"and keeps a record of every decision.",
		Example: "  hallpass login\n  hallpass ssh deploy@db1.prod.example.com\n  hallpass setup",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(usageError)
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "address of the CA, host:port or host:port#sha256:<pin> (HALLPASS_SERVER)")
	flags.StringVar(&a.configFile, "config", "", "settings file (HALLPASS_CONFIG)")
	flags.StringVarP(&a.output, "output", "o", "text", "form of the result: text or json")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if more := cmd.Annotations[formsAnnotation]; a.output != "text" && a.output != "json" && (more == "" || a.output != more) {
			want := "text or json"
			if more != "" {
				want = "text, json or " + more
			}
			return usageError(cmd, fmt.Errorf("--output %q: want %s", a.output, want))
		}
		return nil
	}
	complete(root, "output", "text", "json")
	root.AddCommand(
		a.loginCommand(), a.logoutCommand(), a.statusCommand(), a.sshCommand(), a.certCommand(), a.canCommand(),
		a.setupCommand(), a.matchCommand(), a.doctorCommand(), a.auditCommand(), a.whyCommand(), a.caCommand(), a.policyCommand(),
		a.backupCommand(),
		a.versionCommand(), a.manCommand(),
	)
	root.AddCommand(topics()...)
	strictDefaults(root)
	return root
}

// strictDefaults makes the commands that cobra adds refuse what they do not know, as all others do.
func strictDefaults(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 {
					err = unknownCommand(about, rest[0])
				}
				if err != nil {
					return err
				}
				about.InitDefaultHelpFlag()
				return about.Help()
			}
		case "completion":
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, whichOne
		}
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: whichOne}
	cmd.AddCommand(commands...)
	return cmd
}

// whichOne is what a command does that only holds others.
func whichOne(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError(cmd, errors.New("which one? see --help"))
	}
	return unknownCommand(cmd, args[0])
}

func unknownCommand(cmd *cobra.Command, name string) error {
	err := fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+name)
	cmd.SuggestionsMinimumDistance = 2 // cobra's own default, which it sets too late for us
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return &failure{exit: exitUsage, err: err, hint: cmd.CommandPath() + " " + near[0]}
	}
	return usageError(cmd, err)
}

// usageError says how to get help with cmd.
func usageError(cmd *cobra.Command, err error) error {
	return &failure{exit: exitUsage, err: err, hint: cmd.CommandPath() + " --help"}
}

// exactArgs wants the arguments that names list.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usageError(cmd, fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args))
		}
		return usageError(cmd, fmt.Errorf("%s wants %s, got %d arguments", cmd.CommandPath(), strings.Join(names, " and "), len(args)))
	}
}

// complete offers fixed values of a flag. Completion never asks anybody.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this package
	}
}

// json tells whether the result is wanted as JSON.
func (a *app) json() bool { return a.output == "json" }

// note tells the user something that is not the result.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.err, plain(fmt.Sprintf(format, args...)))
}

// fileOf is the file that w writes to; nil if that is none.
func fileOf(w io.Writer) *os.File {
	switch w := w.(type) {
	case *os.File:
		return w
	case *result:
		return w.file
	}
	return nil
}

// isTerminal tells whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f := fileOf(w)
	return f != nil && term.IsTerminal(int(f.Fd()))
}

// terminalWidth is how many columns the terminal w has; 0 if it does not say.
func terminalWidth(w io.Writer) int {
	f := fileOf(w)
	if f == nil {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// bold marks text for a terminal.
func bold(w io.Writer, text string) string {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(w) {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}
