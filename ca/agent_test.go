package ca_test

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// countingAgent speaks the real agent protocol for one key, counts what it signs and may misbehave.
type countingAgent struct {
	agent.ExtendedAgent // nil: what a CA must not ask for ends the connection
	signer              ssh.Signer
	signed              atomic.Int64
	// sign replaces the signature if it is set.
	sign func(data []byte) (*ssh.Signature, error)
}

func (a *countingAgent) List() ([]*agent.Key, error) {
	decoy, key := newDecoy(), a.signer.PublicKey()
	return []*agent.Key{
		{Format: decoy.Type(), Blob: decoy.Marshal(), Comment: "another key comes first"},
		{Format: key.Type(), Blob: key.Marshal()},
	}, nil
}

func (a *countingAgent) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if string(key.Marshal()) != string(a.signer.PublicKey().Marshal()) {
		return nil, errors.New("asked for the wrong key")
	}
	a.signed.Add(1)
	if a.sign != nil {
		return a.sign(data)
	}
	return a.signer.Sign(rand.Reader, data)
}

func (a *countingAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return a.SignWithFlags(key, data, 0)
}

var newDecoy = sync.OnceValue(func() ssh.PublicKey {
	key, err := ssh.ParsePublicKey(ed25519Wire(basePoint))
	if err != nil {
		panic(err)
	}
	return key
})

// agentAuthority returns an Authority whose key is in an agent of its own.
func agentAuthority(t testing.TB, name string) (*ca.Authority, *countingAgent) {
	t.Helper()
	a := &countingAgent{signer: newSigner(t)}
	authority, err := ca.OpenAgent(name, serveAgent(t, a), writePublic(t, a.signer.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	return authority, a
}

// serveAgent serves an agent on a socket until the test ends.
func serveAgent(t testing.TB, a agent.Agent) string {
	t.Helper()
	return serveSocket(t, func(conn net.Conn) { _ = agent.ServeAgent(a, conn) }) // it ends when the caller hangs up
}

func serveSocket(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir is too long for a socket under some temporary folders
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return socket
}

func writePublic(t testing.TB, key ssh.PublicKey) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pub")
	if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(key), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
