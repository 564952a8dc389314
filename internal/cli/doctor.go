package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/spf13/cobra"
)

// finding is what doctor says about one thing.
type finding struct {
	Check string `json:"check"`
	// Status is "ok", "warn" or "fail".
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Fix is what to do about it.
	Fix string `json:"fix,omitempty"`
}

func ok(format string, args ...any) finding {
	return finding{Status: "ok", Detail: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) finding {
	return finding{Status: "warn", Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(fix, format string, args ...any) finding {
	return finding{Status: "fail", Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func (a *app) doctorCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, from the settings to ssh",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), file)
		},
	}
	cmd.Flags().StringVar(&file, "ssh-config", "", "ssh configuration to look at (HALLPASS_SSH_CONFIG; default: ~/.ssh/config)")
	return cmd
}

func (a *app) doctor(ctx context.Context, sshConfigFile string) error {
	checks := []struct {
		name  string
		check func(context.Context) finding
	}{
		{"ssh", checkSSH},
		{"settings", a.checkSettings},
		{"daemon", a.checkDaemon},
		{"agent", checkAgent},
		{"sign-in", a.checkSignIn},
		{"ssh configuration", func(context.Context) finding { return checkSSHConfig(sshConfigFile) }},
	}
	findings, failed := []finding{}, 0
	for _, c := range checks {
		f := c.check(ctx)
		f.Check = c.name
		findings = append(findings, f)
		if f.Status == "fail" {
			failed++
		}
		if !a.json() {
			fmt.Fprintf(a.out, "%-5s %-18s %s\n", f.Status, f.Check, plain(f.Detail))
			if f.Fix != "" {
				fmt.Fprintf(a.out, "      %-18s -> %s\n", "", f.Fix)
			}
		}
	}
	if a.json() {
		if err := a.printJSON(findings); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%s failed", plural(failed, "check"))
	}
	return nil
}

func checkSSH(ctx context.Context) finding {
	out, err := exec.CommandContext(ctx, "ssh", "-V").CombinedOutput()
	if err != nil {
		return fail("install OpenSSH", "ssh cannot be run: %v", err)
	}
	return ok("%s", strings.TrimSpace(string(out)))
}

func (a *app) checkSettings(context.Context) finding {
	s, err := a.settings()
	if err == nil {
		_, err = s.address()
	}
	if err != nil {
		return fail(a.classify(err).hint, "%v", err)
	}
	return ok("the CA is %s", s.Server)
}

func (a *app) checkDaemon(ctx context.Context) finding {
	s, err := a.settings()
	if err != nil {
		return fail("mend the settings", "%v", err)
	}
	address, err := s.address()
	if err != nil {
		return fail("set the server first", "there is no server to ask")
	}
	conn, err := client.Dial(ctx, address)
	if err != nil {
		return fail("check the address and its pin, the network, and that hallpassd runs there", "%v", err)
	}
	defer conn.Close()
	answer, err := conn.Discover(ctx)
	if err != nil {
		return fail("ask the operators of the CA", "%v", err)
	}
	if _, err := client.CAKeys(answer); err != nil {
		return fail("ask the operators of the CA", "%v", err)
	}
	if len(answer.GetIssuers()) == 0 {
		return fail("ask the operators of the CA", "the CA names no issuer where people sign in")
	}
	return ok("hallpassd %s answers as %s", answer.GetVersion(), conn.ServerName())
}

func checkAgent(ctx context.Context) finding {
	n, err := agentkey.Count(ctx, os.Getenv("SSH_AUTH_SOCK"))
	switch {
	case errors.Is(err, agentkey.ErrNoAgent):
		return warn("start ssh-agent", "there is no agent: the key of a sign-in is kept in a file")
	case err != nil:
		return warn("restart or unlock the agent", "%v", err)
	}
	return ok("the agent holds %s", plural(n, "key"))
}

func (a *app) checkSignIn(ctx context.Context) finding {
	s, err := a.session(ctx)
	if err != nil {
		return warn(a.classify(err).hint, "%v", err)
	}
	if _, _, err := a.signedIn(ctx); err != nil {
		return fail("hallpass login", "%v", err)
	}
	return ok("%s until %s", userName(s), clock(ends(s)))
}

func checkSSHConfig(file string) finding {
	s, err := openSSHConfig(file)
	if err != nil {
		return fail("", "%v", err)
	}
	if !s.installed() {
		return warn("hallpass setup", "plain ssh does not ask hallpass; hallpass ssh works all the same")
	}
	main, err := read(s.main)
	if err != nil {
		return fail("", "%v", err)
	}
	if !strings.HasPrefix(main.text, s.include()) {
		return warn("hallpass setup", "the Include is not at the top of %s, so it may belong to a Host block", s.main)
	}
	own, err := read(s.own)
	if err != nil {
		return fail("", "%v", err)
	}
	program, err := self()
	if err != nil {
		return fail("", "%v", err)
	}
	if strings.Contains(own.text, " exec ") && !strings.Contains(own.text, "\""+shellQuote(program)+" match ") {
		return warn("hallpass setup", "%s names another hallpass than this one, %s", s.own, program)
	}
	return ok("ssh asks hallpass for the hosts of the CA")
}
