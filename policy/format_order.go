package policy

import (
	"slices"
	"strings"
)

// Keys that several mappings have.
const (
	identityKeys = "issuer subject kind email groups claims"
	tokenKeys    = "bound auth_time issued_at"
	requestKeys  = "login host ttl reason rule break_glass key_type source_ip"
	questionKeys = "identity token request lists history now"
)

// keyOrders are the orders of keys, by the path of their mapping: "-" is an entry of a list, "*" one of names that the author
// chose, which keep their order.
var keyOrders = map[string]string{
	"":                       "version include claims limits shared_trust environments lists calendars vars deny allow review roles defaults identities cases",
	"/claims/*":              "type default optional",
	"/limits":                "max_ttl never_logins keys",
	"/environments/*":        "hosts max_ttl authority",
	"/lists/*":               "file url max_age field member",
	"/calendars/*":           "zone days hours windows",
	"/calendars/*/windows/-": "from to",
	"/deny/-":                "name owner when message",
	"/allow/-":               "name owner expires when require grant",
	"/review/-":              "name owner when within message",
	"/allow/-/require":       "reason login_within approvals",
	"/allow/-/grant":         "logins scope ttl force_command source_address verify_required extensions",
	"/roles":                 "auditor admin",
	"/defaults":              questionKeys,
	"/defaults/identity":     identityKeys,
	"/defaults/token":        tokenKeys,
	"/defaults/request":      requestKeys,
	"/identities/*":          identityKeys,
	"/cases/-":               "name " + questionKeys + " expect",
	"/cases/-/identity":      identityKeys,
	"/cases/-/token":         tokenKeys,
	"/cases/-/request":       requestKeys,
	"/defaults/history":      "first_use refused",
	"/cases/-/history":       "first_use refused",
	"/cases/-/expect":        "outcome rule ttl principals message needs review",
}

// keyRank returns the place of a key in its mapping; keys that are not known come last.
func keyRank(at, key string) int {
	order := strings.Fields(keyOrders[at])
	if i := slices.Index(order, key); i >= 0 {
		return i
	}
	return len(order)
}
