package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/spf13/cobra"
)

const (
	// matchTimeout bounds one run: ssh waits for it, and a user for ssh.
	matchTimeout = 15 * time.Second
	// unreachableFor is how long a daemon that did not answer is left alone.
	unreachableFor = 30 * time.Second
)

// errSilent fails without a word: nothing was asked.
var errSilent = errors.New("")

func (a *app) matchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "match HOST USER",
		Short: "Tell ssh whether there is a certificate (run by ssh)",
		Long: `Run by ssh for the block that "hallpass setup" writes ("Match exec", see ssh_config(5)): makes sure that there is a
certificate for USER on HOST, and fails if there is none. ssh then goes on with the user's other keys.

It never prompts and never opens a browser. With a certificate that holds it asks nobody.`,
		Hidden:            true,
		Args:              exactArgs("HOST", "USER"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), matchTimeout, errMatchTimeout)
			defer cancel()
			return a.match(ctx, args[0], args[1])
		},
	}
}

var errMatchTimeout = &ca.Error{Kind: ca.Unavailable, Message: fmt.Sprintf("no certificate within %s", matchTimeout)}

// matchHeld answers with what is on disk and in the agent, without the network.
func (a *app) matchHeld(ctx context.Context, host, login string) bool {
	t, err := newTarget(login, host)
	if err != nil || os.Getenv(noMatch) != "" {
		return false
	}
	c, err := openCerts()
	if err != nil {
		return false
	}
	keys := c.keys()
	key, err := keys.Public()
	return err == nil && c.load(t, key, time.Now()) != nil && keys.Held(ctx, key) == nil
}

// match gets a certificate. Of many that run at once for the same login and host, one asks and the others find its answer.
func (a *app) match(ctx context.Context, host, login string) error {
	if os.Getenv(noMatch) != "" {
		return &failure{exit: exitFailed, err: errSilent}
	}
	t, err := newTarget(login, host)
	if err != nil {
		return a.oneLine(err)
	}
	unlock, err := lockTarget(ctx, t)
	if err != nil {
		return a.oneLine(err)
	}
	defer unlock()
	if a.matchHeld(ctx, host, login) {
		return nil
	}
	down, err := openUnreachable()
	if err != nil {
		return a.oneLine(err)
	}
	s, err := a.settings()
	if err != nil {
		return a.oneLine(err)
	}
	if down.remembered(s.Server, time.Now()) {
		return a.oneLine(&ca.Error{Kind: ca.Unavailable, Message: "the CA did not answer a moment ago"})
	}
	a.noPrompt = true
	_, err = a.request(ctx, t, wish{})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if ca.KindOf(err) == ca.Unavailable {
		err = errors.Join(err, down.remember(s.Server))
	}
	return a.oneLine(err)
}

// oneLine says all in one line: ssh's own output is what the user came for.
func (a *app) oneLine(err error) error {
	if err == nil {
		return nil
	}
	f := *a.classify(err)
	if f.hint != "" {
		f.err = fmt.Errorf("%w (%s)", f.err, f.hint)
		f.hint = ""
	}
	f.err = errors.New(strings.Join(strings.Fields(f.err.Error()), " "))
	return &f
}

// unreachable is the file that remembers a daemon that did not answer.
type unreachable struct{ file string }

func openUnreachable() (unreachable, error) {
	state, err := stateDir()
	return unreachable{filepath.Join(state, "unreachable")}, err
}

// remember notes that server did not answer just now.
func (u unreachable) remember(server string) error { return writeFile(u.file, []byte(server)) }

// remembered tells whether server did not answer within the last half minute.
func (u unreachable) remembered(server string, now time.Time) bool {
	info, err := os.Stat(u.file)
	if err != nil {
		return false
	}
	age := now.Sub(info.ModTime())
	text, err := os.ReadFile(u.file)
	return err == nil && string(text) == server && age >= 0 && age < unreachableFor
}

// forget is called when the daemon answered.
func (u unreachable) forget() error {
	if err := os.Remove(u.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
