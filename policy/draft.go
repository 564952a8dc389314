package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// draft is a policy as it was read: values are checked one by one, expressions are still text.
type draft struct {
	include      []item
	claims       map[string]*claimDraft
	limits       ca.Limits
	environments []*environmentDraft
	sharedTrust  bool
	deny, allow  []*ruleDraft
	review       []*ruleDraft
	roles        map[string]item
	lists        map[string]*listDraft
	calendars    map[string]*calendarDraft
	vars         map[string]*sharedDraft
}

func newDraft() draft {
	return draft{
		roles: map[string]item{}, claims: map[string]*claimDraft{},
		lists: map[string]*listDraft{}, calendars: map[string]*calendarDraft{}, vars: map[string]*sharedDraft{},
	}
}

// sortedLists are the lists by name.
func (d *draft) sortedLists() []*listDraft {
	var out []*listDraft
	for _, name := range slices.Sorted(maps.Keys(d.lists)) {
		out = append(out, d.lists[name])
	}
	return out
}

type claimDraft struct {
	claim
	at item
}

type environmentDraft struct {
	Environment
	at        item
	hostItems []item // of Hosts, one each
}

type ruleDraft struct {
	rule
	at              item
	whenItem        item
	grantItem       item
	logins          []item
	sourceAddresses []item
	verifyItem      item
	scopeItem       item // scope, or the grant that has none
}

// keyTypes are the types of keys that may be certified.
var keyTypes = []string{"ed25519", "sk-ed25519", "ecdsa", "sk-ecdsa", "rsa"}

// Bounds of RSA keys in bits.
const (
	minRSABits     = 2048
	defaultRSABits = 3072
	maxRSABits     = 8192
)

// coreLimits returns the limits with what the policy left out.
func (d *draft) coreLimits() ca.Limits {
	l := d.limits
	if l.MaxTTL == 0 {
		l.MaxTTL = hardMaxTTL
	}
	if l.Keys == nil {
		for _, name := range keyTypes {
			rule := ca.KeyRule{Type: name}
			if name == "rsa" {
				rule.MinBits = defaultRSABits
			}
			l.Keys = append(l.Keys, rule)
		}
	}
	return l
}

// mainFile reads policy.yaml.
func (c *compiler) mainFile(root item) {
	versioned := false
	isMapping := c.mapping(root, "the policy", append(c.shared(),
		field{key: "version", read: func(it item) {
			versioned = true
			if n, ok := c.integer(it, "version"); ok && n != 1 {
				c.errorf(it, "version %d is not known: write version: 1", n)
			}
		}},
		field{key: "include", read: func(it item) {
			c.list(it, "include", func(it item) { c.draft.include = append(c.draft.include, it) })
		}},
		field{key: "limits", read: c.limits},
		field{key: "shared_trust", read: func(it item) { c.draft.sharedTrust = c.boolean(it, "shared_trust") }},
		field{key: "roles", read: func(it item) {
			c.mapping(it, "roles", []field{
				{key: "auditor", read: func(it item) { c.draft.roles["auditor"] = it }},
				{key: "admin", read: func(it item) { c.draft.roles["admin"] = it }},
			})
		}},
	))
	if isMapping && !versioned {
		c.errorf(root, "the policy says no version: write version: 1")
	}
}

// includedFile reads any other file.
func (c *compiler) includedFile(root item) {
	elsewhere := func(key string) field {
		return field{key: key, read: func(it item) { c.errorf(it, "%s belongs in %s", key, mainFile) }}
	}
	c.mapping(root, "an included file", append(c.shared(),
		elsewhere("version"), elsewhere("include"), elsewhere("limits"), elsewhere("shared_trust"), elsewhere("roles")))
}

// shared are the sections that every file may have.
func (c *compiler) shared() []field {
	return []field{
		{key: "claims", read: c.claims},
		{key: "environments", read: c.environments},
		{key: "deny", read: func(it item) { c.list(it, "deny", c.denyRule) }},
		{key: "allow", read: func(it item) { c.list(it, "allow", c.allowRule) }},
		{key: "review", read: func(it item) { c.list(it, "review", c.reviewRule) }},
		{key: "lists", read: c.lists},
		{key: "calendars", read: c.calendars},
		{key: "vars", read: c.vars},
		{key: "triggers", later: "triggers"},
	}
}

func (c *compiler) claims(it item) {
	c.pairs(it, "claims", func(name string, key, value item) {
		d := &claimDraft{claim: claim{name: name}, at: key}
		var standard item
		isMapping := c.mapping(value, "the claim "+name, []field{
			{key: "type", read: func(it item) {
				if s, ok := c.text(it, "type"); ok {
					if d.typ = claimType(s); claimTypes[d.typ] == nil {
						c.errorf(it, "the type of a claim is bool, int, string or strings, not %q", s)
					}
				}
			}},
			{key: "default", read: func(it item) { standard = it }},
			{key: "optional", read: func(it item) { d.optional = c.boolean(it, "optional") }},
		})
		other, twice := c.draft.claims[name]
		better, never := undeclarable[name]
		switch {
		case !isName(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_", "0123456789", 100):
			c.errorf(key, "a claim is named by letters, digits and underscores, not %q: let the issuer send it under such a name", name)
			return
		case never && better != "":
			c.errorf(key, "the claim %s cannot be declared: use %s", name, better)
		case never:
			c.errorf(key, "the claim %s cannot be declared: it changes with every token", name)
		case twice:
			c.errorf(key, "the claim %s is declared twice: also in %s, line %d", name, other.at.src.name, other.at.node.Line)
		case isMapping && d.typ == "":
			c.errorf(key, "the claim %s has no type: write {type: bool}, or int, string or strings", name)
		case standard.node != nil && d.optional:
			c.errorf(standard, "a claim is optional or has a default, not both")
		case standard.node != nil:
			d.standard = c.claimDefault(standard, d.typ)
		}
		c.draft.claims[name] = d
	})
}

func (c *compiler) claimDefault(it item, typ claimType) any {
	switch typ {
	case claimBool:
		return c.boolean(it, "default")
	case claimInt:
		n, _ := c.integer(it, "default")
		return n
	case claimString:
		s, _ := c.scalar(it, "default", "text", "!!str")
		return s
	case claimStrings:
		list := []string{}
		c.list(it, "default", func(it item) {
			s, _ := c.scalar(it, "an entry of default", "text", "!!str")
			list = append(list, s)
		})
		return list
	}
	return nil // the type is a mistake of its own
}

func (c *compiler) limits(it item) {
	l := &c.draft.limits
	c.mapping(it, "limits", []field{
		{key: "max_ttl", read: func(it item) { l.MaxTTL = c.ttl(it, "max_ttl") }},
		{key: "never_logins", read: func(it item) {
			c.list(it, "never_logins", func(it item) {
				if s, ok := c.text(it, "a login"); ok {
					if !isLogin(s) {
						c.errorf(it, "%q is not a login: %s", s, loginRule)
					}
					l.NeverLogins = append(l.NeverLogins, s)
				}
			})
		}},
		{key: "keys", read: func(it item) {
			l.Keys = []ca.KeyRule{}
			c.list(it, "keys", func(it item) {
				if s, ok := c.text(it, "a type of key"); ok {
					l.Keys = append(l.Keys, c.keyRule(it, s))
				}
			})
			if len(l.Keys) == 0 {
				c.errorf(it, "keys is empty: leave it out, or list the types that are allowed")
			}
		}},
	})
}

func (c *compiler) keyRule(it item, s string) ca.KeyRule {
	name, size, sized := strings.Cut(s, ">=")
	rule := ca.KeyRule{Type: name}
	switch {
	case !slices.Contains(keyTypes, name):
		c.errorf(it, "no such type of key %q: known are %s%s", s, strings.Join(keyTypes, ", "), didYouMean(name, keyTypes))
	case sized && name != "rsa":
		c.errorf(it, "only rsa keys have a least size, not %s", name)
	case sized:
		bits, err := strconv.Atoi(size)
		if err != nil || bits < minRSABits || bits > maxRSABits {
			c.errorf(it, "the least size of rsa keys is between %d and %d bits, not %q", minRSABits, maxRSABits, size)
		}
		rule.MinBits = bits
	case name == "rsa":
		rule.MinBits = defaultRSABits
	}
	if slices.ContainsFunc(c.draft.limits.Keys, func(k ca.KeyRule) bool { return k.Type == name }) {
		c.errorf(it, "the type of key %s comes twice", name)
	}
	return rule
}

// ttl reads a lifetime, which no ceiling may set above the hard one.
func (c *compiler) ttl(it item, what string) time.Duration {
	d := c.duration(it, what)
	if d > hardMaxTTL {
		c.errorf(it, "%s is %s, and no certificate may live longer than %s", what, shortDuration(d), shortDuration(hardMaxTTL))
	}
	return d
}

func (c *compiler) environments(it item) {
	c.pairs(it, "environments", func(name string, key, value item) {
		e := &environmentDraft{Environment: Environment{Name: name, Authority: "default"}, at: key}
		if !isName(name, lowerLetters, lowerLetters+digits+"-", 32) {
			c.errorf(key, "an environment is named by small letters, digits and hyphens, at most 32, not %q", name)
		}
		if i := slices.IndexFunc(c.draft.environments, func(o *environmentDraft) bool { return o.Name == name }); i >= 0 {
			other := c.draft.environments[i].at
			c.errorf(key, "the environment %s is declared twice: also in %s, line %d", name, other.src.name, other.node.Line)
			return
		}
		isMapping := c.mapping(value, "the environment "+name, []field{
			{key: "hosts", read: func(it item) { c.list(it, "hosts", func(it item) { c.hostPattern(it, e) }) }},
			{key: "max_ttl", read: func(it item) { e.MaxTTL = c.ttl(it, "max_ttl") }},
			{key: "authority", read: func(it item) {
				if s, ok := c.text(it, "authority"); ok {
					if e.Authority = s; !isName(s, lowerLetters, lowerLetters+digits+"_-", 32) {
						c.errorf(it, "an authority is named by small letters, digits, hyphens and underscores, at most 32, not %q", s)
					}
				}
			}},
		})
		if isMapping && len(e.Hosts) == 0 {
			c.errorf(key, "the environment %s has no hosts", name)
		}
		c.draft.environments = append(c.draft.environments, e)
	})
}

func (c *compiler) hostPattern(it item, e *environmentDraft) {
	s, ok := c.text(it, "a host pattern")
	if !ok {
		return
	}
	switch {
	case strings.HasPrefix(s, "!"):
		c.errorf(it, "a host pattern cannot be negated: name the hosts that belong to the environment")
	case s != strings.ToLower(s):
		c.errorf(it, "host patterns are in small letters: write %q", strings.ToLower(s))
	case !isHostPattern(s):
		c.errorf(it, "a host pattern has small letters, digits and . * ? - only, at most %d, not %q", maxHost, s)
	case strings.HasSuffix(s, "."):
		c.errorf(it, "hosts are compared without the trailing dot: write %q", strings.TrimSuffix(s, "."))
	}
	e.Hosts, e.hostItems = append(e.Hosts, s), append(e.hostItems, it)
}

const (
	lowerLetters = "abcdefghijklmnopqrstuvwxyz"
	digits       = "0123456789"
	loginRule    = "a login begins with a small letter or underscore, has small letters, digits and . _ - only, and at most 32"
)

// isName says whether s begins with one of first, goes on with those or rest, and has at most n bytes.
func isName(s, first, rest string, n int) bool {
	return s != "" && len(s) <= n && strings.IndexByte(first, s[0]) >= 0 && onlyOf(s, first+rest)
}

// isLogin says whether s may be an account: [a-z_][a-z0-9._-]{0,31}.
func isLogin(s string) bool { return isName(s, lowerLetters+"_", digits+".-", 32) }

// shortDuration prints 2h, not 2h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
