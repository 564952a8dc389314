package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ErrNoSession says that nobody is signed in. ErrSignIn is in its chain.
var ErrNoSession = fmt.Errorf("not signed in: %w", ErrSignIn)

// Session is a sign-in and the key that goes with it.
type Session struct {
	Server     string    `json:"server"` // address of the daemon that it is for
	Issuer     Provider  `json:"issuer"`
	Subject    string    `json:"subject"`
	Email      string    `json:"email,omitempty"`
	Expiry     time.Time `json:"expiry"`                // of the ID token
	TokenNonce []byte    `json:"token_nonce,omitempty"` // the 32 random bytes behind its nonce; nil if it was given none
	PublicKey  []byte    `json:"public_key,omitempty"`  // SSH wire format
	KeyExpires time.Time `json:"key_expires"`
	// TokenFile is the file that the ID token was read from; empty if a person signed in.
	TokenFile string `json:"token_file,omitempty"`
	// InKeyring says that the tokens are in the keyring of the operating system. Save sets it.
	InKeyring bool `json:"in_keyring"`

	// The tokens are kept apart from the rest.
	IDToken      string `json:"-"`
	RefreshToken string `json:"-"` // empty if the issuer gave none
}

// secrets are what of a Session must stay secret.
type secrets struct {
	IDToken      string `json:"id_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// Names of files in the directory of a Store.
const (
	sessionFile = "session.json"
	secretsFile = "secrets.json"
	lockFile    = "lock"
	maxFile     = 256 << 10 // bytes
)

// Store keeps one session in a directory, and its tokens in the keyring, or beside it if there is no keyring. All its methods may be
// called by several processes at once: each waits for its turn until ctx ends.
type Store struct {
	// KeyringPatience is how long the keyring may take, which may have to ask the user to unlock it; default one minute.
	KeyringPatience time.Duration

	dir        string
	useKeyring bool
}

// Open returns the store in dir, normally $XDG_STATE_HOME/hallpass, which is made when it is first written to. HALLPASS_KEYRING=off
// keeps tokens out of the keyring.
func Open(dir string) *Store {
	return &Store{KeyringPatience: time.Minute, dir: dir, useKeyring: os.Getenv("HALLPASS_KEYRING") != "off"}
}

// Load returns the session, or ErrNoSession.
func (s *Store) Load(ctx context.Context) (Session, error) {
	if _, err := os.Lstat(s.path(sessionFile)); errors.Is(err, fs.ErrNotExist) {
		return Session{}, ErrNoSession // without making anything
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Session{}, err
	}
	defer unlock()
	return s.load(ctx)
}

// Save stores the session in place of the one before.
func (s *Store) Save(ctx context.Context, session Session) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.save(ctx, session)
}

// Delete forgets the session, its tokens first. It is no error if there is none.
func (s *Store) Delete(ctx context.Context) error {
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// What cannot be read can be removed all the same, and its tokens may be in the keyring.
	session, err := s.load(ctx)
	inKeyring := session.InKeyring || errors.Is(err, errKeyring)
	if inKeyring || err != nil && s.useKeyring {
		if err := s.deleteFromKeyring(ctx); err != nil && inKeyring {
			return fmt.Errorf("delete the tokens in the keyring: %w", err)
		}
	}
	err = nil
	for _, name := range []string{secretsFile, sessionFile} {
		if e := os.Remove(s.path(name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}

// Fresh returns the session with an ID token that is valid beyond now+margin, refreshed if need be; one that cannot be refreshed
// serves to its end. Of several processes one refreshes, and the others take what it got: a refresh token that is used twice ends the
// session at many issuers.
func (s *Store) Fresh(ctx context.Context, now time.Time, margin time.Duration) (Session, error) {
	if _, err := os.Lstat(s.path(sessionFile)); errors.Is(err, fs.ErrNotExist) {
		return Session{}, ErrNoSession
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Session{}, err
	}
	defer unlock()
	session, err := s.load(ctx)
	if err != nil || now.Add(margin).Before(session.Expiry) {
		return session, err
	}
	tokens, err := Refresh(ctx, session.Issuer, session.RefreshToken)
	if err != nil && now.Before(session.Expiry) {
		return session, nil // it may be too late at the daemon, which then says so
	}
	if err != nil {
		return Session{}, err
	}
	if tokens.Subject != session.Subject { // OpenID Connect Core 12.2
		return Session{}, fmt.Errorf("issuer %s refreshed the sign-in of somebody else: %w", session.Issuer.Issuer, ErrSignIn)
	}
	session.IDToken, session.RefreshToken = tokens.IDToken, tokens.RefreshToken
	session.Expiry, session.Email = tokens.Expiry, tokens.Email
	// The old refresh token may be spent by now, so the new one must be kept even if the caller gave up.
	return session, s.save(context.WithoutCancel(ctx), session)
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// load reads the session. The caller must hold the lock.
func (s *Store) load(ctx context.Context) (Session, error) {
	var session Session
	raw, err := readPrivate(s.path(sessionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Session{}, ErrNoSession
	}
	if err != nil {
		return Session{}, fmt.Errorf("load session: %w", err)
	}
	if err := json.Unmarshal(raw, &session); err != nil {
		return Session{}, fmt.Errorf("load session: %s is damaged: sign in again to replace it", s.path(sessionFile))
	}
	kept, err := s.loadSecrets(ctx, session.InKeyring)
	if err != nil {
		return Session{}, err
	}
	session.IDToken, session.RefreshToken = kept.IDToken, kept.RefreshToken
	return session, nil
}

func (s *Store) loadSecrets(ctx context.Context, inKeyring bool) (secrets, error) {
	if inKeyring {
		return s.readKeyring(ctx)
	}
	var kept secrets
	raw, err := readPrivate(s.path(secretsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return secrets{}, ErrNoSession
	}
	if err != nil {
		return secrets{}, fmt.Errorf("load tokens: %w", err)
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return secrets{}, fmt.Errorf("load tokens: %s is damaged: sign in again to replace it", s.path(secretsFile))
	}
	return kept, nil
}

// save writes the secrets first, so that a session never points to those of another one. The caller must hold the lock.
func (s *Store) save(ctx context.Context, session Session) error {
	kept := secrets{IDToken: session.IDToken, RefreshToken: session.RefreshToken}
	session.InKeyring = s.useKeyring && s.writeKeyring(ctx, kept) == nil
	if !session.InKeyring {
		if err := s.writeJSON(secretsFile, kept); err != nil {
			return err
		}
	}
	if err := s.writeJSON(sessionFile, session); err != nil {
		return err
	}
	if session.InKeyring {
		if err := os.Remove(s.path(secretsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove tokens that are in the keyring now: %w", err)
		}
	}
	return nil
}

func (s *Store) writeJSON(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if err := writePrivate(s.path(name), append(raw, '\n')); err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	return nil
}
