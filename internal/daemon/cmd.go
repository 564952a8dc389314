package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/hallpass-ssh/hallpass/internal/version"
	"github.com/spf13/cobra"
)

// defaultDir is where the daemon keeps everything unless told otherwise.
const defaultDir = "/var/lib/hallpass"

// Main runs the program `hallpassd` and returns its exit code: 0 done, 1 failed, 2 usage.
func Main(args []string, stdout, stderr io.Writer) int {
	root := command(stdout, stderr)
	root.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "hallpassd:", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		cmd, _, _ := root.Find(args) // or the root itself
		fmt.Fprintf(stderr, "hint: %s --help\n", cmd.CommandPath())
		return 2
	}
	return 1
}

type usageError struct{ error }

func command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "hallpassd",
		Short:         "The Hallpass SSH certificate authority",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return cmd.Help()
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(initCommand(), runCommand(stderr), checkCommand(), backupCommand(), restoreCommand(), compactCommand(), archiveCommand())
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

func initCommand() *cobra.Command {
	var p InitParams
	cmd := &cobra.Command{
		Use:   "init --issuer URL --client-id ID [--dir DIR]",
		Short: "Make the keys, the log, an example policy and the configuration of a new CA",
		Example: `  hallpassd init --issuer https://login.example.com --client-id hallpass --name ca.example.com
  hallpassd run`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.Issuer == "" || p.ClientID == "" {
				return &usageError{errors.New("--issuer and --client-id are required: where do people sign in?")}
			}
			made, err := Init(cmd.Context(), p)
			if err != nil {
				return err
			}
			return made.print(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Dir, "dir", defaultDir, "folder to make; it must not exist or be empty")
	f.StringVar(&p.Issuer, "issuer", "", "OIDC issuer where people sign in")
	f.StringVar(&p.ClientID, "client-id", "", "client id of the helper at the issuer: a public native client")
	f.StringVar(&p.Listen, "listen", "0.0.0.0:7443", "address and port to listen on")
	f.StringArrayVar(&p.Names, "name", nil, "DNS name or address by which clients reach the daemon; may be repeated (default: the host's name and localhost)")
	f.StringVar(&p.Policy, "policy", "", "folder of an existing policy (default: an example policy, made as a git repository)")
	return cmd
}

func runCommand(stderr io.Writer) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "run [--dir DIR]",
		Short: "Run the CA until SIGTERM; SIGHUP loads the policy anew",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(filepath.Join(dir, ConfigName))
			if err != nil {
				return err
			}
			defer runtime.KeepAlive(ballast())
			return Run(cmd.Context(), cfg, stderr)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	return cmd
}

// ballast lets at least 32 MB be allocated before the collector runs, unless GOGC says otherwise, as long as it is kept alive: it is
// never touched, so it takes no memory, but it counts as in use. Little is in use between requests, and the collector would run all the
// time; this saves a tenth of the CPU of each certificate.
func ballast() []byte {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, 32<<20)
}

func checkCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "check [--dir DIR]",
		Short: "Check configuration, keys and policy without starting anything",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(filepath.Join(dir, ConfigName))
			if err != nil {
				return err
			}
			if err := Check(cfg); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "configuration, keys and policy are fine")
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "`folder` made by hallpassd init")
	return cmd
}
