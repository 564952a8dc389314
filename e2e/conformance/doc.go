// Package conformance holds what OpenSSH makes of certificates, cell by cell: what a real sshd accepts and what it refuses, and
// why by its own log, and that Hallpass never issues what a server could misread.
//
// A row of a table is one cell. First a certificate, crafted byte by byte, pins what sshd does with it. Then, under the same
// number, the property is asked of the core by a policy that grants everything (TestCoreRefuses), which must come to its kind of
// error, one record, no certificate in the log and no signature; it is written into a policy (TestPolicyRefuses), which must not
// load; or, where nobody can ask for it, a certificate comes out without it (TestCoreIssues).
//
// The first letter of a cell says what the server trusts:
//
//	U  TrustedUserCAKeys, and no principals file
//	K  the same, with keys on security keys (sk-ssh-ed25519, sk-ecdsa)
//	A  authorized_keys with cert-authority
//	P  AuthorizedPrincipalsFile or AuthorizedPrincipalsCommand
//
// A letter after the number marks a neighbour of the cell with that number. "accept" says that sshd lets the certificate in,
// whatever becomes of the command; a permission that it lacks shows in what is printed. The expectations are those of OpenSSH
// 9.2p1 as Debian 12 ships it. Some are known to differ elsewhere:
//
//	A05, A06, A09  accepted by OpenSSH up to 10.2 without the fix of CVE-2026-35414, which Debian's has
//	A11            refused from OpenSSH 10.3 on (CVE-2024-7594): no principals no longer mean any user
//
// And these were decided by observation: a window includes its ValidAfter and excludes its ValidBefore (U21b, U23, U24);
// without their extensions agents and ports are not forwarded and ~/.ssh/rc is not run, while the login itself stands (U67b,
// U68b, U70b); sshd does not mind an extension that is there twice, nor the reserved field (U33c, U57d).
//
// As root the cells log in as an account that only the sshd of the test sees; otherwise as the current user.
package conformance
