package idtoken

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/hallpass-ssh/hallpass/ca"
)

// Verifier verifies ID tokens. Make it with New; it can verify once Start was called.
type Verifier struct {
	issuers  []Issuer
	sources  map[string]*source // by URL
	verified cache

	mu   sync.Mutex // guards stop
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// New checks the configuration, all of it, and reads the CA files. It does not use the network.
func New(config Config) (*Verifier, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	v := &Verifier{issuers: config.Issuers, sources: map[string]*source{}}
	for n := range v.issuers {
		i := &v.issuers[n]
		if v.sources[i.URL] != nil {
			continue
		}
		s, err := newSource(i, config.Now)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.Name, err)
		}
		v.sources[i.URL] = s
	}
	return v, nil
}

// Start fetches the issuers' keys in the background, and again from time to time, until ctx ends or Close is called. An issuer
// that cannot be reached does not keep it from starting: see Health. Further calls do nothing.
func (v *Verifier) Start(ctx context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stop != nil {
		return
	}
	ctx, v.stop = context.WithCancel(ctx)
	for _, s := range v.sources {
		s.start()
		v.wg.Go(func() { s.run(ctx) })
	}
}

// Close ends what Start began, and waits for it.
func (v *Verifier) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stop != nil {
		v.stop()
	}
	v.wg.Wait()
	return nil
}

// IssuerHealth says how an issuer's keys are.
type IssuerHealth struct {
	Name string
	URL  string
	// OK says that its tokens can be verified, maybe with keys that could not be fetched again.
	OK bool
	// Error is what went wrong at the latest attempt; empty if nothing did.
	Error string
	// Age is how long ago the keys were fetched; negative if they never were.
	Age time.Duration
	// Keys is how many can verify its tokens.
	Keys int
	// Failures is how many attempts to fetch them failed, since Start.
	Failures uint64
}

// Health reports on all issuers, in the order of the configuration.
func (v *Verifier) Health() []IssuerHealth {
	var all []IssuerHealth
	for _, i := range v.issuers {
		h := v.sources[i.URL].health()
		h.Name, h.URL = i.Name, i.URL
		all = append(all, h)
	}
	return all
}

// CacheStats says how often a token had been verified before.
type CacheStats struct {
	// Tokens is how many are remembered now.
	Tokens int
	// Hits and Misses count the tokens that were looked up and were there or not.
	Hits, Misses uint64
}

// Cache reports on the memory of verified tokens.
func (v *Verifier) Cache() CacheStats { return v.verified.stats() }

// Authenticate verifies a compact ID token at the time now and says whose it is. Every error is a *ca.Error.
//
// A caller that comes with a Subject is known, even beside an error: then its token verified, and what failed is the issuer's rule
// for emails or groups (Kind Denied). Any other error means that the caller is a stranger, whose Caller is empty: Unauthenticated,
// or Unavailable if the issuer's keys cannot be had.
//
// The Claims and Groups of the Caller are shared with later calls and MUST NOT be changed.
func (v *Verifier) Authenticate(ctx context.Context, raw string, now time.Time) (ca.Caller, error) {
	t, refusal := v.verify(ctx, raw, now)
	if refusal != nil {
		return ca.Caller{}, refusal
	}
	if t.known != nil {
		return *t.known, nil
	}
	caller, refusal := t.caller()
	if refusal != nil {
		return caller, refusal
	}
	return caller, nil
}

// token is a token that was verified but for what changes with time.
type token struct {
	raw    [32]byte // SHA-256 of all of it, by which it is remembered
	digest [32]byte // SHA-256 of what its signature covers, by which it is told from others
	issuer *Issuer
	keyID  string
	key    *key // that verified it
	claims map[string]any
	registered
	known *ca.Caller // whom the claims name; nil if they do not do
}

// verify returns the token if it holds at now, with the keys that its issuer has now. Only the signature and what is derived from
// the token alone are remembered; everything else is checked each time.
func (v *Verifier) verify(ctx context.Context, raw string, now time.Time) (*token, *ca.Error) {
	if len(raw) > maxToken { // before it is hashed
		return nil, malformed("it is longer than %d bytes", maxToken)
	}
	digest := sha256.Sum256([]byte(raw))
	if t := v.verified.get(digest); t != nil {
		k, refusal := v.sources[t.issuer.URL].find(ctx, t.keyID)
		if refusal != nil {
			return nil, refusal
		}
		if k.thumbprint == t.key.thumbprint && k.alg == t.key.alg {
			if refusal := t.issuer.checkTimes(&t.registered, now); refusal != nil {
				return nil, refusal
			}
			return t, nil
		}
	}
	t, refusal := v.verifyAnew(ctx, raw, now)
	if refusal != nil {
		return nil, refusal
	}
	// Of an ECDSA signature anybody can make another over the same bytes. That is the same token, and serves no second time.
	t.raw, t.digest = digest, sha256.Sum256([]byte(raw[:strings.LastIndexByte(raw, '.')]))
	if caller, refusal := t.caller(); refusal == nil {
		t.known = &caller
	}
	v.verified.put(t, now)
	return t, nil
}

func (v *Verifier) verifyAnew(ctx context.Context, raw string, now time.Time) (*token, *ca.Error) {
	c, refusal := parseCompact(raw)
	if refusal != nil {
		return nil, refusal
	}
	// What a stranger claims is taken only to find out which keys it must be held against.
	claimed, refusal := parseRegistered(c.claims)
	if refusal != nil {
		return nil, refusal
	}
	i, refusal := v.issuer(claimed)
	if refusal != nil {
		return nil, refusal
	}
	if !slices.Contains(i.Algorithms, c.alg) {
		return nil, refuse("the ID token is signed by algorithm %.40q, which is not allowed for issuer %s", c.alg, i.Name)
	}
	k, refusal := v.sources[i.URL].find(ctx, c.keyID)
	if refusal != nil {
		return nil, refusal
	}
	if !k.fits(c.alg) {
		return nil, refuse("the ID token's algorithm, %s, is not that of the key it names", c.alg)
	}
	t := &token{issuer: i, keyID: c.keyID, key: k}
	if refusal = t.verifySignature(ctx, raw, c, claimed); refusal != nil {
		return nil, refusal
	}
	for _, check := range []func() *ca.Error{
		func() *ca.Error { return i.checkTimes(&t.registered, now) },
		func() *ca.Error { return i.checkPurpose(t.claims) },
		func() *ca.Error { return i.checkParty(&t.registered) },
		func() *ca.Error { return i.checkRequired(t.claims) },
	} {
		if refusal = check(); refusal != nil {
			return nil, refusal
		}
	}
	return t, nil
}

// issuer returns the issuer whose URL and audience the token claims, byte for byte.
func (v *Verifier) issuer(claimed *registered) (*Issuer, *ca.Error) {
	if v.sources[claimed.iss] == nil {
		return nil, refuse("the ID token is of issuer %.200q, which is not one of this service", claimed.iss)
	}
	var found *Issuer
	for n := range v.issuers {
		i := &v.issuers[n]
		if i.URL != claimed.iss || !slices.Contains(claimed.audience, i.Audience) {
			continue
		}
		if found != nil {
			return nil, refuse("the ID token is for both %q and %q, which this service tells apart", found.Audience, i.Audience)
		}
		found = i
	}
	if found == nil {
		return nil, refuse("the ID token is for audience %.200q, not for this service", claimed.audience)
	}
	return found, nil
}

// verifySignature takes the claims from what the signature covers, and from nothing else.
func (t *token) verifySignature(ctx context.Context, raw string, c *compact, claimed *registered) *ca.Error {
	set := &oneKey{key: &t.key.public, alg: jose.SignatureAlgorithm(c.alg)}
	verifier := oidc.NewVerifier(t.issuer.URL, set, &oidc.Config{
		ClientID:             t.issuer.Audience,
		SupportedSigningAlgs: []string{c.alg},
		SkipExpiryCheck:      true, // checkTimes does it, each time the token is shown
	})
	verified, err := verifier.Verify(ctx, raw)
	switch {
	case set.payload == nil:
		return &ca.Error{Kind: ca.Unauthenticated, Message: "the ID token's signature does not verify", Err: err}
	case err != nil:
		return &ca.Error{Kind: ca.Unauthenticated, Message: "the ID token is malformed: its claims are not those of an ID token", Err: err}
	}
	if !bytes.Equal(set.payload, c.payload) {
		return malformed("its payload can be read in two ways")
	}
	if claimed.iss != verified.Issuer || claimed.subject != verified.Subject {
		return malformed("its claims can be read in two ways")
	}
	t.claims, t.registered = c.claims, *claimed
	return nil
}

// oneKey is an oidc.KeySet of the one key that the token was found to name.
type oneKey struct {
	key     *jose.JSONWebKey
	alg     jose.SignatureAlgorithm
	payload []byte // what the signature covers; nil unless it verified
}

func (k *oneKey) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{k.alg})
	if err != nil {
		return nil, err
	}
	payload, err := jws.Verify(k.key)
	if err != nil {
		return nil, err
	}
	if payload == nil {
		return nil, errors.New("empty payload")
	}
	k.payload = payload
	return payload, nil
}

// caller makes the Caller, as far as the token's claims allow.
func (t *token) caller() (ca.Caller, *ca.Error) {
	c := ca.Caller{
		Identity: ca.Identity{Issuer: t.iss, Subject: t.subject, Kind: t.issuer.Kind},
		Token:    ca.Token{Digest: t.digest, AuthTime: t.authTime, IssuedAt: t.issued, Expires: t.expires},
		Claims:   t.claims,
	}
	if t.issuer.Kind == ca.Person {
		c.Token.Nonce = t.nonce
	}
	var refusal *ca.Error
	if c.Identity.Email, refusal = t.issuer.email(t.claims); refusal != nil {
		return c, refusal
	}
	c.Identity.Groups, refusal = t.issuer.groups(t.claims)
	return c, refusal
}
