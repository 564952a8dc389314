package policy

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Warning is what the language allows, and seldom is meant.
type Warning struct {
	File         string
	Line, Column int
	// Name is stable: a comment "# hallpass:ignore NAME why" on the line, or on lines of comments right above it, silences it.
	Name    string
	Message string
}

func (w Warning) String() string {
	return fmt.Sprintf("%s:%d:%d: %s [%s]", w.File, w.Line, w.Column, w.Message, w.Name)
}

// The names of warnings.
const (
	warnNoOwner       = "no-owner"
	warnNeverExpires  = "never-expires"
	warnExpired       = "expired"
	warnSharedLogin   = "shared-login"
	warnForwarding    = "force-command-with-forwarding"
	warnCallerAddress = "source-address-from-caller"
	warnShadowed      = "shadowed"

	warnSharedPrincipal = "shared-principal"
	warnEveryAddress    = "source-address-everywhere"
	warnUnusedClaim     = "unused-claim"
	warnUnusedList      = "unused-list"
	warnUnusedCalendar  = "unused-calendar"
	warnUnusedVar       = "unused-var"

	warnBadIgnore = "bad-ignore"
)

var warningNames = []string{
	warnNoOwner, warnNeverExpires, warnExpired, warnSharedLogin, warnForwarding, warnCallerAddress, warnShadowed,
	warnSharedPrincipal, warnEveryAddress, warnUnusedClaim, warnUnusedList, warnUnusedCalendar, warnUnusedVar,
}

// Warnings returns what a reviewer should look at, in the order of the files and lines. The suite is asked for rules that are
// always shadowed; one without cases finds none.
func (p *Policy) Warnings(ctx context.Context, now time.Time, s *TestSuite) ([]Warning, error) {
	read, err := p.reread()
	if err != nil {
		return nil, fmt.Errorf("look for warnings: %w", err)
	}
	rules, err := p.watch(ctx, read, s)
	if err != nil {
		return nil, fmt.Errorf("look for warnings: %w", err)
	}
	l := &linter{policy: p, now: now}
	for _, w := range rules {
		if w.draft.owner == "" {
			l.warn(w.draft.at, warnNoOwner, "nobody answers for the rule %s: give it an owner", w.draft.name)
		}
		if w.allows {
			l.life(w)
			l.reach(w.draft)
			l.options(w.draft)
		}
	}
	l.shared(rules)
	l.unused(read)
	l.silence(read)
	slices.SortFunc(l.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Name, b.Name))
	})
	return l.warnings, nil
}

type linter struct {
	policy   *Policy
	now      time.Time
	warnings []Warning
}

func (l *linter) warn(at item, name, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{at.src.name, at.node.Line, at.node.Column, name, fmt.Sprintf(format, args...)})
}

// life looks at when a rule applies.
func (l *linter) life(w *watched) {
	d := w.draft
	switch {
	case d.expired(l.now):
		l.warn(d.at, warnExpired, "the rule %s expired on %s: remove it", d.name, d.ends.AddDate(0, 0, -1).Format(time.DateOnly))
	case d.ends.IsZero():
		for _, e := range l.environments(d) {
			if e.guarded() {
				l.warn(d.at, warnNeverExpires, "the rule %s opens %s, and never expires: give it a last day under expires", d.name, e.Name)
				break
			}
		}
	}
	if w.open > 0 && w.shadowed == w.open {
		l.warn(d.at, warnShadowed, "the rule %s is true in %d of the cases, and a deny rule refuses each of them", d.name, w.open)
	}
}

// guarded says whether the policy itself takes more care of the environment than of others: it has a ceiling or an authority of
// its own.
func (e Environment) guarded() bool { return e.MaxTTL > 0 || e.Authority != "default" }

// environments are those that a rule may open.
func (l *linter) environments(d *ruleDraft) []Environment {
	only := l.policy.allow[d.name].when.facts.environment
	return slices.DeleteFunc(slices.Clone(l.policy.environments), func(e Environment) bool { return only != "" && only != e.Name })
}

// reach looks for certificates that open more than the environment they are for, which shared_trust allows.
func (l *linter) reach(d *ruleDraft) {
	if d.grant.scope != ca.ScopeAny {
		return
	}
	for _, a := range l.environments(d) {
		var opened []string
		for _, b := range l.policy.environments {
			if a.Authority == b.Authority {
				opened = append(opened, b.Name)
			}
		}
		if len(opened) > 1 {
			l.warn(d.scopeItem, warnSharedLogin, "scope any: a certificate from the rule %s opens %s alike, since they share the authority %s: grant scope environment or host",
				d.name, strings.Join(opened, ", "), a.Authority)
			return
		}
	}
}

// options look for restrictions that do not restrict.
func (l *linter) options(d *ruleDraft) {
	forwarding := slices.DeleteFunc(slices.Clone(d.grant.extensions), func(e ca.Extension) bool {
		return e != ca.PermitPortForwarding && e != ca.PermitAgentForwarding && e != ca.PermitX11Forwarding
	})
	if d.grant.forceCommand != "" && len(forwarding) > 0 {
		l.warn(d.grantItem, warnForwarding, "force_command does not restrict %s, which the rule %s grants too", forwarding[0], d.name)
	}
	l.addresses(d)
}

// ignoreComment is a comment that silences a warning: its name, and why.
var ignoreComment = regexp.MustCompile(`(?:^|\s)#\s*hallpass:ignore\b\s*(\S*)\s*(.*)$`)

// silence removes the warnings that a comment says to ignore, and warns of comments that cannot.
func (l *linter) silence(read *compiler) {
	ignored := map[Warning]bool{}
	var bad []Warning
	for _, name := range read.used {
		src := newSource(name, read.bundle.Files[name])
		var above []string
		for i, line := range src.lines {
			text := string(line)
			if m := ignoreComment.FindStringSubmatchIndex(text); m != nil {
				what, why := text[m[2]:m[3]], text[m[4]:m[5]]
				at := Warning{File: name, Line: i + 1, Column: 1 + len([]rune(text[:strings.Index(text[m[0]:], "#")+m[0]])), Name: warnBadIgnore}
				switch {
				case !slices.Contains(warningNames, what):
					at.Message = fmt.Sprintf("there is no warning %q%s", what, didYouMean(what, warningNames))
					bad = append(bad, at)
				case why == "":
					at.Message = fmt.Sprintf("say why: # hallpass:ignore %s because ...", what)
					bad = append(bad, at)
				default:
					above = append(above, what)
				}
			}
			for _, what := range above {
				ignored[Warning{File: name, Line: i + 1, Name: what}] = true
			}
			if !strings.HasPrefix(strings.TrimSpace(text), "#") {
				above = nil
			}
		}
	}
	l.warnings = slices.DeleteFunc(l.warnings, func(w Warning) bool { return ignored[Warning{File: w.File, Line: w.Line, Name: w.Name}] })
	l.warnings = append(l.warnings, bad...)
}
