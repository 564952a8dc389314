package agentkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentTimeout bounds a conversation with an agent that should answer at once. Signing with an sk key waits for a touch and
// is bounded by the caller's context alone.
const agentTimeout = 5 * time.Second

// ErrNoAgent says that there is no agent to talk to.
var ErrNoAgent = errors.New("SSH_AUTH_SOCK is not set")

// withAgent talks to the agent at socket until f returns or ctx ends.
func withAgent(ctx context.Context, socket string, f func(agent.ExtendedAgent) error) error {
	if socket == "" {
		return ErrNoAgent
	}
	if err := checkOwner(socket); err != nil {
		return err
	}
	conn, err := dialAgent(ctx, socket)
	if err != nil {
		return fmt.Errorf("connect to the agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := f(agent.NewClient(conn)); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("the agent at %s does not answer: %w", socket, ctx.Err())
		}
		return err
	}
	return nil
}

// addToAgent gives key to the agent for lifetime, and looks whether it is there.
func addToAgent(ctx context.Context, socket string, key *Candidate, lifetime time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	return withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		err := a.Add(agent.AddedKey{
			PrivateKey:   key.private,
			Comment:      comment,
			LifetimeSecs: uint32(lifetime / time.Second),
		})
		if err != nil {
			return fmt.Errorf("the agent does not take a key with a lifetime (is it locked?): %w", err)
		}
		held, err := holds(a, key.Public)
		if err == nil && !held {
			err = errors.New("the agent took the key and does not list it")
		}
		return err
	})
}

// removeFromAgent takes key out of the agent if it was put there by addToAgent.
func removeFromAgent(ctx context.Context, socket string, key ssh.PublicKey) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	return withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Comment == comment && bytes.Equal(k.Blob, key.Marshal()) {
				return a.Remove(k)
			}
		}
		return nil
	})
}

// agentHolds tells whether the agent has key. An agent that cannot be asked has not.
func agentHolds(ctx context.Context, socket string, key ssh.PublicKey) (held bool) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	err := withAgent(ctx, socket, func(a agent.ExtendedAgent) (err error) {
		held, err = holds(a, key)
		return err
	})
	return err == nil && held
}

func holds(a agent.Agent, key ssh.PublicKey) (bool, error) {
	keys, err := a.List()
	if err != nil {
		return false, fmt.Errorf("list the keys of the agent: %w", err)
	}
	for _, k := range keys {
		if bytes.Equal(k.Blob, key.Marshal()) {
			return true, nil
		}
	}
	return false, nil
}

// agentSigner signs with a key that the agent holds.
type agentSigner struct {
	agent agent.ExtendedAgent
	key   ssh.PublicKey
}

func (s agentSigner) PublicKey() ssh.PublicKey { return s.key }

func (s agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, s.key.Type())
}

// SignWithAlgorithm signs; an RSA key always with SHA-512.
func (s agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	var flags agent.SignatureFlags
	if s.key.Type() == ssh.KeyAlgoRSA {
		flags = agent.SignatureFlagRsaSha512
	}
	return s.agent.SignWithFlags(s.key, data, flags)
}

// Count returns how many keys the agent at socket holds. The error is ErrNoAgent if socket is empty.
func Count(ctx context.Context, socket string) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	err = withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		n = len(keys)
		return err
	})
	return n, err
}
