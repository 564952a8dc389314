package policy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshRemote runs git-upload-pack at the other end of one SSH connection. It reads neither ~/.ssh/config nor an agent.
type sshRemote struct {
	conn    net.Conn
	client  *ssh.Client
	session *ssh.Session
	stdin   io.WriteCloser
	stdout  io.Reader
	stderr  *head
	release func() bool // ends the watch over the context
	adv     *packp.AdvRefs
}

// dialSSH connects, and does nothing more once ctx is done: a server that falls silent is cut off.
func dialSSH(ctx context.Context, u *url.URL, key ssh.Signer, knownHosts string) (*sshRemote, error) {
	user := u.User.Username()
	if user == "" {
		user = "git"
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	check, err := knownhosts.New(knownHosts)
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w", err)
	}
	algorithms, err := hostKeyAlgorithms(check, address, knownHosts)
	if err != nil {
		return nil, err
	}
	r := &sshRemote{stderr: &head{}}
	if r.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
		return nil, err
	}
	r.release = context.AfterFunc(ctx, func() { r.conn.Close() })
	conn, channels, requests, err := ssh.NewClientConn(r.conn, address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: check, HostKeyAlgorithms: algorithms,
		ClientVersion: "SSH-2.0-hallpass",
	})
	if err != nil {
		r.close()
		return nil, sshError(err, address, knownHosts)
	}
	r.client = ssh.NewClient(conn, channels, requests)
	if err := r.start(u.Path); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// start runs the program of the server. The path is one word for a shell there, if there is one.
func (r *sshRemote) start(path string) (err error) {
	if r.session, err = r.client.NewSession(); err != nil {
		return err
	}
	if r.stdin, err = r.session.StdinPipe(); err != nil {
		return err
	}
	if r.stdout, err = r.session.StdoutPipe(); err != nil {
		return err
	}
	r.session.Stderr = r.stderr
	return r.session.Start("git-upload-pack '" + strings.ReplaceAll(path, "'", `'\''`) + "'")
}

func (r *sshRemote) tip(_ context.Context, branch string) (plumbing.Hash, error) {
	var err error
	if r.adv, err = decodeAdvertised(r.stdout); err != nil {
		r.stdin.Close()
		_ = r.session.Wait() // until all that it says has come, or the time for the fetch is over
		if said := r.stderr.String(); said != "" {
			err = fmt.Errorf("%w; the server says %q", err, said)
		}
		return plumbing.ZeroHash, err
	}
	return branchOf(r.adv, branch)
}

func (r *sshRemote) pack(_ context.Context, want, have plumbing.Hash) (io.ReadCloser, error) {
	req, body, err := wanted(r.adv, want, have)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(r.stdin, bytes.NewReader(body)); err != nil {
		return nil, fmt.Errorf("ask for commits: %w", err)
	}
	return unpacked(req, io.NopCloser(r.stdout))
}

func (r *sshRemote) close() {
	r.release()
	if r.client != nil {
		r.client.Close()
	}
	r.conn.Close()
}

// hostKeyAlgorithms are those of the keys that known_hosts has for a host, so that the server shows one of these and not another
// that it has too. A host of which nothing is known is an error before anything is sent.
func hostKeyAlgorithms(check ssh.HostKeyCallback, address, file string) ([]string, error) {
	probe, err := probeKey()
	if err != nil {
		return nil, err
	}
	known, ok := errors.AsType[*knownhosts.KeyError](check(address, &net.TCPAddr{IP: net.IPv4zero}, probe))
	if !ok || len(known.Want) == 0 {
		return nil, fmt.Errorf("%s has no key for %s: add what `ssh-keyscan` shows, once you have compared its fingerprint", file, knownhosts.Normalize(address))
	}
	var algorithms []string
	for _, k := range known.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		algorithms = append(algorithms, k.Key.Type())
	}
	return algorithms, nil
}

// probeKey is a key that no host has.
func probeKey() (ssh.PublicKey, error) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// sshError says what to do about a handshake that failed.
func sshError(err error, address, file string) error {
	if _, ok := errors.AsType[*knownhosts.KeyError](err); ok {
		return fmt.Errorf("the host key of %s is not the one in %s: somebody may be in between. If the server has a new key, add that there: %w", address, file, err)
	}
	if strings.Contains(err.Error(), "unable to authenticate") {
		return fmt.Errorf("%s does not let us in with the key in ssh_key: let it read the repository there: %w", address, err)
	}
	return err
}

// head keeps the beginning of what is written to it. It is safe for concurrent use.
type head struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	const most = 300
	h.text = append(h.text, p[:min(len(p), most-len(h.text))]...)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(string(h.text))
}
