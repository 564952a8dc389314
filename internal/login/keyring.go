package login

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

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

// errKeyringSilent is the way of a keyring that waits for somebody to unlock it, where nobody sees it asking.
var errKeyringSilent = errors.New("it does not answer; is it locked? (HALLPASS_KEYRING=off does without it)")

// ask calls the keyring, which knows no context, and gives up when ctx ends or patience is over. What it may still do then
// ends with the process.
func ask[T any](ctx context.Context, patience time.Duration, call func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := call()
		answered <- answer{value, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errKeyringSilent)
	defer cancel()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

func (s *Store) readKeyring(ctx context.Context) (secrets, error) {
	if !s.useKeyring {
		return secrets{}, fmt.Errorf("%w (HALLPASS_KEYRING=off): %w", errKeyring, ErrSignIn)
	}
	kept, err := ask(ctx, s.KeyringPatience, func() (secrets, error) {
		var kept secrets
		for name, to := range map[string]*string{idEntry: &kept.IDToken, refreshEntry: &kept.RefreshToken} {
			value, err := keyring.Get(keyringService, s.entry(name))
			switch {
			case errors.Is(err, keyring.ErrNotFound) && name == idEntry:
				return secrets{}, ErrNoSession
			case errors.Is(err, keyring.ErrNotFound): // the issuer gave none
			case err != nil:
				return secrets{}, err
			}
			*to = value
		}
		return kept, nil
	})
	if err != nil && !errors.Is(err, ErrNoSession) {
		err = fmt.Errorf("%w: %w", errKeyring, err)
	}
	return kept, err
}

// writeKeyring writes both tokens or leaves none.
func (s *Store) writeKeyring(ctx context.Context, kept secrets) error {
	_, err := ask(ctx, s.KeyringPatience, func() (struct{}, error) {
		err := keyring.Set(keyringService, s.entry(idEntry), kept.IDToken)
		if err == nil && kept.RefreshToken != "" {
			err = keyring.Set(keyringService, s.entry(refreshEntry), kept.RefreshToken)
		} else if err == nil {
			err = ignoreNotFound(keyring.Delete(keyringService, s.entry(refreshEntry)))
		}
		if err != nil {
			// Without a keyring this fails too, and there is nothing to delete.
			_ = s.deleteEntries()
		}
		return struct{}{}, err
	})
	return err
}

func (s *Store) deleteFromKeyring(ctx context.Context) error {
	_, err := ask(ctx, s.KeyringPatience, func() (struct{}, error) { return struct{}{}, s.deleteEntries() })
	return err
}

func (s *Store) deleteEntries() error {
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
