package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/login"
	"golang.org/x/crypto/ssh"
)

const (
	// sessionLifetime is how long a sign-in lasts, and its key in the agent.
	sessionLifetime = 12 * time.Hour
	// expireEarly is how long before its end an ID token is refreshed: a request has yet to reach the daemon.
	expireEarly = 30 * time.Second
	// quickKeyring is how long the keyring may take where nothing may wait for the user.
	quickKeyring = 2 * time.Second
)

// errSignIn says why a sign-in is needed.
func errSignIn(why string) error {
	return &failure{exit: exitSignIn, err: errors.New(why), hint: "hallpass login"}
}

// openStore finds where the sign-in is kept.
func (a *app) openStore() (*login.Store, error) {
	state, err := stateDir()
	if err != nil {
		return nil, err
	}
	store := login.Open(state)
	if a.noPrompt { // a keyring that asks the user to be unlocked has no answer by then
		store.KeyringPatience = quickKeyring
	}
	return store, nil
}

// session returns the sign-in, if there is one that has not ended.
func (a *app) session(ctx context.Context) (login.Session, error) {
	store, err := a.openStore()
	if err != nil {
		return login.Session{}, err
	}
	s, err := store.Load(ctx)
	return s, checkSession(s, err)
}

// checkSession turns an ended sign-in, or one that only a new one can mend, into the error that says so.
func checkSession(s login.Session, err error) error {
	switch {
	case errors.Is(err, login.ErrNoSession):
		return errSignIn("not signed in")
	case errors.Is(err, login.ErrSignIn):
		return errSignIn(err.Error())
	case err != nil:
		return err
	case !time.Now().Before(ends(s)):
		return errEnded(s, "the sign-in ended at "+clock(ends(s)))
	}
	return nil
}

// ends is when a sign-in ends: with its key, or with an ID token that cannot be refreshed.
func ends(s login.Session) time.Time {
	if s.RefreshToken == "" && s.Expiry.Before(s.KeyExpires) {
		return s.Expiry
	}
	return s.KeyExpires
}

// errEnded says that a sign-in is no good any more, and how to get another of its kind.
func errEnded(s login.Session, why string) error {
	if s.TokenFile != "" {
		return &failure{exit: exitSignIn, err: errors.New(why), hint: hintForJob(s.TokenFile)}
	}
	return errSignIn(why)
}

// hintForJob says how a job gets another certificate: its token serves once.
func hintForJob(tokenFile string) string {
	return "write a new ID token to " + tokenFile + ", then: hallpass login --token-file " + tokenFile
}

// signedIn returns who is signed in, with an ID token that holds, and the address of the CA that the sign-in is for.
func (a *app) signedIn(ctx context.Context) (client.SignIn, client.Address, error) {
	s, err := a.session(ctx)
	if err != nil {
		return client.SignIn{}, client.Address{}, err
	}
	a.tokenFile = s.TokenFile
	address, err := a.sessionAddress(s)
	if err != nil {
		return client.SignIn{}, address, err
	}
	c, err := openCerts()
	if err != nil {
		return client.SignIn{}, address, err
	}
	keys := c.keys()
	keys.NoPrompt = a.noPrompt
	key, err := keys.Public()
	if err != nil || !bytes.Equal(key.Marshal(), s.PublicKey) {
		return client.SignIn{}, address, errSignIn("the key of the sign-in is not where it was put")
	}
	if err := keys.Held(ctx, key); err != nil { // before the issuer is troubled for nothing
		return client.SignIn{}, address, err
	}
	cas, err := loadCAKeys()
	if err != nil {
		return client.SignIn{}, address, err
	}
	log, err := a.knownLog(address)
	if err != nil {
		return client.SignIn{}, address, err
	}
	if s, err = a.freshen(ctx, s); err != nil {
		return client.SignIn{}, address, err
	}
	return client.SignIn{
		Token:      s.IDToken,
		TokenNonce: s.TokenNonce,
		Key:        key,
		CAKeys:     cas,
		Log:        log,
		Sign: func(ctx context.Context, namespace string, message []byte) ([]byte, error) {
			return keys.Sign(ctx, key, namespace, message)
		},
	}, address, nil
}

// freshen refreshes the ID token if it does not hold long enough.
func (a *app) freshen(ctx context.Context, s login.Session) (login.Session, error) {
	store, err := a.openStore()
	if err != nil {
		return s, err
	}
	s, err = store.Fresh(ctx, time.Now(), expireEarly)
	return s, checkSession(s, err)
}

// sessionAddress is the address of the CA of the sign-in. Settings that name another one ask for another sign-in.
func (a *app) sessionAddress(s login.Session) (client.Address, error) {
	wanted, err := a.settings()
	if err != nil {
		return client.Address{}, err
	}
	if wanted.Server == "" {
		wanted.Server = s.Server
	}
	address, err := wanted.address()
	if err != nil {
		return address, err
	}
	if own, err := client.ParseAddress(s.Server); err != nil || own.String() != address.String() {
		return address, errSignIn(fmt.Sprintf("signed in at %s, not at %s", s.Server, address))
	}
	return address, nil
}

// userName is what to call the user of a session.
func userName(s login.Session) string {
	if s.Email != "" {
		return s.Email
	}
	return s.Subject
}

// caKeysFile holds the user CA keys as they were when the user signed in, in the form of TrustedUserCAKeys.
func caKeysFile() (string, error) {
	state, err := stateDir()
	return filepath.Join(state, "ca_keys"), err
}

func saveCAKeys(keys []client.CAKey) error {
	file, err := caKeysFile()
	if err != nil {
		return err
	}
	var text []byte
	for _, k := range keys {
		text = append(text, bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.Key))...)
		text = append(text, " hallpass-"+k.Authority+"\n"...)
	}
	if err := writeFile(file, text); err != nil {
		return fmt.Errorf("save the keys of the CA: %w", err)
	}
	return nil
}

func loadCAKeys() ([]ssh.PublicKey, error) {
	file, err := caKeysFile()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, errSignIn("the keys of the CA are not where they were put at login")
	}
	var keys []ssh.PublicKey
	for len(bytes.TrimSpace(text)) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			return nil, errSignIn("the keys of the CA are not as they were written at login")
		}
		keys, text = append(keys, key), rest
	}
	return keys, nil
}

// forgetSession removes the sign-in, its key and its certificates.
func (a *app) forgetSession(ctx context.Context) error {
	store, err := a.openStore()
	if err != nil {
		return err
	}
	c, err := openCerts()
	if err != nil {
		return err
	}
	return errors.Join(
		store.Delete(ctx),
		c.keys().Remove(ctx),
		c.prune(func(*ssh.Certificate) bool { return true }),
	)
}

// holder is where the private half of the session's key is, in a word.
func holder(keys agentkey.Folder) string {
	if _, err := os.Stat(keys.Identity()); err == nil {
		return "file"
	}
	return "agent"
}
