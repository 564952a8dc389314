package policy_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"github.com/hallpass-ssh/hallpass/policy"
)

func sshKey(t *testing.T, file string) func() (ssh.Signer, error) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return func() (ssh.Signer, error) { return ssh.ParsePrivateKey(text) }
}

// servedBySSH is a repository behind a real sshd, and the address of it.
func servedBySSH(t *testing.T, key gitrepo.Signer) (*gitrepo.Repo, *sshd.Server, string) {
	t.Helper()
	s := sshd.Run(t, sshd.Config{
		// The files belong to whoever runs the tests, which git would mistrust.
		Lines: []string{"AuthorizedKeysFile {dir}/authorized_keys", "SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*"},
		Files: map[string]string{"authorized_keys": key.Public + "\n"},
	})
	r := gitrepo.New(t)
	bare := filepath.Join(s.Dir, "it's policy.git")
	if err := os.Rename(r.Bare, bare); err != nil {
		t.Fatal(err)
	}
	r.Bare = bare
	r.Git("remote", "set-url", "origin", bare)
	return r, s, fmt.Sprintf("ssh://%s@%s%s", s.Accounts()[0], s.Addr, bare)
}

func TestRepositoryIsFollowedOverSSH(t *testing.T) {
	for _, kind := range []string{"ed25519", "rsa"} {
		key := gitrepo.NewSigner(t, kind, "")
		r, s, url := servedBySSH(t, key)
		r.Write("policy.yaml", "one")
		first := r.Commit("Begin")
		repo := follow(t, url, func(c *policy.RepositoryConfig) {
			c.Key, c.KnownHosts = sshKey(t, key.File), filepath.Join(s.Dir, "known_hosts")
		})
		if b := fetched(t, repo); b.Revision != first {
			t.Errorf("read %s, want %s", b.Revision, first)
		}
		r.Write("policy.yaml", "two")
		second := r.Commit("Go on")
		if b := fetched(t, repo); b.Revision != second || string(b.Files["policy.yaml"]) != "two" {
			t.Errorf("then read %s, want %s", b.Revision, second)
		}
	}
}

func TestRepositoryRefusesSSHServers(t *testing.T) {
	key, other := gitrepo.NewSigner(t, "ed25519", ""), gitrepo.NewSigner(t, "ed25519", "")
	r, s, url := servedBySSH(t, key)
	r.Write("policy.yaml", "one")
	r.Commit("Begin")
	known := filepath.Join(s.Dir, "known_hosts")
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "known_hosts")
		writeFile(t, name, text)
		return name
	}
	silent := silentServer(t, "")
	mute := silentServer(t, "SSH-2.0-mute\r\n")
	for _, tt := range []struct {
		name, url, key, known, want string
	}{
		{"a host of which nothing is known", url, key.File, file("# nothing\n"), "has no key for"},
		{"a host with another key", url, key.File, file(knownhosts.Line([]string{s.Addr}, wrong) + "\n"), "is not the one in"},
		{"a host whose key is revoked", url, key.File, file("@revoked * " + string(ssh.MarshalAuthorizedKey(s.HostKey()))), "no key for"},
		{"a key that the server does not know", url, other.File, known, "does not let us in"},
		{"a repository that is not there", url + ".nowhere", key.File, known, "does not appear to be a git repository"},
		{"a server that says nothing", "ssh://git@" + silent + "/x", key.File, file(knownhosts.Line([]string{silent}, wrong) + "\n"), "no answer in time"},
		{"a server that falls silent", "ssh://git@" + mute + "/x", key.File, file(knownhosts.Line([]string{mute}, wrong) + "\n"), "no answer in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			repo := follow(t, tt.url, func(c *policy.RepositoryConfig) { c.Key, c.KnownHosts = sshKey(t, tt.key), tt.known })
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := repo.Fetch(ctx); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// silentServer takes connections, greets, and says nothing more.
func silentServer(t *testing.T, greeting string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := conn.Write([]byte(greeting)); err != nil {
				return
			}
		}
	}()
	return l.Addr().String()
}
