// Package client speaks to the daemon: it dials and pins it, signs requests with the key of the sign-in, and checks every
// certificate that comes back before anybody may use it.
//
// It knows the wire, TLS, and what a caller asked for. It trusts the daemon's transport and nothing that the daemon says: an
// answer that is more than was asked for, or signed by a CA key that was not pinned at login, is an error. It must never keep
// anything on disk, prompt, or know where keys and tokens live.
package client
