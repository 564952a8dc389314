package login

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/zalando/go-keyring"
)

var errKeyring = errors.New("the tokens are in the keyring, which cannot be used")

// The keyring holds each token in an entry of its own, as some keyrings take little more than two kilobytes an entry. Entries are
// named after the directory, so that two stores do not share them.
func (s *Store) entry(name string) string {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		dir = s.dir
	}
	return name + " " + dir
}

const (
	keyringService = "hallpass"
	idEntry        = "id-token"
	refreshEntry   = "refresh-token"
)

func (s *Store) readKeyring() (secrets, error) {
	if !s.useKeyring {
		return secrets{}, fmt.Errorf("%w (HALLPASS_KEYRING=off): %w", errKeyring, ErrSignIn)
	}
	var kept secrets
	for name, to := range map[string]*string{idEntry: &kept.IDToken, refreshEntry: &kept.RefreshToken} {
		value, err := keyring.Get(keyringService, s.entry(name))
		switch {
		case errors.Is(err, keyring.ErrNotFound) && name == idEntry:
			return secrets{}, ErrNoSession
		case errors.Is(err, keyring.ErrNotFound): // the issuer gave none
		case err != nil:
			return secrets{}, fmt.Errorf("%w: %w", errKeyring, err)
		}
		*to = value
	}
	return kept, nil
}

// writeKeyring writes both tokens or leaves none.
func (s *Store) writeKeyring(kept secrets) error {
	err := keyring.Set(keyringService, s.entry(idEntry), kept.IDToken)
	if err == nil && kept.RefreshToken != "" {
		err = keyring.Set(keyringService, s.entry(refreshEntry), kept.RefreshToken)
	} else if err == nil {
		err = ignoreNotFound(keyring.Delete(keyringService, s.entry(refreshEntry)))
	}
	if err != nil {
		// Without a keyring this fails too, and there is nothing to delete.
		_ = s.deleteFromKeyring()
	}
	return err
}

func (s *Store) deleteFromKeyring() error {
	return errors.Join(
		ignoreNotFound(keyring.Delete(keyringService, s.entry(idEntry))),
		ignoreNotFound(keyring.Delete(keyringService, s.entry(refreshEntry))),
	)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, keyring.ErrNotFound) {
		return nil
	}
	return err
}
