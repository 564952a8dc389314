package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"unicode"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hallpass-ssh/hallpass/internal/client"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDenied      = 3
	exitSignIn      = 4
	exitNeeds       = 5
	exitUnreachable = 6
	exitInterrupted = 130
)

// kindExits maps the kinds of errors to exit codes. A kind that is not listed has failed.
var kindExits = map[ca.Kind]int{
	ca.Unauthenticated: exitSignIn,
	ca.Denied:          exitDenied,
	ca.Needs:           exitNeeds,
	ca.Unavailable:     exitUnreachable,
}

// failure is an error with its exit code and the next command to type.
type failure struct {
	exit int
	err  error
	hint string
	// asked is the access that was refused; nil if none was asked for.
	asked *target
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// needs are what is still needed, as the daemon says.
func (f *failure) needs() []ca.Need {
	if reason, ok := errors.AsType[*ca.Error](f.err); ok {
		return reason.Needs
	}
	return nil
}

// report prints err, if there is one, and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[*exec.ExitError](err); ok && code.ExitCode() > 0 {
		return code.ExitCode() // of ssh, which has said what was wrong
	}
	f := a.classify(err)
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		f = &failure{exit: exitInterrupted, err: errors.New("interrupted")}
	}
	switch {
	case f.Error() == "":
	case a.json():
		a.reportJSON(f)
	default:
		a.reportText(f)
	}
	return f.exit
}

// reportText shows an error to a person; a refusal on one screen: what was asked, who said no and why, what would make it a yes,
// and the record that an admin can look up.
func (a *app) reportText(f *failure) {
	reason := f.Error()
	if f.asked != nil {
		reason = a.reportRefusal(f)
	}
	fmt.Fprintln(a.err, bold(a.err, "hallpass:"), plain(reason))
	if f.hint != "" {
		fmt.Fprintln(a.err, bold(a.err, "hint:"), plain(f.hint))
	}
}

// reportRefusal shows what a refusal cites, and returns the reason.
func (a *app) reportRefusal(f *failure) string {
	fmt.Fprintf(a.err, "%s %s\n", bold(a.err, "refused:"), f.asked)
	r, ok := errors.AsType[*client.Refusal](f.err)
	if !ok {
		r = &client.Refusal{}
	}
	x := r.Explanation
	if x == nil {
		a.fact("rule", r.Rule)
		for _, need := range f.needs() {
			a.fact("needed", describeNeed(need))
		}
	} else {
		a.explain(x, r.Rule)
	}
	a.fact("environment", r.Environment)
	a.fact("policy", short(r.Policy))
	a.fact("record", r.Index)
	if x.GetReason() != "" {
		return x.GetReason()
	}
	return f.Error()
}

// classify finds the exit code of err, and what to type next.
func (a *app) classify(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if errors.Is(err, agentkey.ErrGone) {
		return &failure{exit: exitSignIn, err: err, hint: "hallpass login"}
	}
	reason, ok := errors.AsType[*ca.Error](err)
	if !ok {
		return &failure{exit: exitFailed, err: err}
	}
	f := &failure{exit: exitFailed, err: err}
	if code, ok := kindExits[reason.Kind]; ok {
		f.exit = code
	}
	switch reason.Kind {
	case ca.Unauthenticated:
		f.hint = "hallpass login"
		if a.tokenFile != "" {
			f.hint = hintForJob(a.tokenFile)
		}
	case ca.Denied:
		f.hint = "ask the admins of the CA"
		if r, ok := errors.AsType[*client.Refusal](err); ok && r.Index != "" {
			f.hint = "ask the admins of the CA, who see why: hallpass audit show " + plain(r.Index)
		}
	case ca.NotFound:
		if by, ok := archivedBy(err); ok {
			f.hint = "hallpass audit show " + by + " says who archived it; an archive is read with --log ARCHIVE, by it and by find-cert and policy replay"
		}
	case ca.Unavailable:
		f.hint = "hallpass doctor"
	case ca.Exhausted:
		if reason.RetryAfter > 0 {
			f.hint = fmt.Sprintf("try again in %s", reason.RetryAfter)
		}
	}
	return f
}

// archivedBy returns the record that says that what was asked for was archived.
func archivedBy(err error) (index string, ok bool) {
	r, ok := errors.AsType[*client.Refusal](err)
	if !ok || r.Reason.Kind != ca.NotFound || r.Index == "" {
		return "", false
	}
	return plain(r.Index), true
}

// ask is what a certificate or an answer was wanted for.
type ask struct {
	target  target
	command string // what to type again, with what is needed
}

// refused adds to a refusal what was asked, and what to type to get it after all.
func (a *app) refused(err error, q ask) error {
	f := *a.classify(err)
	reason, ok := errors.AsType[*ca.Error](err)
	if !ok || reason.Kind != ca.Denied && reason.Kind != ca.Needs {
		return &f
	}
	f.asked = &q.target
	if len(reason.Needs) > 0 {
		f.hint = hintForNeed(reason.Needs, q)
	}
	if r, ok := errors.AsType[*client.Refusal](err); ok && r.Explanation != nil {
		f.hint = hintOf(r.Explanation, q, r.Index)
	}
	return &f
}

func (a *app) fact(name, value string) {
	if value != "" {
		fmt.Fprintf(a.err, "  %-12s %s\n", name, plain(value))
	}
}

func describeNeed(need ca.Need) string {
	switch need.Kind {
	case ca.NeedReason:
		return "a reason"
	case ca.NeedFreshLogin:
		return fmt.Sprintf("a sign-in within the last %s", need.LoginWithin)
	}
	return "something that this version does not know"
}

func hintForNeed(needs []ca.Need, q ask) string {
	var steps []string
	next := ""
	for _, need := range needs {
		switch need.Kind {
		case ca.NeedFreshLogin:
			steps = append(steps, "hallpass login --fresh")
		case ca.NeedReason:
			next = fmt.Sprintf("%s --reason '...' %s", q.command, q.target)
		}
	}
	if next != "" {
		steps = append(steps, next)
	}
	return strings.Join(steps, " && ")
}

// plain makes text of others harmless to a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// short is the form of a revision or digest that people read.
func short(revision string) string {
	if len(revision) > 12 {
		return revision[:12]
	}
	return revision
}
