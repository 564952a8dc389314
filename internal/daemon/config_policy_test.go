package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
)

// Each mistake in the policy's part of the configuration is told when the file is read, by its key.
func TestPolicyConfigurationIsChecked(t *testing.T) {
	const url = "repository: {url: https://git.example.com/x"
	for _, tt := range []struct{ name, policy, want string }{
		{"neither a folder nor a repository", "{run_tests: true}", "give source, the folder with policy.yaml, or repository"},
		{"both", "{source: policy, " + url + "}}", "and not both"},
		{"an unknown key", "{" + url + ", brnach: main}}", "brnach"},
		{"no url", "{repository: {branch: main}}", "url: the address of the repository is empty"},
		{"uncommitted files of a repository", "{allow_dirty: true, " + url + "}}", "allow_dirty"},
		{"uncommitted files that must be signed", "{allow_dirty: true, source: policy, allowed_signers: x}", "allow_dirty"},
		{"a password in the url", "{repository: {url: 'https://a:xyzzy@git.example.com/x'}}", "password_file"},
		{"plain http", "{repository: {url: 'http://127.0.0.1/x'}}", "insecure: true"},
		{"plain http to elsewhere", "{repository: {url: 'http://git.example.com/x', insecure: true}}", "plain http"},
		{"another protocol", "{repository: {url: 'git://git.example.com/x'}}", "not followed over"},
		{"ssh without a key", "{repository: {url: 'git@git.example.com:x', known_hosts: x}}", "ssh_key"},
		{"ssh without host keys", "{repository: {url: 'git@git.example.com:x', ssh_key: x}}", "known_hosts"},
		{"a key for https", "{" + url + ", ssh_key: x}}", "which url is not"},
		{"a password for a path", "{repository: {url: /srv/x, username: a, password_file: x}}", "which url is not"},
		{"a user without a password", "{" + url + ", username: a}}", "go together"},
		{"a branch with its folder", "{" + url + ", branch: refs/heads/main}}", "no name of a branch"},
		{"a branch that is an option", "{" + url + ", branch: --upload-pack=x}}", "no name of a branch"},
		{"a folder outside", "{" + url + ", folder: ../x}}", "no path below the top"},
		{"a folder from the root", "{" + url + ", folder: /x}}", "no path below the top"},
		{"polls without a pause", "{" + url + ", poll: 1ms}}", "less than 1s"},
		{"a negative timeout", "{" + url + ", timeout: -1s}}", "timeout"},
		{"an age that is always past", "{" + url + ", poll: 2h}}", "max_age"},
		{"a size that is none", "{" + url + ", max_size_mib: -1}}", "max_size_mib"},
		{"metrics on no port", "{source: policy}\nmetrics: {listen: localhost}", "metrics.listen"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := initialised(t)
			edit(t, dir, "policy:\n  source: \"policy\"\n", "policy: "+tt.policy+"\n")
			_, err := daemon.LoadConfig(filepath.Join(dir, daemon.ConfigName))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "xyzzy") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// `hallpassd check` fetches the repository, holds its policy to all it can, and leaves nothing behind.
func TestCheckLooksAtTheRepository(t *testing.T) {
	r, key := gitrepo.New(t), gitrepo.NewSigner(t, "ed25519", "")
	check := func(policy string) error {
		t.Helper()
		dir := initialised(t)
		edit(t, dir, "policy:\n  source: \"policy\"\n", "policy:\n  repository: {url: "+r.Bare+policy+"\n")
		write(t, filepath.Join(dir, "signers"), "alice@example.com "+key.Public)
		write(t, filepath.Join(dir, "bad-signers"), "alice@example.com cert-authority "+key.Public)
		cfg, err := daemon.LoadConfig(filepath.Join(dir, daemon.ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		err = daemon.Check(cfg)
		if _, statErr := os.Stat(filepath.Join(dir, "policy.git")); !os.IsNotExist(statErr) {
			t.Errorf("the daemon's own copy was made: %v", statErr)
		}
		return err
	}
	refuses := func(policy, want string) {
		t.Helper()
		if err := check(policy); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", policy, err, want)
		}
	}
	refuses("}", `no branch "main"`)
	r.Write("ssh/policy.yaml", first)
	r.Commit("Begin")
	refuses("}", "there is no such file")
	refuses(", folder: elsewhere}", "no folder elsewhere")
	if err := check(", folder: ./ssh/}"); err != nil {
		t.Error(err)
	}
	refuses(", folder: ssh}\n  allowed_signers: signers", "is not signed")
	refuses(", folder: ssh}\n  allowed_signers: bad-signers", "bad-signers:1: cert-authority")
	refuses(", folder: ssh}\n  allowed_signers: nowhere", "nowhere")
	r.CommitSigned("Sign", key)
	if err := check(", folder: ssh}\n  allowed_signers: signers"); err != nil {
		t.Error(err)
	}
	r.Write("ssh/policy_test.yaml", strings.Replace(itsTests, "allow", "deny", 1))
	r.CommitSigned("Test", key)
	refuses(", folder: ssh}\n  run_tests: true", "developers get in")
}
