package ca

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// OpenAgent names the key that an ssh-agent holds, by its public key file. Nothing is dialled yet: each signature takes a
// connection of its own, so that an agent that was restarted is no fault for long, and one that hangs holds up one call.
func OpenAgent(name, socket, publicKeyFile string) (*Authority, error) {
	key, err := readPublic(publicKeyFile)
	if err != nil {
		return nil, fmt.Errorf("open CA key %q: %w", name, err)
	}
	if err := checkCAKey(key); err != nil {
		return nil, fmt.Errorf("open CA key %q from %s: %w", name, publicKeyFile, err)
	}
	return &Authority{
		Name: name, PublicKey: wired(key), Source: "agent",
		sign: func(ctx context.Context, random io.Reader, data []byte) (sig *ssh.Signature, err error) {
			err = withAgentKey(ctx, socket, key, func(s ssh.Signer) (err error) {
				sig, err = signAs(s, random, data)
				return err
			})
			return sig, err
		},
		reach: func(ctx context.Context) error {
			return withAgentKey(ctx, socket, key, func(ssh.Signer) error { return nil })
		},
	}, nil
}

// withAgentKey finds exactly this key in the agent, for use until ctx ends.
func withAgentKey(ctx context.Context, socket string, key ssh.PublicKey, use func(ssh.Signer) error) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reach the ssh-agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return fmt.Errorf("list the keys of the ssh-agent at %s: %w", socket, err)
	}
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), key.Marshal()) {
			return use(s)
		}
	}
	return fmt.Errorf("the ssh-agent at %s does not hold the key %s, or is locked", socket, ssh.FingerprintSHA256(key))
}
