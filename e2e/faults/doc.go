// Package faults breaks the ground under the real daemon while clients ask it for certificates: it kills the process, fills the
// disk, takes away the right to write, lets syncs fail; and it watches the order of its system calls.
//
// Whatever happens, these hold afterwards, over all rounds of a test (see check):
//
//   - every certificate that a client received is in the log, byte for byte up to the signature
//   - every refusal that a client received is in the log
//   - no serial and no nonce of a request stands for two outcomes
//   - the same bytes sent again lead to the same record
//   - what was answered with Unavailable because nothing could be written is not in the log
//   - the log verifies against its public key, offline
//
// The daemon is the real program in a process of its own; so are strace and ssh-agent. The identity provider, in this process,
// speaks real OpenID Connect, and the clients speak gRPC over TLS with keys and tokens of their own. A fault that needs root to
// be real, such as a full file system, has a twin that needs none; without root the same test runs the twin.
//
// With HALLPASS_LONG set there are as many rounds as before a release; without, as many as a developer has patience for.
package faults
