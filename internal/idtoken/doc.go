// Package idtoken says who calls: it verifies ID tokens of several OIDC issuers, of people and of workloads, and makes of each a
// ca.Caller, or an error that says why not.
//
// It knows OpenID Connect, JOSE, and the keys of the issuers, which it fetches and keeps. It must never know what a caller may do,
// nor which key a token is bound to: Token.Nonce is passed on as it came, and the core holds it against the request.
//
// Signatures are verified by go-oidc and go-jose, and by nothing else; what those libraries leave to their users is checked
// here, as is every token's form before they see it.
package idtoken
