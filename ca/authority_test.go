package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

var rsaKeys sync.Map

// rsaKey makes one key of each length for all tests.
func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	if k, ok := rsaKeys.Load(bits); ok {
		if key, ok := k.(*rsa.PrivateKey); ok {
			return key
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	rsaKeys.Store(bits, key)
	return key
}

func rsaSigner(t testing.TB, bits int) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(rsaKey(t, bits))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// writePrivate writes a private key in OpenSSH's format.
func writePrivate(t testing.TB, key crypto.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, string(pem.EncodeToMemory(block)), 0o600)
}

func writeFile(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func TestEveryKindOfCAKeyIssues(t *testing.T) {
	for name, key := range map[string]crypto.PrivateKey{
		"ECDSA P-256": ecdsaKey(t, elliptic.P256()), "ECDSA P-384": ecdsaKey(t, elliptic.P384()), "ECDSA P-521": ecdsaKey(t, elliptic.P521()),
		"RSA": rsaKey(t, 3072),
	} {
		t.Run(name, func(t *testing.T) {
			authority, err := ca.LoadFile("default", writePrivate(t, key), nil)
			if err != nil {
				t.Fatal(err)
			}
			s := newStand(t, func(c *ca.CA) { c.Authorities["default"] = authority })
			cert, _ := s.issued(s.ask())
			if name == "RSA" && cert.Signature.Format != ssh.KeyAlgoRSASHA512 {
				t.Errorf("signed with %s", cert.Signature.Format)
			}
		})
	}
}

func TestLoadFileTakesThePassphraseOfAnEncryptedKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca") // one round of bcrypt, not the 16 that cost seconds under the race detector
	sshKeygen(t, "-q", "-t", "ed25519", "-a", "1", "-N", "correct horse", "-f", path)
	if _, err := ca.LoadFile("default", path, func() ([]byte, error) { return []byte("correct horse"), nil }); err != nil {
		t.Error(err)
	}
	for _, row := range []struct {
		name       string
		passphrase func() ([]byte, error)
		fragment   string
	}{
		{"none", nil, "is encrypted"},
		{"a wrong one", func() ([]byte, error) { return []byte("battery staple"), nil }, "decrypt"},
		{"an unreadable one", func() ([]byte, error) { return nil, errors.New("no credential") }, "no credential"},
	} {
		_, err := ca.LoadFile("default", path, row.passphrase)
		if err == nil || !strings.Contains(err.Error(), row.fragment) || strings.Contains(err.Error(), "battery") {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func TestLoadFileRefuses(t *testing.T) {
	good, path := fileAuthority(t, "good")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t)
	_, issued := s.issued(s.ask())
	certificate := readCertificate(t, issued.Certificate)
	for _, row := range []struct {
		name, path, fragment string
	}{
		{"f02 a key that its group can read", writeFile(t, string(text), 0o640), "mode is 0640"},
		{"f02 a key that others can read", writeFile(t, string(text), 0o604), "chmod 600"},
		{"f02 a key that others can write", writeFile(t, string(text), 0o602), "mode is 0602"},
		{"no file", filepath.Join(t.TempDir(), "none"), "no such file"},
		{"a folder", t.TempDir(), "regular"},
		{"an empty file", writeFile(t, "", 0o600), "not a private key"},
		{"a certificate", writeFile(t, string(ssh.MarshalAuthorizedKey(certificate)), 0o600), "is a certificate"},
		{"a public key", writeFile(t, string(ssh.MarshalAuthorizedKey(good.PublicKey)), 0o600), "is a public key"},
		{"a key in another format", writeFile(t, "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", 0o600), "ssh-keygen -p"},
		{"a broken key", writeFile(t, "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", 0o600), "security keys cannot"},
		{"a huge file", writeFile(t, strings.Repeat("a", 70_000), 0o600), "too large"},
		{"an RSA key of 2048 bits", writePrivate(t, rsaKey(t, 2048)), "2048 bits"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ca.LoadFile("prod", row.path, nil)
			if err == nil || !strings.Contains(err.Error(), row.fragment) || !strings.Contains(err.Error(), `"prod"`) {
				t.Errorf("LoadFile: %v", err)
			}
		})
	}
	t.Run("f06 a public key beside it that is of another", func(t *testing.T) {
		if err := os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(newSigner(t).PublicKey()), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ca.LoadFile("prod", path, nil)
		if err == nil || !strings.Contains(err.Error(), "is not the public key of") {
			t.Errorf("LoadFile: %v", err)
		}
	})
}

func TestGenerateOverwritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca")
	key, err := ca.Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	loaded, err := ca.LoadFile("default", path, nil)
	if err != nil || !bytes.Equal(loaded.PublicKey.Marshal(), key.Marshal()) {
		t.Errorf("LoadFile: %v", err)
	}
	out, err := exec.Command("ssh-keygen", "-y", "-f", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil || !bytes.Equal(bytes.Fields(out)[1], bytes.Fields(public)[1]) {
		t.Errorf("ssh-keygen says %s, the file %s", out, public)
	}
	if _, err := ca.Generate(path); err == nil {
		t.Error("overwritten")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Generate(path); err == nil {
		t.Error("the public key was overwritten")
	}
}

func TestOneKeyForTwoPurposesIsRefused(t *testing.T) {
	key := writePrivate(t, ecdsaKey(t, elliptic.P256()))
	authorities := map[string]*ca.Authority{}
	for _, name := range []string{"default", "prod"} {
		a, err := ca.LoadFile(name, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		authorities[name] = a
	}
	err := ca.CheckDistinct(authorities, nil)
	if err == nil || !strings.Contains(err.Error(), `CA key "default" and CA key "prod"`) {
		t.Errorf("CheckDistinct: %v", err)
	}
	err = ca.CheckDistinct(map[string]*ca.Authority{"prod": authorities["prod"]}, map[string]ssh.PublicKey{"host CA key": authorities["prod"].PublicKey})
	if err == nil || !strings.Contains(err.Error(), `CA key "prod" and host CA key`) {
		t.Errorf("CheckDistinct: %v", err)
	}
}

func TestOpenAgentRefuses(t *testing.T) {
	s := newStand(t)
	_, issued := s.issued(s.ask())
	line := ssh.MarshalAuthorizedKey(newSigner(t).PublicKey())
	for _, row := range []struct {
		name, text, fragment string
	}{
		{"a certificate", string(ssh.MarshalAuthorizedKey(readCertificate(t, issued.Certificate))), "certificate"},
		{"two keys", string(line) + string(line), "more than one"},
		{"a key with options", `command="id" ` + string(line), "more than one plain key"},
		{"no key", "", "read public key"},
		{"an RSA key of 2048 bits", string(ssh.MarshalAuthorizedKey(rsaSigner(t, 2048).PublicKey())), "2048 bits"},
		{"a security key", skLine(t), "security key"},
	} {
		_, err := ca.OpenAgent("prod", "/nowhere", writeFile(t, row.text, 0o644))
		if err == nil || !strings.Contains(err.Error(), row.fragment) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func skLine(t testing.TB) string {
	t.Helper()
	key, err := ssh.ParsePublicKey(wire([]byte(ssh.KeyAlgoSKED25519), basePoint, []byte("ssh:")))
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

func TestNewRefuses(t *testing.T) {
	s := newStand(t)
	for _, row := range []struct {
		name     string
		change   func(*ca.CA)
		fragment string
	}{
		{"no log", func(c *ca.CA) { c.Log = nil }, "required"},
		{"no Authority", func(c *ca.CA) { c.Authorities = nil }, "no Authority"},
		{"an Authority under another name", func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"x": c.Authorities["default"]} }, `"x"`},
		{"no server name", func(c *ca.CA) { c.ServerNames = nil }, "server name"},
		{"an empty server name", func(c *ca.CA) { c.ServerNames = []string{serverName, ""} }, "server name"},
		{"a cap above the hard one", func(c *ca.CA) { c.MaxTTL = 1 << 62 }, "24h0m0s"},
		{"backdating by six minutes", func(c *ca.CA) { c.Skew = 360e9 }, "5m0s"},
		{"backdating by half a second", func(c *ca.CA) { c.Skew = 5e8 }, "whole seconds"},
	} {
		c := *s.CA
		row.change(&c)
		if _, err := ca.New(c); err == nil || !strings.Contains(err.Error(), row.fragment) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
