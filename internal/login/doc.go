// Package login signs a person in at an OIDC issuer, for the helper: in a browser (authorization code with PKCE on a loopback
// redirect, RFC 8252), with a code typed elsewhere (device flow, RFC 8628), or again with a refresh token. It keeps the session
// that results, its secrets in the keyring of the operating system where there is one.
//
// It knows OIDC and where secrets are kept. It must never know of certificates, nor ask the daemon anything. Tokens never appear in
// its errors nor in what it prints.
package login
