package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
)

// ReadIdentity reads a described identity: who somebody would be, for asking a policy without a sign-in.
//
//	email: alice@example.com      # set only if the issuer would vouch for it
//	groups: [developers]
//	claims: {contractor: true, level: 3}
//	kind: person                  # or workload; person if left out
//	issuer: https://login.example.com
//	subject: u-1                  # the email if left out
//
// The name is that of the file, for mistakes; the error is an Errors. The claims of the Caller are as those of a token:
// (*Policy).Declare picks those that a policy declares, and holds them to their types.
func ReadIdentity(name string, text []byte) (ca.Caller, error) {
	var r reader
	var who ca.Caller
	if root, ok := r.document(name, text); ok {
		who = r.identity(root)
	}
	if len(r.errs) > 0 {
		return ca.Caller{}, r.errs.sorted()
	}
	return who, nil
}

// ReadIdentities reads a list of described identities.
func ReadIdentities(name string, text []byte) ([]ca.Caller, error) {
	var r reader
	var all []ca.Caller
	if root, ok := r.document(name, text); ok {
		r.list(root, "the file", func(it item) { all = append(all, r.identity(it)) })
	}
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	return all, nil
}

// identity reads one described identity.
func (r *reader) identity(it item) ca.Caller {
	who := ca.Caller{Identity: ca.Identity{Kind: ca.Person, Groups: []string{}}, Claims: map[string]any{}}
	id := &who.Identity
	isMapping := r.mapping(it, "an identity", []field{
		{key: "email", read: func(it item) { id.Email = r.word(it, "email") }},
		{key: "issuer", read: func(it item) { id.Issuer = r.word(it, "issuer") }},
		{key: "subject", read: func(it item) { id.Subject = r.word(it, "subject") }},
		{key: "kind", read: func(it item) {
			switch s, ok := r.text(it, "kind"); {
			case !ok:
			case s == ca.Person.String():
			case s == ca.Workload.String():
				id.Kind = ca.Workload
			default:
				r.errorf(it, "kind is person or workload, not %q", s)
			}
		}},
		{key: "groups", read: func(it item) {
			r.list(it, "groups", func(it item) { id.Groups = append(id.Groups, r.word(it, "a group")) })
		}},
		{key: "claims", read: func(it item) {
			r.pairs(it, "claims", func(name string, _, value item) { who.Claims[name] = r.claimValue(value) })
		}},
	})
	if id.Subject == "" {
		id.Subject = id.Email
	}
	if isMapping && id.Subject == "" {
		r.errorf(it, "the identity has neither email nor subject: say who it is")
	}
	return who
}

// word reads text that is shown to people.
func (r *reader) word(it item, what string) string {
	s, ok := r.text(it, what)
	if ok && (len(s) > 500 || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })) {
		r.errorf(it, "%s must be one printable line of at most 500 bytes", what)
	}
	return s
}

// claimValue reads a claim in the form in which encoding/json with UseNumber decodes those of a token.
func (r *reader) claimValue(it item) any {
	switch {
	case it.node.Kind == yaml.SequenceNode:
		list := []any{}
		r.list(it, "a claim", func(it item) { list = append(list, r.claimValue(it)) })
		return list
	case it.node.Kind == yaml.ScalarNode && it.node.Tag == "!!bool":
		return r.boolean(it, "a claim")
	case it.node.Kind == yaml.ScalarNode && it.node.Tag == "!!int":
		n, _ := r.integer(it, "a claim")
		return json.Number(strconv.FormatInt(n, 10))
	}
	s, _ := r.scalar(it, "a claim", "text, a whole number, true, false, or a list", "!!str")
	return s
}

// KeyOfType returns a key for a question that only describes one: "ed25519", "sk-ed25519", "ecdsa", "sk-ecdsa" or "rsa".
func KeyOfType(name string) (ssh.PublicKey, error) {
	algorithms := map[string]string{
		"ed25519": ssh.KeyAlgoED25519, "sk-ed25519": ssh.KeyAlgoSKED25519, "ecdsa": ssh.KeyAlgoECDSA256,
		"sk-ecdsa": ssh.KeyAlgoSKECDSA256, "rsa": ssh.KeyAlgoRSA,
	}
	if !slices.Contains(keyTypes, name) {
		return nil, fmt.Errorf("no such type of key %.60q: known are %s%s", name, strings.Join(keyTypes, ", "), didYouMean(name, keyTypes))
	}
	return ca.DescribedKey(algorithms[name]), nil
}
