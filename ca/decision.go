package ca

import (
	"context"
	"net/netip"
	"time"
)

// Rules is a policy at one revision. An implementation MUST be safe for concurrent use and never change.
type Rules interface {
	// Ref names the policy.
	Ref() PolicyRef
	// Declare returns the caller's identity with the claims that the policy declares, decoded strictly. A claim of the
	// wrong type is an Error of Kind Denied.
	Declare(Caller) (Identity, error)
	// Decide asks the rules. It does not fail: what cannot be evaluated is refused.
	Decide(ctx context.Context, q Question) Decision
	// Reviews says what its review rules want to know of the past, and whether there are any.
	Reviews() (Wants, bool)
	// Review asks the review rules about a decision. It does not fail: a rule that cannot be evaluated asks for a review.
	Review(ctx context.Context, s Settled) Review
}

// Question is everything that a policy may depend on.
type Question struct {
	Identity Identity
	Token    Token
	Request  Request
	Now      time.Time
	// Lists are those that were fetched for the policy, sorted by name.
	Lists []FetchedList
}

// FetchedList is a list of a policy whose members somebody else keeps, as it was fetched.
type FetchedList struct {
	// Name is that of the list in the policy.
	Name string
	// Fetched is when the members were last fetched. How old they may be is for the policy to say.
	Fetched time.Time
	// Members are sorted, each once. They MUST NOT be changed: decisions share them.
	Members []string
}

// PolicyRef names a policy.
type PolicyRef struct {
	// Digest is the SHA-256 of the manifest of its files.
	Digest [32]byte
	// Revision is the git commit, in full; empty for a plain folder.
	Revision string
	// Dirty says that files differed from the commit.
	Dirty bool
}

// Outcome is what a decision comes to. The zero value is none, which the core treats as a refusal.
type Outcome int

// The outcomes.
const (
	Allow Outcome = iota + 1
	Deny
	NeedsMore
)

// Decision is what a policy says to a question. It names at most one rule.
type Decision struct {
	Outcome Outcome
	// Rule is the rule that decided: the deny rule, the allow rule, or the nearest one for NeedsMore. Empty if none matched.
	Rule string
	// Message is for the caller.
	Message string
	// Needs says what is missing, for NeedsMore.
	Needs []Need
	// Failed lists the rules that could not be evaluated.
	Failed []FailedRule
	// Environment is that of the host; its Name is empty if the host is unknown.
	Environment Environment
	// Grant is what the rule allows, for Allow.
	Grant Grant
	// TTL is the lifetime to certify, for Allow: at most Grant.TTL, Environment.MaxTTL and Limits.MaxTTL.
	TTL time.Duration
	// Limits are the ceilings of the policy. The core holds the grant against them again.
	Limits Limits
}

// NeedKind names what is needed.
type NeedKind int

// What may be needed.
const (
	NeedReason NeedKind = iota + 1
	NeedFreshLogin
)

// Need is what would turn a refusal into a grant.
type Need struct {
	Kind NeedKind
	// LoginWithin is the longest age of a sign-in, for NeedFreshLogin.
	LoginWithin time.Duration
}

// FailedRule is a rule that could not be evaluated.
type FailedRule struct {
	Rule    string
	Message string
	// Told is what the caller may read of the Message, which may quote what the rule says of others. Records do not hold it.
	Told string
}

// Environment is a named set of hosts.
type Environment struct {
	Name string
	// MaxTTL is its own ceiling; zero if it has none.
	MaxTTL time.Duration
	// Authority names the Authority that signs for it.
	Authority string
}

// Scope says how far a grant reaches.
type Scope int

// The scopes: the principal for login "deploy" is "deploy", "deploy@<environment>" or "deploy@<host>".
const (
	ScopeAny Scope = iota + 1
	ScopeEnvironment
	ScopeHost
)

// Grant is what a rule allows. Options are typed so that a restriction cannot end up where sshd ignores it.
type Grant struct {
	// Logins are the accounts that the rule allows. The certificate carries the one asked for.
	Logins []string
	Scope  Scope
	// TTL is the ceiling of the rule.
	TTL time.Duration
	// ForceCommand is the only command the certificate may run; empty for none.
	ForceCommand string
	// SourceAddresses limit where the certificate works from; nil for everywhere. Masked prefixes, canonical.
	SourceAddresses []netip.Prefix
	// VerifyRequired asks for user verification at each use; only for sk keys.
	VerifyRequired bool
	Extensions     []Extension
}

// Extension is a permission of PROTOCOL.certkeys.
type Extension string

// The extensions that a grant may carry.
const (
	PermitPTY             Extension = "permit-pty"
	PermitPortForwarding  Extension = "permit-port-forwarding"
	PermitAgentForwarding Extension = "permit-agent-forwarding"
	PermitX11Forwarding   Extension = "permit-X11-forwarding"
	PermitUserRC          Extension = "permit-user-rc"
)

// KeyRule allows one type of subject key.
type KeyRule struct {
	// Type is "ed25519", "sk-ed25519", "ecdsa", "sk-ecdsa" or "rsa".
	Type string
	// MinBits is the smallest modulus, for rsa.
	MinBits int
}

// Limits are ceilings that no rule can pass.
type Limits struct {
	MaxTTL      time.Duration
	NeverLogins []string
	Keys        []KeyRule
}
