package ca

import (
	"context"
	"errors"
	"time"
)

// Attempt is a decision as it is recorded: granted or refused, with every input.
type Attempt struct {
	Caller   Caller // Identity carries the declared claims once the policy picked them
	Request  Request
	Now      time.Time // the one reading of the clock
	Policy   PolicyRef // zero if refused before a policy was asked
	Decision Decision  // zero if refused before a policy was asked
	// Lists are the fetched lists that the policy saw; nil if refused before a policy was asked.
	Lists []FetchedList
	// Proven says that possession of the key and its binding to the token were shown.
	// Nothing may be derived from the request of an attempt that is not proven.
	Proven bool
	// Authority signs, for a grant.
	Authority string
	// Refusal says why nothing is granted; nil for a grant.
	Refusal *Error
	// Review is what the review rules said; nil if there are none.
	Review *Review

	rules Rules // that decided
}

// Recorded is what the log holds of an earlier attempt.
type Recorded struct {
	Index     uint64
	Issuer    string
	Subject   string
	Digest    [32]byte // of the signed request bytes
	Authority string
	// ToBeSigned are the exact bytes of a grant; nil for a refusal.
	ToBeSigned []byte
	// Refusal is nil for a grant.
	Refusal  *Error
	Decision Decision // Outcome, Rule, Message, Needs, Environment.Name
	Policy   PolicyRef
	// Review is what the review rules said; nil if the record tells nothing of them.
	Review *Review
}

// Errors of Log.Record. Nothing was written, no index was taken.
var (
	// ErrNonceUsed: the identity used this nonce before.
	ErrNonceUsed = errors.New("request nonce already used")
	// ErrTokenUsed: the token was first used with another key, or serves once and has served.
	ErrTokenUsed = errors.New("ID token already used")
	// ErrPolicyChanged: the policy that decided is no longer in force. Decide again.
	ErrPolicyChanged = errors.New("policy changed")
	// ErrRefusedMeanwhile: the caller was refused after its refusals were looked up. Ask the review rules again.
	ErrRefusedMeanwhile = errors.New("caller refused meanwhile")
)

// Log makes attempts durable. It is the only way that this package reaches storage.
//
// Record calls build with the serial that follows from the place of the record, inside the transaction; what build returns is
// the exact to-be-signed certificate of a grant (nil for a refusal, whose build is nil). It may be called more than once. When Record returns nil the record is
// durable. Any error other than those above means that the record is not there, or, for an Error of Kind Unavailable whose
// outcome is in doubt, that it may be: the caller MUST NOT sign in either case.
type Log interface {
	Record(ctx context.Context, a *Attempt, build func(serial uint64) ([]byte, error)) (index uint64, err error)
	// History returns what is wanted of the past of an attempt that is about to be recorded.
	History(ctx context.Context, a *Attempt, wants Wants) (History, error)
	// Earlier returns what the same identity's same nonce led to, or nil.
	Earlier(ctx context.Context, c Caller, r Request) (*Recorded, error)
	// BoundKeys returns the SHA-256 digests of the keys that decisions bound to this identity's sign-in (auth_time) before.
	BoundKeys(ctx context.Context, c Caller) ([][32]byte, error)
	// TokenKey returns the SHA-256 digest of the key that used this very token first, if the token is not bound; nil if it is
	// bound or was not used.
	TokenKey(ctx context.Context, c Caller) (*[32]byte, error)
	// SignInBound records that the caller's token, which has a nonce and an auth_time, was shown to belong to a key.
	SignInBound(ctx context.Context, c Caller, key [32]byte) error
	// SignatureFailed records that the grant at index could not be signed.
	SignatureFailed(ctx context.Context, index uint64, authority string, cause error) error
}
