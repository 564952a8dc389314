package conformance_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
)

// K: keys on security keys, by the provider without hardware that OpenSSH's own tests use.

func TestSecurityKeys(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	provider := securityKeyProvider(t)
	m.keys.made["touch user"] = newSecurityKey(t, provider, "ed25519-sk")
	m.keys.made["notouch user"] = newSecurityKey(t, provider, "ed25519-sk", "-O", "no-touch-required")
	m.keys.made["ecdsa user"] = newSecurityKey(t, provider, "ecdsa-sk")
	options := []string{"SecurityKeyProvider=" + provider}
	noTouch := func(c *crafted) { c.extensions = append([]option{flag("no-touch-required")}, c.extensions...) }
	verify := func(c *crafted) { c.critical = []option{flag("verify-required")} }
	const untouched, unverified = "user presence (authenticator touch) requirement not met", "user verification requirement not met"

	m.run(t, m.trusting(),
		cell{id: "K01", name: "sk ok", key: "touch", options: options, want: accept},
		cell{id: "K01b", name: "ecdsa sk ok", key: "ecdsa", options: options, want: accept},
		cell{id: "K02", name: "notouch key no ext", key: "notouch", options: options, want: reject, why: untouched},
		cell{id: "K03", name: "notouch key ext", key: "notouch", options: options, craft: noTouch, want: accept},
		cell{id: "K03b", name: "touch key ext", key: "touch", options: options, craft: noTouch, want: accept},
		cell{id: "K04", name: "verify required without uv", key: "touch", options: options, craft: verify, want: reject, why: unverified})
	m.run(t, m.trusting("PubkeyAuthOptions touch-required"),
		cell{id: "K05", name: "server touch required wins", key: "notouch", options: options, craft: noTouch, want: reject, why: untouched})
	m.run(t, m.trusting("PubkeyAuthOptions verify-required"),
		cell{id: "K06", name: "server verify required", key: "touch", options: options, want: reject, why: unverified},
		cell{id: "K06b", name: "server verify required and no sk key", want: accept})
}

// securityKeyProvider returns the path of sk-dummy.so.
func securityKeyProvider(t testing.TB) string {
	t.Helper()
	path := cmp.Or(os.Getenv("HALLPASS_SK_DUMMY"), "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find the provider of security keys: %v; install openssh-tests, or name its sk-dummy.so in HALLPASS_SK_DUMMY", err)
	}
	return path
}

func newSecurityKey(t testing.TB, provider, kind string, flags ...string) identity {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sk")
	cmd := exec.Command("ssh-keygen", append([]string{"-q", "-t", kind, "-N", "", "-w", provider, "-f", path}, flags...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a key of type %s: %v\n%s", kind, err, out)
	}
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		t.Fatal(err)
	}
	return identity{path: path, public: public}
}
