package ca

import (
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The grammars of names. Logins and hosts end up in principals, which other people's programs put into lists, patterns and
// shells; so they hold nothing that is special to any of those.
var (
	loginForm = regexp.MustCompile(`^[a-z_][a-z0-9._-]{0,31}$`)
	labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	ruleForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	envForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
)

const (
	maxHost   = 253 // RFC 1035 section 2.3.4, without the length bytes
	maxReason = 500 // characters
)

// ValidLogin says whether s may be an account on a server.
func ValidLogin(s string) bool { return loginForm.MatchString(s) }

// CanonicalHost returns the one spelling of a host that rules, principals and records use: lower case, without one trailing
// dot. A host is a DNS name or an IPv4 address.
func CanonicalHost(s string) (string, error) {
	host := strings.TrimSuffix(asciiLower(s), ".")
	if host == "" || len(host) > maxHost {
		return "", Errorf(Invalid, "a host has 1 to %d characters", maxHost)
	}
	for label := range strings.SplitSeq(host, ".") {
		if !labelForm.MatchString(label) {
			return "", Errorf(Invalid, "%q is not a host: use a name of a-z, 0-9, '-' and '.', or an IPv4 address", printable(s))
		}
	}
	// "1.2.3" and "0x7f.1" mean an address to some resolvers; only the one canonical spelling names it here.
	last := host[strings.LastIndexByte(host, '.')+1:]
	if _, err := netip.ParseAddr(host); err != nil && isNumber(last) {
		return "", Errorf(Invalid, "%q is neither a name nor a full IPv4 address", printable(s))
	}
	return host, nil
}

// isNumber says whether a resolver could take the last label of a host for a part of an address.
func isNumber(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// asciiLower leaves everything but A to Z alone: the Kelvin sign is not a k.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// check holds the texts and numbers of a request against their forms and brings the host into its one spelling.
func (r *Request) check() error {
	host, err := CanonicalHost(r.Host)
	if err != nil {
		return err
	}
	r.Host = host
	switch {
	case !ValidLogin(r.Login):
		return Errorf(Invalid, "%q is not a login: use a-z, 0-9, '.', '_' and '-', at most 32, not beginning with a digit, '.' or '-'", printable(r.Login))
	case r.TTL < 0 || r.TTL%time.Second != 0:
		return Errorf(Invalid, "a lifetime is a positive number of whole seconds")
	case r.Rule != "" && !ruleForm.MatchString(r.Rule):
		return Errorf(Invalid, "%q is not the name of a rule", printable(r.Rule))
	case !utf8.ValidString(r.Reason) || utf8.RuneCountInString(r.Reason) > maxReason:
		return Errorf(Invalid, "a reason is UTF-8 text of at most %d characters", maxReason)
	case !OneLine(r.Reason):
		return Errorf(Invalid, "a reason is one line without control characters")
	case r.Nonce == [16]byte{}:
		return Errorf(Invalid, "the request has no nonce: send 16 random bytes")
	}
	return nil
}

// OneLine says whether s is UTF-8 text without anything that could rearrange or forge a line where it is shown. What people write for
// the log must be: it stays there.
func OneLine(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.In(r, unicode.Zl, unicode.Zp)
	})
}

// printable makes caller text safe to repeat in a message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return s
}
