// Package agentkey keeps the one SSH key of a sign-in where ssh finds it: in the user's agent with a lifetime, or, without an
// agent, in a private file on the runtime tmpfs. The user's own key, sk keys included, stays where it is.
//
// It knows agents, key files and SSHSIG. It must never know what is signed with the key, nor write a private key anywhere but
// in that one file. Certificates are never put into an agent: many of them cause "too many authentication failures" everywhere.
package agentkey
