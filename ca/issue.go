package ca

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Issued is a certificate whose record is durable.
type Issued struct {
	// Certificate in SSH wire format.
	Certificate []byte
	Index       uint64
	Serial      uint64
	Decision    Decision
	Policy      PolicyRef
}

// Planned is what Issue would come to.
type Planned struct {
	Decision Decision
	Policy   PolicyRef
	// TTL and Principals are those of the certificate; zero unless the Outcome is Allow.
	TTL        time.Duration
	Principals []string
	// Explanation says why not; nil for Allow.
	Explanation *Explanation
}

// Issue turns a call into a certificate or into a refusal. Read it from top to bottom: the order of its steps is what the
// security of Hallpass rests on (docs/issuance.md). Its errors are *Error.
func (c *CA) Issue(ctx context.Context, call Call) (issued *Issued, err error) {
	began := time.Now()
	// 1. Authenticate. Whoever has no verified ID token is a stranger; from here on every refusal is a record.
	a, caller, err := c.authenticate(ctx, call)
	if a == nil {
		return nil, err
	}
	defer func() { c.Observer.Issue(ctx, began, issued, err) }()
	if err != nil {
		return nil, c.refuse(ctx, a, err)
	}
	// The caller holds the key that it wants certified, and signed these very bytes for this server, now.
	if a.Request, err = c.possession(ctx, call, a.Now); err != nil {
		return nil, c.refuse(ctx, a, err)
	}
	// The same bytes lead to the same outcome. Different bytes under the same nonce lead nowhere.
	if earlier, err := c.Log.Earlier(ctx, caller, a.Request); err != nil {
		return nil, unavailable(err)
	} else if earlier != nil {
		return c.repeat(ctx, a, earlier)
	}
	// The token belongs to that key, or to nobody yet.
	if a.Caller.Token.Bound, err = c.bind(ctx, caller, a.Request.PublicKey.Marshal(), a.Request.TokenNonce); err != nil {
		return nil, c.refuse(ctx, a, err)
	}
	a.Proven = true

	for range maxDecisions {
		// 2. Decide, by the policy in force, and 3. limit: hold what it granted against what was asked and what may be.
		cert, err := c.decide(ctx, a, caller)
		// 4. Record, the refusal or the exact bytes to be signed.
		index, toBeSigned, err := c.record(ctx, a, cert, err)
		switch {
		case errors.Is(err, ErrPolicyChanged):
			c.Newer(ctx, a.Policy)
			continue
		case errors.Is(err, ErrTokenUsed):
			return nil, c.refuse(ctx, a, tokenUsed(caller))
		case errors.Is(err, ErrNonceUsed):
			return c.raced(ctx, a)
		case err != nil:
			return nil, err
		case a.Refusal != nil:
			a.Refusal.Explanation = c.explain(ctx, a)
			return nil, a.Refusal
		}
		// 5. Sign. The record is durable, so the certificate exists from here on, whoever has gone away.
		return c.sign(ctx, a.Authority, toBeSigned, &Issued{Index: index, Decision: a.Decision, Policy: a.Policy})
	}
	return nil, c.refuse(ctx, a, Errorf(Unavailable, "the policy keeps changing: try again"))
}

// DryRun says what Issue would come to now. It records nothing, signs nothing and consumes nothing. A refusal by the policy is
// an answer; anything that stops Issue before or after the policy is asked is an *Error.
func (c *CA) DryRun(ctx context.Context, call Call) (*Planned, error) {
	a, caller, err := c.authenticate(ctx, call)
	if err != nil {
		return nil, err
	}
	if a.Request, err = c.possession(ctx, call, a.Now); err != nil {
		return nil, err
	}
	if a.Caller.Token.Bound, err = c.bind(ctx, caller, a.Request.PublicKey.Marshal(), a.Request.TokenNonce); err != nil {
		return nil, err
	}
	cert, err := c.decide(ctx, a, caller)
	p := &Planned{Decision: a.Decision, Policy: a.Policy}
	if err != nil {
		if a.Decision.Outcome == Deny || a.Decision.Outcome == NeedsMore {
			p.Explanation = c.explain(ctx, a)
			return p, nil
		}
		return nil, err
	}
	p.TTL, p.Principals = a.Decision.TTL, []string{cert.principal}
	return p, nil
}

// authenticate begins an attempt. Without a known identity it returns no attempt. The Caller it returns has all claims of the
// token; that of the attempt has none until the policy picks those that it declared.
func (c *CA) authenticate(ctx context.Context, call Call) (*Attempt, Caller, error) {
	defer c.Observer.Step(ctx, StepAuthenticate, time.Now())
	now := c.Now()
	caller, err := c.whois(ctx, call.Token, now)
	if !named(caller) {
		return nil, Caller{}, c.Stranger(call.SourceIP, err)
	}
	caller.Token.Bound = false
	if err := c.Admit(caller, call.SourceIP); err != nil {
		return nil, Caller{}, err
	}
	known := caller
	known.Claims, known.Identity.Claims = nil, nil
	return &Attempt{
		Caller:  known,
		Request: Request{SourceIP: call.SourceIP, Digest: sha256.Sum256(call.Signed)},
		Now:     now,
	}, caller, err
}

// whois asks Authenticate, and trusts neither its panic nor a success without an identity.
func (c *CA) whois(ctx context.Context, token string, now time.Time) (caller Caller, err error) {
	if fault := c.guard("authenticate", func() error {
		caller, err = c.Authenticate(ctx, token, now)
		return nil
	}); fault != nil {
		return Caller{}, fault
	}
	if err == nil && !named(caller) {
		err = &Error{Kind: Internal, Message: "authentication named neither a person nor a workload"}
	}
	return caller, err
}

// named says whether a caller is somebody of whom a record can tell.
func named(c Caller) bool {
	return c.Identity.Issuer != "" && c.Identity.Subject != "" && (c.Identity.Kind == Person || c.Identity.Kind == Workload)
}

// decide asks the policy in force and limits what it grants. It sets what the attempt records of both.
func (c *CA) decide(ctx context.Context, a *Attempt, caller Caller) (*certificate, error) {
	defer c.Observer.Step(ctx, StepDecide, time.Now())
	a.Policy, a.Decision, a.Lists, a.Authority, a.rules = PolicyRef{}, Decision{}, nil, "", nil
	rules := c.Rules()
	if rules == nil {
		return nil, Errorf(Unavailable, "no policy is in force yet: try again later")
	}
	a.Policy, a.rules = rules.Ref(), rules
	if err := c.guard("decide", func() error {
		identity, err := rules.Declare(caller)
		if err != nil {
			return err
		}
		// A policy may not change who calls.
		identity.Issuer, identity.Subject, identity.Kind = caller.Identity.Issuer, caller.Identity.Subject, caller.Identity.Kind
		a.Caller.Identity = identity
		a.Lists = c.Lists(rules)
		a.Decision = rules.Decide(ctx, Question{Identity: identity, Token: a.Caller.Token, Request: a.Request, Now: a.Now, Lists: a.Lists})
		return nil
	}); err != nil {
		return nil, err
	}
	switch d := a.Decision; d.Outcome {
	case Allow:
		cert, err := c.limit(a)
		if err == nil {
			a.Authority = d.Environment.Authority
		}
		return cert, err
	case NeedsMore:
		return nil, &Error{Kind: Needs, Message: cmp.Or(d.Message, "something is still needed"), Needs: d.Needs}
	case Deny:
		return nil, &Error{Kind: Denied, Message: cmp.Or(d.Message, "no rule allows this")}
	default:
		a.Decision = Decision{} // there is no word for it in a record either
		return nil, &Error{Kind: Internal, Message: fmt.Sprintf("the policy came to no known outcome (%d)", d.Outcome)}
	}
}

// record makes the attempt durable: with the bytes of cert, or with refusal. It returns the bytes that the log holds.
func (c *CA) record(ctx context.Context, a *Attempt, cert *certificate, refusal error) (index uint64, toBeSigned []byte, err error) {
	if a.Refusal = asError(refusal); a.Refusal != nil {
		index, err = c.write(ctx, a)
		return index, nil, err
	}
	if err := cert.draw(c.Rand); err != nil {
		return 0, nil, c.refuse(ctx, a, &Error{Kind: Unavailable, Message: "no randomness: try again", Err: err})
	}
	began := time.Now()
	var fault error
	index, err = c.settle(ctx, a, func(serial uint64) ([]byte, error) {
		toBeSigned = nil
		fault = c.guard("build certificate", func() error {
			toBeSigned = cert.toBeSigned(serial)
			return lint(toBeSigned, c.expect(a, serial))
		})
		if fault != nil {
			return nil, fault
		}
		return toBeSigned, nil
	})
	c.Observer.Step(ctx, StepRecord, began)
	switch {
	case err == nil:
		return index, toBeSigned, nil
	case fault != nil:
		c.Logger.ErrorContext(ctx, "a certificate was not signed because it is not what it should be", "error", fault, "rule", a.Decision.Rule)
		return 0, nil, c.refuse(ctx, a, &Error{Kind: Internal, Message: "the certificate would not be what was granted", Err: fault})
	default:
		return 0, nil, logError(err)
	}
}

// refuse records why a known identity gets nothing, and returns it; if that cannot be recorded, it says Unavailable instead.
// What could not be shown to hold stays underived: the attempt counts as not proven.
func (c *CA) refuse(ctx context.Context, a *Attempt, reason error) error {
	a.Refusal, a.Authority, a.Proven, a.Caller.Token.Bound = asError(reason), "", false, false
	if a.Refusal.Kind != Internal {
		a.Policy, a.Decision, a.Lists = PolicyRef{}, Decision{}, nil
	}
	if _, err := c.write(ctx, a); err != nil {
		return unavailable(errors.Join(err, reason))
	}
	return a.Refusal
}

// write records a refusal. A caller that hangs up is refused all the same.
func (c *CA) write(ctx context.Context, a *Attempt) (uint64, error) {
	defer c.Observer.Step(ctx, StepRecord, time.Now())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	index, err := c.settle(ctx, a, nil)
	if err == nil {
		a.Refusal = a.Refusal.at(index, a.Decision, a.Policy)
	}
	return index, logError(err)
}

// repeat answers a nonce that was used before.
func (c *CA) repeat(ctx context.Context, a *Attempt, e *Recorded) (*Issued, error) {
	id := a.Caller.Identity
	switch {
	case e.Digest != a.Request.Digest || e.Issuer != id.Issuer || e.Subject != id.Subject:
		return nil, c.refuse(ctx, a, Errorf(Conflict, "the nonce of this request was used for another: send a fresh one"))
	case e.Refusal != nil:
		return nil, e.Refusal.at(e.Index, e.Decision, e.Policy)
	}
	return c.sign(ctx, e.Authority, e.ToBeSigned, &Issued{Index: e.Index, Decision: e.Decision, Policy: e.Policy})
}

// raced answers a request whose twin was recorded while this one was being decided.
func (c *CA) raced(ctx context.Context, a *Attempt) (*Issued, error) {
	earlier, err := c.Log.Earlier(ctx, a.Caller, a.Request)
	if err != nil {
		return nil, unavailable(err)
	}
	if earlier == nil {
		return nil, unavailable(ErrNonceUsed)
	}
	return c.repeat(ctx, a, earlier)
}

// sign signs bytes that the log holds, checks the signature and completes the answer. The caller's cancellation no longer
// counts: a record without its certificate would help nobody.
func (c *CA) sign(ctx context.Context, authority string, toBeSigned []byte, issued *Issued) (*Issued, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.SignTimeout)
	defer cancel()
	cert, serial, err := c.signature(ctx, authority, toBeSigned)
	if err != nil {
		c.Observer.SignatureFailed(authority)
		c.Logger.ErrorContext(ctx, "sign certificate", "index", issued.Index, "authority", authority, "error", err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		if logErr := c.Log.SignatureFailed(ctx, issued.Index, authority, err); logErr != nil {
			c.Logger.ErrorContext(ctx, "record failed signature", "index", issued.Index, "error", logErr)
		}
		return nil, &Error{Kind: Unavailable, Message: fmt.Sprintf("the CA key %q cannot sign now: try again later", authority), Err: err}
	}
	issued.Certificate, issued.Serial = cert, serial
	return issued, nil
}

// signature returns the certificate and its serial.
func (c *CA) signature(ctx context.Context, authority string, toBeSigned []byte) (cert []byte, serial uint64, err error) {
	defer c.Observer.Step(ctx, StepSign, time.Now())
	by := c.Authorities[authority]
	if by == nil {
		return nil, 0, errors.New("no such Authority")
	}
	parsed, err := parseCertificate(toBeSigned)
	if err != nil {
		return nil, 0, err
	}
	if string(parsed.authority) != string(by.PublicKey.Marshal()) {
		return nil, 0, errors.New("the record names another CA key than the one that would sign")
	}
	err = c.guard("sign certificate", func() error {
		cert, err = by.certify(ctx, c.Rand, toBeSigned)
		return err
	})
	return cert, parsed.serial, err
}

// guard runs code that is not ours, or that runs where a panic would cost more than this request.
func (c *CA) guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.Logger.Error("panic", "while", what, "panic", p, "stack", string(debug.Stack()))
			err = &Error{Kind: Internal, Message: "internal error", Err: fmt.Errorf("%s: panic: %v", what, p)}
		}
	}()
	return f()
}

// tokenUsed says why a token is no good any more.
func tokenUsed(caller Caller) *Error {
	if caller.Identity.Kind == Workload {
		return Errorf(Unauthenticated, "this ID token has served: that of a workload serves once, ask the issuer for a new one")
	}
	return Errorf(Unauthenticated, "this ID token was first used with another key: sign in again")
}

// asError returns err as an *Error. One that nobody classified is Internal and keeps its text to itself.
func asError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: Internal, Message: "internal error", Err: err}
}

// unavailable says that the log does not answer, so nothing was issued.
func unavailable(err error) *Error {
	e := &Error{Kind: Unavailable, Message: "the log of the CA cannot be used now, so nothing was issued: try again later", Err: err}
	if cause, ok := errors.AsType[*Error](err); ok && cause.Kind == Unavailable {
		e.RetryAfter = cause.RetryAfter
	}
	return e
}

// logError leaves the answers of Log.Record as they are and makes every other error Unavailable.
func logError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPolicyChanged), errors.Is(err, ErrNonceUsed), errors.Is(err, ErrTokenUsed):
		return err
	}
	return unavailable(err)
}
