package cli_test

import (
	cryptorand "crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"golang.org/x/crypto/ssh"
)

// TestFindCertificate looks for certificates in a copy of a real log.
func TestFindCertificate(t *testing.T) {
	l := newRealLog(t)
	granted, ok := parseKey(t, l.certificate).(*ssh.Certificate)
	if !ok {
		t.Fatal("no certificate was granted")
	}
	mine := stack.NewKey(t)
	listed := caSigner(t, filepath.Join(filepath.Dir(l.path), "keys", "ca-default"))
	forge := func(signer ssh.Signer, change func(*ssh.Certificate)) []byte {
		c := *granted
		change(&c)
		if err := c.SignCert(cryptorand.Reader, signer); err != nil {
			t.Fatal(err)
		}
		return c.Marshal()
	}
	for _, tt := range []struct {
		name string
		file []byte
		code int
		want string
	}{
		{"one that is there, as bytes", l.certificate, 0, fmt.Sprintf("record %d grants exactly this certificate, valid until", l.staging)},
		{"one that is there, as a line", ssh.MarshalAuthorizedKey(granted), 0, "alice@example.com"},
		{"one by the CA key, with a serial that is not there", forge(listed, func(c *ssh.Certificate) { c.Serial = 1000 }), 1, "no record grants it. The key was used outside of the log"},
		{"one by the CA key, with the serial of another record", forge(listed, func(c *ssh.Certificate) { c.Serial = l.refusal + 1 }), 1, "grants another certificate or none"},
		{"one by the CA key, with another principal", forge(listed, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} }), 1, "used outside of the log"},
		{"one by the CA key that expired long ago", forge(listed, func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1, 2 }), 1, "used outside of the log"},
		{"one by the CA key with the serial 0", forge(listed, func(c *ssh.Certificate) { c.Serial = 0 }), 1, "no record grants it"},
		{"one by the CA key with the last serial", forge(listed, func(c *ssh.Certificate) { c.Serial = ^uint64(0) }), 1, "no record grants it"},
		{"one by another key", forge(mine, func(*ssh.Certificate) {}), 1, "not a CA key that this log lists"},
		{"one whose signature is broken", append(l.certificate[:len(l.certificate)-1:len(l.certificate)-1], l.certificate[len(l.certificate)-1]^1), 1, "no server takes it"},
		{"a host's", forge(listed, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), 1, "that of a host"},
		{"a plain key", ssh.MarshalAuthorizedKey(mine.PublicKey()), 1, "a plain ssh-ed25519 key"},
		{"nothing", nil, 1, "holds neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "cert")
			if err := os.WriteFile(file, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			code, out, errs := run(t, "audit", "find-cert", file, "--log", l.path, "--public-key", l.key.Verifier())
			if code != tt.code || !strings.Contains(out+errs, tt.want) {
				t.Errorf("exit code %d, want %d with %q\n%s%s", code, tt.code, tt.want, out, errs)
			}
		})
	}
}

func parseKey(t *testing.T, wire []byte) ssh.PublicKey {
	t.Helper()
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func caSigner(t *testing.T, file string) ssh.Signer {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
