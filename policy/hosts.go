package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Environment is a named set of hosts.
type Environment struct {
	Name string
	// Hosts are patterns as in ssh_config: "*" stands for any characters, dots too, "?" for any one.
	Hosts []string
	// Authority names the Authority that signs for it.
	Authority string
	// MaxTTL is its own ceiling; zero if it has none.
	MaxTTL time.Duration
}

func (e Environment) core() ca.Environment {
	return ca.Environment{Name: e.Name, MaxTTL: e.MaxTTL, Authority: e.Authority}
}

// EnvironmentOf returns the environment of a host; false if none or more than one has it.
func (p *Policy) EnvironmentOf(host string) (Environment, bool) {
	found := p.environmentsOf(canonicalHost(host))
	if len(found) != 1 {
		return Environment{}, false
	}
	return found[0].clone(), true
}

// Environments returns all environments by name.
func (p *Policy) Environments() []Environment {
	all := make([]Environment, len(p.environments))
	for i, e := range p.environments {
		all[i] = e.clone()
	}
	return all
}

// Authorities returns the names of all Authorities that the policy refers to, each once, sorted.
func (p *Policy) Authorities() []string {
	var names []string
	for _, e := range p.environments {
		names = append(names, e.Authority)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (e Environment) clone() Environment {
	e.Hosts = slices.Clone(e.Hosts)
	return e
}

// canonicalHost lower-cases a host and removes one trailing dot.
func canonicalHost(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// maxHost is the longest host name (RFC 1035 2.3.4, as text).
const maxHost = 253

// isHost says whether host may end up in a principal: a pattern's "*" would match anything else too.
func isHost(host string) bool {
	return host != "" && len(host) <= maxHost && host[0] != '-' && onlyOf(host, "abcdefghijklmnopqrstuvwxyz0123456789.-")
}

func isHostPattern(pattern string) bool {
	return pattern != "" && len(pattern) <= maxHost && onlyOf(pattern, "abcdefghijklmnopqrstuvwxyz0123456789.-*?")
}

func onlyOf(s, allowed string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
}

func (p *Policy) environmentsOf(host string) []Environment {
	if !isHost(host) {
		return nil
	}
	var found []Environment
	for _, e := range p.environments {
		if slices.ContainsFunc(e.Hosts, func(pattern string) bool { return matchHost(pattern, host) }) {
			found = append(found, e)
		}
	}
	return found
}

// matchHost says whether host matches pattern. It goes back to the last "*" only, so its time is bounded by the product of
// the lengths.
func matchHost(pattern, host string) bool {
	p, h, star, retry := 0, 0, -1, 0
	for h < len(host) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, h
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == host[h]):
			p++
			h++
		case star >= 0:
			retry++
			p, h = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// overlap says whether some string matches both patterns.
func overlap(a, b string) bool {
	for i := 1; i <= min(len(a), len(b)); i++ { // most patterns end in different domains
		x, y := a[len(a)-i], b[len(b)-i]
		if x == '*' || y == '*' {
			break
		}
		if x != y && x != '?' && y != '?' {
			return false
		}
	}
	// row[j] says whether some string matches both what was read of a and b[:j].
	row := make([]bool, len(b)+1)
	row[0] = true
	for j := range b {
		row[j+1] = row[j] && b[j] == '*'
	}
	for i := range a {
		next := make([]bool, len(b)+1)
		next[0] = row[0] && a[i] == '*'
		for j := range b {
			switch {
			case a[i] == '*' || b[j] == '*':
				next[j+1] = row[j+1] && a[i] == '*' || next[j] && b[j] == '*' || // the star stands for nothing
					next[j] && a[i] == '*' || row[j+1] && b[j] == '*' // or takes one more of the other
			default:
				next[j+1] = row[j] && (a[i] == '?' || b[j] == '?' || a[i] == b[j])
			}
		}
		row = next
	}
	return row[len(b)]
}

// unknownHost says that no environment has the host, and which is nearest.
func (p *Policy) unknownHost(host string) string {
	if !isHost(host) {
		return fmt.Sprintf("%.60q is not a host name", host)
	}
	nearest, ok := p.nearest(host)
	if !ok {
		return fmt.Sprintf("no environment has the host %s: the policy names no environment", host)
	}
	message := fmt.Sprintf("no environment has the host %s; the nearest is %s (%s)", host, nearest.name, nearest.pattern)
	if !strings.Contains(host, ".") {
		message += "; use the full name of the host"
	}
	return message
}

// candidate is a host pattern that a host may have been meant for.
type candidate struct {
	edits         int
	name, pattern string
}

// nearest returns the pattern that the fewest edits of the host would match, and its environment; false if there is none.
func (p *Policy) nearest(host string) (candidate, bool) {
	all := p.nearestFirst(host)
	if len(all) == 0 {
		return candidate{}, false
	}
	return all[0], true
}

// nearestFirst lists all patterns, those first that the fewest edits of the host would match.
func (p *Policy) nearestFirst(host string) []candidate {
	var all []candidate
	for _, e := range p.environments {
		for _, pattern := range e.Hosts {
			all = append(all, candidate{edits(host, pattern), e.Name, pattern})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.edits, b.edits), cmp.Compare(a.name, b.name))
	})
	return all
}
