package ca_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

func sshKeygen(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %q: %v: %s", args, err, out)
	}
	return string(out)
}

// What ssh-keygen makes of the same inputs differs from ours in the nonce and the signature only.
func TestCertificatesAreThoseOfSSHKeygen(t *testing.T) {
	authority, caPath := fileAuthority(t, "default")
	s := newStand(t, func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"default": authority} })
	dir := t.TempDir()
	for i := range 25 {
		s.setRules(&rules{decide: grant(drawGrant().Example(i))})
		ours, _ := s.issued(s.ask())

		path := filepath.Join(dir, fmt.Sprintf("key%d.pub", i))
		if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(ours.Key), 0o600); err != nil {
			t.Fatal(err)
		}
		window := time.Unix(int64(ours.ValidAfter), 0).UTC().Format("20060102150405") + ":" + time.Unix(int64(ours.ValidBefore), 0).UTC().Format("20060102150405")
		args := []string{"-q", "-s", caPath, "-I", ours.KeyId, "-n", ours.ValidPrincipals[0], "-V", window, "-z", fmt.Sprint(ours.Serial), "-O", "clear"}
		for name, value := range ours.CriticalOptions {
			args = append(args, "-O", strings.TrimSuffix(name+"="+value, "="))
		}
		for name := range ours.Extensions {
			args = append(args, "-O", name)
		}
		sshKeygen(t, append(args, path)...)
		text, err := os.ReadFile(strings.TrimSuffix(path, ".pub") + "-cert.pub")
		if err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			t.Fatal(err)
		}
		theirs := readCertificate(t, key.Marshal())
		theirs.Nonce, theirs.Signature = ours.Nonce, ours.Signature
		if !bytes.Equal(theirs.Marshal(), ours.Marshal()) {
			t.Errorf("%q\nours   %x\ntheirs %x", args, ours.Marshal(), theirs.Marshal())
		}
	}
}

func drawGrant() *rapid.Generator[ca.Grant] {
	return rapid.Custom(func(r *rapid.T) ca.Grant {
		return ca.Grant{
			Logins: []string{"deploy"}, Scope: one(ca.ScopeAny, ca.ScopeEnvironment, ca.ScopeHost).Draw(r, "scope"),
			TTL:             time.Duration(rapid.IntRange(1, 12*3600).Draw(r, "ttl")) * time.Second,
			ForceCommand:    one("", "/usr/bin/psql-readonly", `sh -c "echo ü $SSH_ORIGINAL_COMMAND"`).Draw(r, "command"),
			SourceAddresses: one(nil, prefixes("192.0.2.0/24"), prefixes("2001:db8::/32", "0.0.0.0/0", "198.51.100.7/32")).Draw(r, "sources"),
			Extensions: one(nil, []ca.Extension{ca.PermitPTY}, []ca.Extension{
				ca.PermitX11Forwarding, ca.PermitUserRC, ca.PermitPTY, ca.PermitPortForwarding, ca.PermitAgentForwarding,
			}).Draw(r, "extensions"),
		}
	})
}

func TestSSHKeygenShowsTheCertificate(t *testing.T) {
	s := newStand(t)
	s.setRules(&rules{decide: grant(ca.Grant{
		Logins: []string{"deploy"}, Scope: ca.ScopeEnvironment, TTL: 2 * time.Hour, ForceCommand: "/usr/bin/id",
		SourceAddresses: prefixes("2001:db8::/32", "192.0.2.0/24"), Extensions: []ca.Extension{ca.PermitPTY},
	})})
	cert, _ := s.issued(s.ask())
	shown := sshKeygen(t, "-L", "-f", writeFile(t, string(ssh.MarshalAuthorizedKey(cert)), 0o600))
	for _, line := range []string{
		"Type: ssh-ed25519-cert-v01@openssh.com user certificate",
		`Key ID: "hallpass1 i=3 s=alice r=developers-on-prod p=3f2a9c1d0b7e"`,
		"Serial: 4\n",
		"Valid: from 2026-11-23T11:59:00 to 2026-11-23T14:00:00",
		"Principals: \n                deploy@prod\n",
		"force-command /usr/bin/id",
		"source-address 192.0.2.0/24,2001:db8::/32",
		"Extensions: \n                permit-pty\n",
	} {
		if !strings.Contains(shown, line) {
			t.Errorf("%q is not in\n%s", line, shown)
		}
	}
}

func TestKeyIDs(t *testing.T) {
	digest := ca.PolicyRef{Digest: [32]byte{0xab, 0xcd, 0xef, 1, 2, 3, 4}}
	dirty := ca.PolicyRef{Digest: digest.Digest, Revision: strings.Repeat("1", 40), Dirty: true}
	for _, row := range []struct {
		name, subject, rule string
		serial              uint64
		policy              ca.PolicyRef
		want                string
	}{
		{"a plain folder", "alice", "r", 1, digest, "hallpass1 i=0 s=alice r=r p=abcdef010203"},
		{"files that differ from the commit", "alice", "r", 1, dirty, "hallpass1 i=0 s=alice r=r p=abcdef010203"},
		{"a later epoch", "alice", "r", 3<<40 + 8, digest, "hallpass1 i=7 s=alice r=r p=abcdef010203"},
		{"the last index of an epoch", "alice", "r", 1 << 40, digest, "hallpass1 i=1099511627775 s=alice r=r p=abcdef010203"},
		{"a line break in the subject", "a\nAccepted publickey for root", "r", 1, digest, "hallpass1 i=0 s=a%0AAccepted%20publickey%20for%20root r=r p=abcdef010203"},
		{"a subject that looks like more fields", `a r=x"'\%`, "r", 1, digest, "hallpass1 i=0 s=a%20r%3Dx%22%27%5C%25 r=r p=abcdef010203"},
		{"a GitHub subject", "repo:o/r:ref:refs/heads/main", "r", 1, digest, "hallpass1 i=0 s=repo:o/r:ref:refs/heads/main r=r p=abcdef010203"},
		{"a long subject, cut before an escape", strings.Repeat("a", 99) + "ü", "r", 1, digest, "hallpass1 i=0 s=" + strings.Repeat("a", 99) + " r=r p=abcdef010203"},
	} {
		if got := ca.KeyID(row.serial, row.subject, row.rule, row.policy); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// A key ID is one plain line of five fields, whoever asks.
func FuzzKeyID(f *testing.F) {
	f.Add(uint64(1), "alice", "rule", "3f2a9c1d0b7e")
	f.Add(uint64(0), "a\nb\x00\xff", strings.Repeat("%", 300), "")
	form := regexp.MustCompile(`^hallpass1 i=[0-9]+ s=[!-~]{0,100} r=[!-~]{0,63} p=[!-~]{1,12}$`)
	f.Fuzz(func(t *testing.T, serial uint64, subject, rule, revision string) {
		id := ca.KeyID(serial, subject, rule, ca.PolicyRef{Revision: revision})
		if !form.MatchString(id) || len(id) > 256 || strings.ContainsAny(id, "\"'\\\n") || strings.Count(id, "=") != 4 || strings.Count(id, " ") != 4 {
			t.Errorf("%q", id)
		}
	})
}

// What may be a principal means one thing to whatever reads it.
func FuzzPrincipal(f *testing.F) {
	for _, s := range []string{"deploy", "deploy@prod", "deploy@db1.example.com", "a,b", "a b", "*", "-o", "deploy@", "@prod", "a@b@c", "deploy\n", "dеploy"} {
		f.Add(s)
	}
	form := regexp.MustCompile(`\A[a-z_][a-z0-9._-]{0,31}(@[a-z0-9][a-z0-9._-]{0,252})?\z`)
	f.Fuzz(func(t *testing.T, s string) {
		if ca.PrincipalValid(s) && !form.MatchString(s) {
			t.Errorf("%q may be a principal", s)
		}
		if ca.ValidLogin(s) && !form.MatchString(s) {
			t.Errorf("%q may be a login", s)
		}
		if host, err := ca.CanonicalHost(s); err == nil {
			if again, err := ca.CanonicalHost(host); err != nil || again != host {
				t.Errorf("%q becomes %q becomes %q, %v", s, host, again, err)
			}
			if !ca.PrincipalValid("deploy@" + host) {
				t.Errorf("the host %q makes no principal", host)
			}
		}
	})
}

// What we take for source addresses, netip reads back in the same words, and so does every sshd.
func FuzzSourceAddress(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "192.0.2.0/24,2001:db8::/32", "0.0.0.0/0", "::/0", "192.0.2.1/24", "", ",", "!10.0.0.0/8", "::ffff:1.2.3.4/128", "fe80::1%a/128"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ca.SourceAddressValid(s) {
			return
		}
		texts := strings.Split(s, ",")
		if len(texts) > 64 || strings.ContainsAny(s, " !*?%\x00\n") {
			t.Errorf("%q", s)
		}
		for _, text := range texts {
			if p := netip.MustParsePrefix(text); p != p.Masked() || p.Addr().Is4In6() {
				t.Errorf("%q", text)
			}
		}
	})
}

// sshd's own reader of address lists is the oracle: ssh-keygen refuses what it refuses.
func TestSSHKeygenTakesOurSourceAddresses(t *testing.T) {
	_, caPath := fileAuthority(t, "default")
	key := writePublic(t, newSigner(t).PublicKey())
	for _, s := range []string{"192.0.2.0/24", "0.0.0.0/0,::/0", "2001:db8::/32,198.51.100.7/32", "::1/128"} {
		if !ca.SourceAddressValid(s) {
			t.Errorf("we refuse %q", s)
		}
		sshKeygen(t, "-q", "-s", caPath, "-I", "x", "-n", "x", "-O", "source-address="+s, key)
	}
}

// Whatever a grant holds: if a certificate comes out, x/crypto reads back what went in and the lints pass.
func FuzzCertRoundTrip(f *testing.F) {
	f.Add("alice", "rule", "/usr/bin/id", int64(3600), uint8(24), true)
	f.Add("a\nb", "", "", int64(1), uint8(0), false)
	authority, _ := fileAuthority(f, "default")
	s := newStand(f, func(c *ca.CA) { c.Authorities = map[string]*ca.Authority{"default": authority} })
	f.Fuzz(func(t *testing.T, subject, rule, command string, ttl int64, bits uint8, wide bool) {
		s.t, s.log.t = t, t
		g := ca.Grant{Logins: []string{"deploy"}, Scope: ca.ScopeHost, TTL: time.Duration(ttl) * time.Second, ForceCommand: command, Extensions: []ca.Extension{ca.PermitPTY}}
		if p, err := netip.AddrFrom4([4]byte{192, 0, 2, 255}).Prefix(int(bits)); err == nil {
			g.SourceAddresses = []netip.Prefix{p}
		}
		if wide {
			g.Extensions = append(g.Extensions, ca.PermitUserRC)
		}
		s.setRules(&rules{decide: grant(g, func(d *ca.Decision) { d.Rule = rule })})
		signer := newSigner(t)
		token, random := s.person(subject, signer.PublicKey())
		issued, err := s.Issue(t.Context(), call(t, token, s.request(signer.PublicKey(), random), signer, ca.RequestNamespace))
		if err != nil {
			return
		}
		cert := readCertificate(t, issued.Certificate)
		if !bytes.Equal(cert.Marshal(), issued.Certificate) || cert.CriticalOptions["force-command"] != command || len(cert.Extensions) != len(g.Extensions) {
			t.Errorf("read back %+v", cert)
		}
		if err := (&ssh.CertChecker{Clock: func() time.Time { return s.now }, SupportedCriticalOptions: []string{"force-command", "source-address"}}).
			CheckCert("deploy@db1.prod.example.com", cert); err != nil {
			t.Error(err)
		}
	})
}
