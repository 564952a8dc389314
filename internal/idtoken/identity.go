package idtoken

import (
	"regexp"

	"github.com/hallpass-ssh/hallpass/ca"
)

const (
	maxEmail  = 254 // bytes (RFC 5321 4.5.3.1.3)
	maxGroups = 1000
	maxGroup  = 256 // bytes
)

// emailForm is an address of plain ASCII with one @: no quotes, no comments, no look-alikes. Case is kept: that two spellings are
// one person is the policy's to say.
var emailForm = regexp.MustCompile("^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$")

// email returns the address that the token vouches for by the issuer's rule, or why it does not.
func (i *Issuer) email(claims map[string]any) (string, *ca.Error) {
	if i.Email == EmailNone {
		return "", nil
	}
	value, found := claims["email"]
	verified, said := claims["email_verified"]
	if !found && i.Email == EmailOptional {
		return "", nil
	}
	address, ok := value.(string)
	switch {
	case !found:
		return "", deny("issuer %s sent no email address: ask its administrator for the email scope", i.Name)
	case !ok || len(address) > maxEmail || !emailForm.MatchString(address):
		return "", deny("the email address that issuer %s sent is not one that can be used", i.Name)
	case !said && i.Email == EmailOptional:
		return address, nil
	case !said:
		return "", deny("issuer %s does not say that your email address is verified (no email_verified)", i.Name)
	}
	// Some issuers send "true"; a string is truthy in too many languages to be taken for a yes.
	if yes, ok := verified.(bool); !ok {
		return "", deny("issuer %s sent an email_verified that is not a boolean", i.Name)
	} else if !yes {
		e := ca.Errorf(ca.Denied, "your email address is not verified: verify it at issuer %s, then sign in again", i.Name)
		e.Explanation = &ca.Explanation{Reason: e.Message, Next: "hallpass login --fresh"}
		return "", e
	}
	return address, nil
}

// groups returns the groups that the token names. An issuer that names too many to fit sends a link in their place, and then
// their absence must not pass for membership in none.
func (i *Issuer) groups(claims map[string]any) ([]string, *ca.Error) {
	if i.GroupsClaim == GroupsNone {
		return nil, nil
	}
	if sources, ok := claims["_claim_names"].(map[string]any); ok && sources[i.GroupsClaim] != nil || claims["hasgroups"] != nil {
		return nil, deny("you are in more groups than issuer %s puts into a token (groups overage): ask its administrator to send only the groups assigned to this application", i.Name)
	}
	value, found := claims[i.GroupsClaim]
	switch {
	case !found && i.Kind == ca.Person:
		return nil, deny("issuer %s sent no groups, not even an empty list, in claim %s: sign in with the scope that brings them, or ask its administrator", i.Name, i.GroupsClaim)
	case !found:
		return nil, nil
	}
	list, ok := value.([]any)
	if !ok {
		return nil, deny("claim %s of issuer %s is not a list", i.GroupsClaim, i.Name)
	}
	if len(list) > maxGroups {
		return nil, deny("claim %s of issuer %s has more than %d entries", i.GroupsClaim, i.Name, maxGroups)
	}
	groups := make([]string, 0, len(list))
	for _, entry := range list {
		group, ok := entry.(string)
		if !ok || !printable(group, maxGroup) {
			return nil, deny("claim %s of issuer %s has an entry that is not a printable string of 1 to %d bytes", i.GroupsClaim, i.Name, maxGroup)
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// deny makes the error for a caller who is known.
func deny(format string, args ...any) *ca.Error {
	return ca.Errorf(ca.Denied, format, args...)
}
