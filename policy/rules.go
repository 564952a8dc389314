package policy

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/hallpass-ssh/hallpass/ca"
)

var extensions = []string{
	string(ca.PermitPTY), string(ca.PermitPortForwarding), string(ca.PermitAgentForwarding), string(ca.PermitX11Forwarding), string(ca.PermitUserRC),
}

// Critical options that somebody may write as extensions, where sshd would ignore them.
var criticalOptions = map[string]string{
	"force-command": "force_command", "source-address": "source_address", "verify-required": "verify_required",
}

var scopes = map[string]ca.Scope{"any": ca.ScopeAny, "environment": ca.ScopeEnvironment, "host": ca.ScopeHost}

func (c *compiler) denyRule(it item) {
	d := &ruleDraft{at: it}
	isMapping := c.mapping(it, "a deny rule", append(c.ruleFields(d),
		field{key: "message", read: func(it item) { d.message = c.sentence(it, "message") }}))
	if isMapping {
		c.complete(d)
		c.draft.deny = append(c.draft.deny, d)
	}
}

func (c *compiler) allowRule(it item) {
	d := &ruleDraft{at: it}
	isMapping := c.mapping(it, "an allow rule", append(c.ruleFields(d),
		field{key: "expires", read: func(it item) { d.ends = c.date(it, "expires") }},
		field{key: "require", read: func(it item) { c.require(it, d) }},
		field{key: "grant", read: func(it item) { c.grant(it, d) }}))
	if isMapping {
		c.complete(d)
		if d.grantItem.node == nil {
			c.errorf(it, "the rule has no grant")
		}
		c.draft.allow = append(c.draft.allow, d)
	}
}

// ruleFields are what all rules have in common.
func (c *compiler) ruleFields(d *ruleDraft) []field {
	return []field{
		{key: "name", read: func(it item) { d.name = c.ruleName(it) }},
		{key: "owner", read: func(it item) { d.owner = c.sentence(it, "owner") }},
		{key: "when", read: func(it item) { d.whenItem = it }},
	}
}

// ruleName reads a name that goes into key IDs and messages.
func (c *compiler) ruleName(it item) string {
	s, ok := c.text(it, "name")
	if !ok {
		return "?" // a mistake already: not one more for a missing name
	}
	if !isRuleName(s) {
		c.errorf(it, "a rule is named by small letters, digits and . _ -, at most 64, not %q", s)
	}
	for _, other := range slices.Concat(c.draft.deny, c.draft.allow, c.draft.review) {
		if other.name == s {
			c.errorf(it, "the rule name %s is taken: also in %s, line %d", s, other.at.src.name, other.at.node.Line)
		}
	}
	return s
}

// isRuleName says whether s may name a rule.
func isRuleName(s string) bool { return isName(s, lowerLetters+digits, "._-", 64) }

// complete refuses a rule that lacks what every rule has.
func (c *compiler) complete(d *ruleDraft) {
	switch {
	case d.name == "":
		c.errorf(d.at, "the rule has no name")
	case d.whenItem.node == nil:
		c.errorf(d.at, "the rule has no when")
	}
}

// sentence reads a line that people will see.
func (c *compiler) sentence(it item, what string) string {
	s, ok := c.text(it, what)
	if ok && (len(s) > 500 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })) {
		c.errorf(it, "%s must be one printable line of at most 500 bytes", what)
	}
	return s
}

func (c *compiler) require(it item, d *ruleDraft) {
	c.mapping(it, "require", []field{
		{key: "reason", read: func(it item) { d.require.reason = c.boolean(it, "require.reason") }},
		{key: "login_within", read: func(it item) { d.require.loginWithin = c.duration(it, "require.login_within") }},
		{key: "approvals", later: "require.approvals"},
	})
}

func (c *compiler) grant(it item, d *ruleDraft) {
	g := &d.grant
	d.grantItem, d.scopeItem = it, it
	timed := false
	g.scope, g.extensions = ca.ScopeAny, []ca.Extension{ca.PermitPTY}
	isMapping := c.mapping(it, "grant", []field{
		{key: "logins", read: func(it item) {
			c.list(it, "logins", func(it item) { d.logins = append(d.logins, it) })
		}},
		{key: "scope", read: func(it item) {
			d.scopeItem = it
			if s, ok := c.text(it, "scope"); ok {
				if g.scope = scopes[s]; g.scope == 0 {
					c.errorf(it, "scope is any, environment or host, not %q", s)
				}
			}
		}},
		{key: "ttl", read: func(it item) { g.ttl, timed = c.ttl(it, "ttl"), true }},
		{key: "force_command", read: func(it item) { g.forceCommand = c.command(it) }},
		{key: "source_address", read: func(it item) {
			c.list(it, "source_address", func(it item) { d.sourceAddresses = append(d.sourceAddresses, it) })
			if n := len(d.sourceAddresses); n == 0 || n > maxSourceAddresses {
				c.errorf(it, "source_address lists 1 to %d networks: leave it out to allow all", maxSourceAddresses)
			}
		}},
		{key: "verify_required", read: func(it item) {
			d.verifyItem, g.verifyRequired = it, c.boolean(it, "verify_required")
		}},
		{key: "extensions", read: func(it item) {
			g.extensions = nil
			c.list(it, "extensions", func(it item) { c.extension(it, g) })
		}},
	})
	if isMapping && len(d.logins) == 0 {
		c.errorf(it, "the grant has no logins")
	}
	if isMapping && !timed {
		c.errorf(it, "the grant has no ttl")
	}
}

func (c *compiler) extension(it item, g *grant) {
	s, ok := c.text(it, "an extension")
	if !ok {
		return
	}
	switch key, critical := criticalOptions[s]; {
	case critical:
		c.errorf(it, "%s is a critical option, and sshd ignores it as an extension: write grant.%s", s, key)
	case !slices.Contains(extensions, s):
		c.errorf(it, "no such extension %q: known are %s%s", s, strings.Join(extensions, ", "), didYouMean(s, extensions))
	case slices.Contains(g.extensions, ca.Extension(s)):
		c.errorf(it, "the extension %s comes twice", s)
	}
	g.extensions = append(g.extensions, ca.Extension(s))
}

// command reads a force_command. It is never a template: what a caller can influence must not reach a shell.
func (c *compiler) command(it item) string {
	s, ok := c.text(it, "force_command")
	switch {
	case !ok:
	case strings.Contains(s, "${"):
		c.errorf(it, "${...} is not allowed in force_command: a command is the same for everybody")
	case len(s) > 1024 || strings.ContainsFunc(s, unicode.IsControl) || strings.TrimSpace(s) == "":
		c.errorf(it, "force_command must be one line of at most 1024 bytes")
	}
	return s
}

// checkLogin refuses a login that is written out and can never be granted.
func (c *compiler) checkLogin(it item, t *template) {
	s, literal := t.literal()
	switch {
	case !literal:
	case !isLogin(s):
		c.errorf(it, "%q is not a login: %s", s, loginRule)
	case slices.Contains(c.draft.limits.NeverLogins, s):
		c.errorf(it, "the login %s is among limits.never_logins", s)
	}
}

// maxSourceAddresses bounds the critical option.
const maxSourceAddresses = 64

func (c *compiler) checkSourceAddress(it item, t *template) {
	if s, literal := t.literal(); literal {
		if _, err := parseSource(s); err != nil {
			c.errorf(it, "%v", err)
		}
	}
}

// parseSource reads a network or one address as sshd takes it: no zone, no host bits (one bad entry spoils the whole
// certificate), and no IPv4 inside IPv6, which sshd never matches.
func parseSource(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		address, addressErr := netip.ParseAddr(s)
		if addressErr != nil {
			return netip.Prefix{}, &sourceError{s, "is neither a network such as 10.0.0.0/8 nor an address"}
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	switch {
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, &sourceError{s, "is IPv4 inside IPv6: write it as IPv4"}
	case !prefix.IsValid() || prefix.Addr().Zone() != "":
		return netip.Prefix{}, &sourceError{s, "has a zone"}
	case prefix.Masked() != prefix:
		return netip.Prefix{}, &sourceError{s, "has bits set behind the mask: write " + prefix.Masked().String()}
	}
	return prefix, nil
}

type sourceError struct{ text, problem string }

func (e *sourceError) Error() string { return "source_address " + e.text + " " + e.problem }
