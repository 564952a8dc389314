package ca_test

import (
	"crypto/elliptic"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// F17: a signer that fails in any way gives no certificate, and the log says so.
func TestASignerThatFails(t *testing.T) {
	other := newSigner(t)
	for _, row := range []struct {
		name     string
		sign     func(s *stand, data []byte) (*ssh.Signature, error)
		fragment string
	}{
		{"refuses", func(*stand, []byte) (*ssh.Signature, error) { return nil, errors.New("no") }, "sign"},
		{"signs with another key", func(_ *stand, data []byte) (*ssh.Signature, error) { return other.Sign(nil, data) }, "check the signature"},
		{"signs other bytes", func(s *stand, data []byte) (*ssh.Signature, error) { return s.signer.signer.Sign(nil, data[1:]) }, "check the signature"},
		{"names another algorithm", func(s *stand, data []byte) (*ssh.Signature, error) {
			sig, err := s.signer.signer.Sign(nil, data)
			sig.Format = ssh.KeyAlgoRSA
			return sig, err
		}, "algorithm"},
		{"signs nothing", func(*stand, []byte) (*ssh.Signature, error) { return &ssh.Signature{Format: ssh.KeyAlgoED25519}, nil }, "check the signature"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t)
			s.signer.sign = func(data []byte) (*ssh.Signature, error) { return row.sign(s, data) }
			c := s.ask()
			issued, err := s.Issue(t.Context(), c)
			if issued != nil {
				t.Error("a certificate came out")
			}
			wantError(t, err, ca.Unavailable, row.fragment)
			if s.log.size() != 1 || len(s.log.failed) != 1 || s.log.failed[0] != s.log.last().index {
				t.Errorf("%d records, failed %v", s.log.size(), s.log.failed)
			}

			s.signer.sign = nil
			if _, issued := s.issued(c); issued.Index != s.log.failed[0] {
				t.Errorf("the same bytes led to index %d, not %d", issued.Index, s.log.failed[0])
			}
		})
	}
}

// An agent that never answers holds up one call, for as long as a signature may take.
func TestAnAgentThatHangs(t *testing.T) {
	key := newSigner(t).PublicKey()
	socket := serveSocket(t, func(conn net.Conn) {
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Error(err)
		}
	})
	authority, err := ca.OpenAgent("default", socket, writePublic(t, key))
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t, func(c *ca.CA) {
		c.Authorities = map[string]*ca.Authority{"default": authority}
		c.SignTimeout = 50 * time.Millisecond
	})
	_, err = s.Issue(t.Context(), s.ask())
	wantError(t, err, ca.Unavailable, "cannot sign now")
	if len(s.log.failed) != 1 {
		t.Errorf("failed %v", s.log.failed)
	}
}

// realAgent runs OpenSSH's own agent with the keys in these files.
func realAgent(t *testing.T, keys ...string) (socket string, agent *os.Process) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start ssh-agent: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Kill(), cmd.Wait()); err == nil {
			t.Error("the agent ended by itself")
		}
	})
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, key := range keys {
		add := exec.Command("ssh-add", "-q", key)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v: %s", err, out)
		}
	}
	return socket, cmd.Process
}

func TestTheAgentOfOpenSSH(t *testing.T) {
	other := writePrivate(t, ecdsaKey(t, elliptic.P256()))
	for name, path := range map[string]string{
		"Ed25519": func() string { _, path := fileAuthority(t, "x"); return path }(),
		"ECDSA":   writePrivate(t, ecdsaKey(t, elliptic.P384())),
		"RSA":     writePrivate(t, rsaKey(t, 3072)),
	} {
		t.Run(name, func(t *testing.T) {
			socket, process := realAgent(t, other, path)
			inFile, err := ca.LoadFile("default", path, nil)
			if err != nil {
				t.Fatal(err)
			}
			authority, err := ca.OpenAgent("default", socket, writePublic(t, inFile.PublicKey))
			if err != nil {
				t.Fatal(err)
			}
			s := newStand(t, func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"default": authority} })
			cert, _ := s.issued(s.ask())
			if name == "RSA" && cert.Signature.Format != ssh.KeyAlgoRSASHA512 {
				t.Errorf("signed with %s", cert.Signature.Format)
			}

			if err := process.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := process.Wait(); err != nil {
				t.Fatal(err)
			}
			_, err = s.Issue(t.Context(), s.ask())
			wantError(t, err, ca.Unavailable, "cannot sign now")
			if len(s.log.failed) != 1 {
				t.Errorf("failed %v", s.log.failed)
			}
		})
	}
	t.Run("with other keys only", func(t *testing.T) {
		socket, _ := realAgent(t, other)
		authority, err := ca.OpenAgent("default", socket, writePublic(t, newSigner(t).PublicKey()))
		if err != nil {
			t.Fatal(err)
		}
		s := newStand(t, func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"default": authority} })
		_, err = s.Issue(t.Context(), s.ask())
		wantError(t, err, ca.Unavailable, "does not hold the key")
		if e, ok := errors.AsType[*ca.Error](err); !ok || strings.Contains(e.Message, socket) {
			t.Error("the caller is told where the agent is")
		}
	})
}
