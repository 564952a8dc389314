package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"golang.org/x/crypto/ssh"
)

// renewBefore is how long before its end a certificate is not worth using any more: ssh has yet to connect.
const renewBefore = 30 * time.Second

// target is a login on a host, as ssh names them.
type target struct{ login, host string }

func (t target) String() string { return t.login + "@" + t.host }

// newTarget checks a login and a host before they become a file name, a request and an argument.
func newTarget(login, host string) (target, error) {
	if !ca.ValidLogin(login) {
		return target{}, fmt.Errorf("%q is not a login that the CA certifies", plain(login))
	}
	if _, err := ca.CanonicalHost(host); err != nil {
		return target{}, err
	}
	return target{login, strings.ToLower(host)}, nil
}

// parseTarget reads LOGIN@HOST.
func parseTarget(s string) (target, error) {
	login, host, ok := strings.Cut(s, "@")
	if !ok || login == "" || host == "" {
		return target{}, fmt.Errorf("%q: want LOGIN@HOST", plain(s))
	}
	return newTarget(login, host)
}

// certs is the folder where ssh finds the key and the certificates of the sign-in.
type certs struct {
	dir string
}

func openCerts() (certs, error) {
	state, err := stateDir()
	return certs{filepath.Join(state, "certs")}, err
}

// keys is the same folder, as the keeper of the key sees it.
func (c certs) keys() agentkey.Folder {
	return agentkey.Folder{Path: c.dir, Runtime: runtimeDir(), Socket: os.Getenv("SSH_AUTH_SOCK"), Stderr: os.Stderr}
}

// file is the name that ssh makes of %r@%h-cert.pub.
func (c certs) file(t target) string {
	return filepath.Join(c.dir, t.String()+"-cert.pub")
}

// save writes a certificate where ssh looks for it.
func (c certs) save(t target, cert *ssh.Certificate) error {
	line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(cert))
	if err := writeFile(c.file(t), append(line, " hallpass "+t.String()+"\n"...)); err != nil {
		return fmt.Errorf("save certificate: %w", err)
	}
	return nil
}

// load returns the certificate for t if it is for key and will hold a little longer, or nil.
func (c certs) load(t target, key ssh.PublicKey, now time.Time) *ssh.Certificate {
	cert, err := readCertificate(c.file(t))
	if err != nil || !bytes.Equal(cert.Key.Marshal(), key.Marshal()) || !holds(cert, now.Add(renewBefore)) {
		return nil
	}
	return cert
}

func holds(cert *ssh.Certificate, at time.Time) bool {
	return cert.ValidBefore > uint64(at.Unix())
}

func readCertificate(file string) (*ssh.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", file, err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("read certificate %s: it is a plain key", file)
	}
	return cert, nil
}

// held is a certificate in the folder.
type held struct {
	target target
	cert   *ssh.Certificate
}

// list returns the certificates in the folder, by name.
func (c certs) list() ([]held, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	var found []held
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), "-cert.pub")
		if !ok {
			continue
		}
		t, err := parseTarget(name)
		if err != nil {
			continue
		}
		if cert, err := readCertificate(filepath.Join(c.dir, entry.Name())); err == nil {
			found = append(found, held{t, cert})
		}
	}
	return found, nil
}

// prune removes certificates that useless says nobody can use.
func (c certs) prune(useless func(*ssh.Certificate) bool) error {
	all, err := c.list()
	for _, h := range all {
		if useless(h.cert) {
			err = errors.Join(err, os.Remove(c.file(h.target)))
		}
	}
	return err
}
