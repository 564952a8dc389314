package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

// noMatch tells `hallpass match`, run by an `ssh -G` of ours, that nothing is asked of it.
const noMatch = "HALLPASS_NO_MATCH"

func (a *app) sshCommand() *cobra.Command {
	var wish wish
	cmd := &cobra.Command{
		Use:   "ssh [flags] [LOGIN@]HOST [ssh arguments]",
		Short: "Log in to a server: get a certificate if needed, then run ssh",
		Long: `Get a certificate if there is none that holds, then become ssh.

HOST may be an alias of your ssh configuration: ssh itself says which host and login it stands for. Flags before HOST are
hallpass's, everything after it is ssh's, so "hallpass ssh deploy@db1 -L 8080:localhost:80 uptime" works.`,
		Example: "  hallpass ssh deploy@db1.prod.example.com\n  hallpass ssh --reason 'INC-42: disk full' deploy@db1.prod.example.com df -h",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(cmd, errors.New("which host?"))
			}
			if strings.HasPrefix(args[0], "-") {
				return usageError(cmd, fmt.Errorf("%q: put the arguments of ssh after the host", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ssh(cmd.Context(), args, wish)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(cmd, fmt.Errorf("%w (put the arguments of ssh after the host)", err))
	})
	wish.flags(cmd)
	return cmd
}

func (a *app) ssh(ctx context.Context, args []string, w wish) error {
	t, err := resolve(ctx, args)
	if err != nil {
		return err
	}
	c, err := openCerts()
	if err != nil {
		return err
	}
	if err := a.ensure(ctx, t, w, "hallpass ssh"); err != nil {
		return err
	}
	var options []string
	for _, line := range append(c.sshOptions(), "IdentitiesOnly yes") {
		options = append(options, "-o", line)
	}
	return replace("ssh", append(options, args...))
}

// resolve asks ssh which login and host its arguments mean: aliases, HostName, User and CanonicalizeHostname are its business.
func resolve(ctx context.Context, args []string) (target, error) {
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-G"}, args...)...)
	cmd.Env = append(os.Environ(), noMatch+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return target{}, fmt.Errorf("ask ssh what %q means: %w\n%s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	var login, host string
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "user":
			login = value
		case "hostname":
			host = value
		}
	}
	return newTarget(login, host)
}
