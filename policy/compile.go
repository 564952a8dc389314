package policy

import (
	"crypto/sha256"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"

	"github.com/hallpass-ssh/hallpass/ca"
)

// hardMaxTTL is the longest lifetime that any policy may allow.
const hardMaxTTL = 24 * time.Hour

// mainFile is the file that names the rest.
const mainFile = "policy.yaml"

// Policy is a compiled bundle. It never changes and is safe for concurrent use.
type Policy struct {
	ref          ca.PolicyRef
	blobs        [][]byte
	claims       []claim // by name
	limits       ca.Limits
	environments []Environment // by name
	deny, allow  map[string]*rule
	denyIndex    index
	allowIndex   index
	signposts    signposts
	review       []*rule // by name
	wants        ca.Wants
	roles        map[string]*expression
	lists        []list      // by name
	calendars    []*calendar // by name
	shared       []*shared   // by name
	lang         *language   // for explanations, which compile a condition again in parts
}

// rule is a deny rule, an allow rule or a review rule.
type rule struct {
	name string
	// owner answers for the rule.
	owner string
	// file and line are where the rule stands.
	file string
	line int
	when *expression
	// text is the source of when.
	text string
	// message is what a deny rule tells the caller, and a review rule whoever looks.
	message string
	// ends is the first instant at which an allow rule no longer applies; zero for never.
	ends    time.Time
	require requirements
	grant   grant
	// within is how much time a review rule leaves until somebody should look.
	within time.Duration
}

// requirements are what an allow rule asks for besides its condition, and the caller can still do.
type requirements struct {
	reason      bool
	loginWithin time.Duration // zero for any time
}

// grant is ca.Grant before the request is known.
type grant struct {
	logins          []*template
	scope           ca.Scope
	ttl             time.Duration
	forceCommand    string
	sourceAddresses []*template
	verifyRequired  bool
	extensions      []ca.Extension
}

// Ref names the policy.
func (p *Policy) Ref() ca.PolicyRef { return p.ref }

// Blobs returns the bytes that replay needs: first the manifest, whose SHA-256 is the digest of the policy and which lists
// the files as "<SHA-256 in hex>  <path>\n" in the order of paths, then the files in that order.
func (p *Policy) Blobs() [][]byte { return slices.Clone(p.blobs) }

// Compile turns a bundle into a policy. Its error is an Errors that holds every mistake.
func Compile(b *Bundle) (*Policy, error) {
	c := &compiler{bundle: b, draft: newDraft()}
	c.read()
	p := c.build()
	if len(c.errs) > 0 {
		return nil, c.errs.sorted()
	}
	p.seal(b, c.used)
	return p, nil
}

// seal gives the policy its name and its blobs. Only files that the policy is made of count.
func (p *Policy) seal(b *Bundle, used []string) {
	slices.Sort(used)
	p.blobs = [][]byte{manifest(b.Files, used)}
	for _, name := range used {
		p.blobs = append(p.blobs, b.Files[name])
	}
	p.ref = ca.PolicyRef{Digest: sha256.Sum256(p.blobs[0]), Revision: b.Revision, Dirty: b.Dirty}
}

// compiler reads the files into a draft, then builds the policy: an expression can only be checked once every claim and
// every environment is known.
type compiler struct {
	reader
	bundle *Bundle
	used   []string
	draft  draft
	lang   *language
}

// read reads policy.yaml and the files that it includes.
func (c *compiler) read() {
	text, ok := c.bundle.Files[mainFile]
	if !ok {
		c.add(&Error{File: mainFile, Message: "there is no such file in " + c.bundle.Source + ": a policy begins with it"})
		return
	}
	c.used = []string{mainFile}
	root, ok := c.document(mainFile, text)
	if !ok {
		return
	}
	c.mainFile(root)
	for _, pattern := range c.draft.include {
		c.include(pattern)
	}
	c.rosters()
}

// include reads the files that a pattern names. A pattern that names none is a mistake: it may have meant deny rules.
func (c *compiler) include(it item) {
	pattern, ok := c.text(it, "include")
	if !ok {
		return
	}
	if path.IsAbs(pattern) || path.Clean(pattern) != pattern || strings.HasPrefix(pattern, "..") || !strings.HasSuffix(pattern, ".yaml") {
		c.errorf(it, "include takes paths of .yaml files below the policy folder, such as teams/*.yaml, not %q", pattern)
		return
	}
	found := false
	for _, name := range slices.Sorted(maps.Keys(c.bundle.Files)) {
		match, err := path.Match(pattern, name)
		if err != nil {
			c.errorf(it, "%q is not a pattern", pattern)
			return
		}
		if !match || name == mainFile || strings.HasSuffix(name, "_test.yaml") {
			continue
		}
		found = true
		if slices.Contains(c.used, name) {
			continue
		}
		c.used = append(c.used, name)
		if root, ok := c.document(name, c.bundle.Files[name]); ok {
			c.includedFile(root)
		}
	}
	if !found {
		c.errorf(it, "no file matches %q", pattern)
	}
}

// build compiles the expressions of the draft and checks what spans several parts.
func (c *compiler) build() *Policy {
	d := &c.draft
	p := &Policy{deny: map[string]*rule{}, allow: map[string]*rule{}, roles: map[string]*expression{}}
	p.limits = d.coreLimits()
	for _, name := range slices.Sorted(maps.Keys(d.claims)) {
		p.claims = append(p.claims, d.claims[name].claim)
	}
	names := make([]string, len(d.environments))
	for i, e := range d.environments {
		names[i] = e.Name
		p.environments = append(p.environments, e.Environment)
	}
	slices.SortFunc(p.environments, func(a, b Environment) int { return strings.Compare(a.Name, b.Name) })
	c.checkOverlaps()
	var err error
	for _, l := range d.sortedLists() {
		p.lists = append(p.lists, l.list)
	}
	for _, name := range slices.Sorted(maps.Keys(d.calendars)) {
		p.calendars = append(p.calendars, &d.calendars[name].calendar)
	}
	if c.lang, err = newLanguage(p.claims, names, p.lists, p.calendars); err != nil {
		c.add(&Error{File: mainFile, Message: err.Error()})
		return nil
	}
	c.compileShared()
	for _, name := range slices.Sorted(maps.Keys(c.lang.shared)) {
		p.shared = append(p.shared, c.lang.shared[name])
	}
	for _, r := range d.deny {
		p.deny[r.name] = c.rule(r, inDeny)
	}
	for _, r := range d.allow {
		p.allow[r.name] = c.rule(r, inAllow)
		c.checkGrant(r)
	}
	for _, r := range d.review {
		p.review = append(p.review, c.rule(r, inReview))
	}
	for name, it := range d.roles {
		p.roles[name] = c.expression(it, "roles."+name, cel.BoolType, inRole)
	}
	if len(c.errs) > 0 {
		return nil
	}
	p.lang = c.lang
	p.sealReview()
	p.denyIndex = indexOf(slices.Collect(maps.Values(p.deny)))
	p.allowIndex = indexOf(slices.Collect(maps.Values(p.allow)))
	p.signposts = signpostsOf(byName(slices.Collect(maps.Values(p.allow))))
	return p
}

func (c *compiler) rule(d *ruleDraft, where use) *rule {
	r := &d.rule
	r.file, r.line = d.at.src.name, d.at.node.Line
	if d.whenItem.node != nil {
		r.text = d.whenItem.node.Value
		r.when = c.expression(d.whenItem, "when", cel.BoolType, where)
	}
	for _, it := range d.logins {
		if t := c.template(it, "logins"); t != nil {
			c.checkLogin(it, t)
			r.grant.logins = append(r.grant.logins, t)
		}
	}
	for _, it := range d.sourceAddresses {
		if t := c.template(it, "source_address"); t != nil {
			c.checkSourceAddress(it, t)
			r.grant.sourceAddresses = append(r.grant.sourceAddresses, t)
		}
	}
	return r
}

// expression compiles the expression at it; its mistakes are shown where they stand in the file.
func (c *compiler) expression(it item, what string, want *cel.Type, where use) *expression {
	text, ok := c.scalar(it, what, "an expression", "!!str", "!!bool")
	if !ok {
		return nil
	}
	if strings.TrimSpace(text) == "" {
		c.errorf(it, "%s is empty", what)
		return nil
	}
	return c.compileAt(it, text, 0, want, where)
}

// compileAt compiles text, which begins at an offset in runes of the value at it.
func (c *compiler) compileAt(it item, text string, offset int, want *cel.Type, where use) *expression {
	e, mistakes := c.lang.compile(text, want, where)
	if len(mistakes) > 0 {
		at := places(it)
		for _, m := range mistakes {
			c.add(it.src.errorAt(at[min(offset+m.offset, len(at)-1)], "%s", m.message))
		}
	}
	return e
}

// maxPatterns bounds what checkOverlaps compares.
const maxPatterns = 1000

// checkOverlaps refuses hosts that two environments have.
func (c *compiler) checkOverlaps() {
	all, patterns := c.draft.environments, 0
	for _, e := range all {
		if patterns += len(e.Hosts); patterns > maxPatterns {
			c.errorf(e.at, "the policy has more than %d host patterns", maxPatterns)
			return
		}
	}
	for i, a := range all {
		for _, b := range all[:i] {
			for ai, pattern := range a.Hosts {
				for _, other := range b.Hosts {
					if overlap(pattern, other) {
						c.errorf(a.hostItems[ai], "a host can match both %s (environment %s) and %s (environment %s): environments may not overlap",
							pattern, a.Name, other, b.Name)
					}
				}
			}
		}
	}
}

// checkGrant refuses grants that would reach further than their rule, or restrictions without effect.
func (c *compiler) checkGrant(d *ruleDraft) {
	r := &d.rule
	if d.grantItem.node == nil || r.when == nil {
		return
	}
	if r.grant.verifyRequired && !r.when.facts.securityKey {
		c.errorf(d.verifyItem, "verify_required has an effect on sk keys only (sshd ignores it on others): "+
			`add && request.key_type in ["sk-ed25519", "sk-ecdsa"] to when`)
	}
	if r.grant.scope != ca.ScopeAny || c.draft.sharedTrust {
		return
	}
	for _, a := range c.draft.environments {
		if e := r.when.facts.environment; e != "" && e != a.Name {
			continue
		}
		for _, b := range c.draft.environments {
			if a.Name != b.Name && a.Authority == b.Authority {
				c.errorf(d.scopeItem, "scope any: the environments %s and %s share the authority %s, so a certificate for one opens the other: "+
					"give them authorities of their own, or grant scope environment or host, or say shared_trust: true", a.Name, b.Name, a.Authority)
				return
			}
		}
	}
}
