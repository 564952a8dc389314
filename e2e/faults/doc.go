// Package faults breaks the ground under the real daemon while clients ask it for certificates: it kills the process, cuts the power
// of its disk, fills that, takes away the right to write, lets syncs fail and wait, damages the file, puts back an older one, sets the
// clock; and it watches the order of its system calls.
//
// Whatever happens, these hold after every round, over all rounds of an authority (see check):
//
//   - every certificate that a client received is in the log, byte for byte up to the signature
//   - every refusal that a client received is in the log
//   - no serial and no nonce of a request stands for two outcomes
//   - the same bytes sent again lead to the same record
//   - what was answered with Unavailable because nothing could be written is not in the log
//   - the log is whole for `hallpass audit verify`: it verifies offline, goes on from each state that it was seen in, each decision
//     follows from the policy in force, and all that the daemon looks up follows from the records
//   - the daemon goes on by itself once the fault is over, or with its next start if it ended
//
// The daemon is the real program in a process of its own; so are strace and ssh-agent. The identity provider, in this process,
// speaks real OpenID Connect, and the clients speak gRPC over TLS with keys and tokens of their own. A fault that needs root to
// be real, such as the loss of power, has a twin that needs none. File systems are mounted where nobody but the test sees them, and
// are gone with it.
//
// The schedule says how often each fault happens: a few times in make test; with HALLPASS_LONG, in make e2e, for some minutes; with
// HALLPASS_ROUNDS=soak, in make soak, for an hour or more, or as often as HALLPASS_ROUNDS says. A life of an authority that fails names the seed
// with which it can be lived again (HALLPASS_SEED): what is drawn is the same then, what the machine does meanwhile is not.
package faults
