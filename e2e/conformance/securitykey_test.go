package conformance_test

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// K: keys on security keys, by the provider without hardware that OpenSSH's own tests use.

// What sshd logs about signatures by security keys.
const (
	untouched  = "user presence (authenticator touch) requirement not met"
	unverified = "user verification requirement not met"
)

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

// TestCoreIssuesForSecurityKeys logs in with certificates of the core for a key that asks for touch and cannot verify its user.
func TestCoreIssuesForSecurityKeys(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	provider := securityKeyProvider(t)
	m.keys.made["touch user"] = newSecurityKey(t, provider, "ed25519-sk")
	c := newCore(t, m.keys)
	s := sshd.Run(t, m.trusting())
	for _, row := range []issue{
		{id: "K01", name: "sk ok"},
		{id: "K04", name: "verify required without uv", ask: func(c *core) { c.decision.Grant.VerifyRequired = true }, want: reject, why: unverified},
	} {
		row.key, row.options = "touch user", []string{"SecurityKeyProvider=" + provider}
		row.run(t, s, c)
	}
}

// proveByTouch asks ssh-keygen for a signature, which asks the security key.
func (i identity) proveByTouch(t testing.TB, request []byte) []byte {
	t.Helper()
	cmd := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-n", ca.RequestNamespace, "-f", i.path)
	cmd.Env = append(os.Environ(), "SSH_SK_PROVIDER="+securityKeyProvider(t))
	cmd.Stdin = bytes.NewReader(request)
	armored, err := cmd.Output()
	if err != nil {
		t.Fatalf("sign by security key: %v", err)
	}
	signature, err := sshsig.Unarmor(armored)
	if err != nil {
		t.Fatal(err)
	}
	return signature.Marshal()
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
