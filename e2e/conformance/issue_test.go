package conformance_test

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"golang.org/x/crypto/ssh"
)

// An issue is a certificate that the core issues, and what a server makes of it.
type issue struct {
	id, name string
	key      string   // "ed25519 user" if empty
	options  []string // of ssh
	ask      func(*core)
	want     verdict // accept if zero
	why      string
	stdout   string
	check    func(testing.TB, *ssh.Certificate, *sshd.Result)
}

// TestCoreIssues logs in with certificates of the core. A server takes them for what was granted. What nobody can ask for, they
// are not.
func TestCoreIssues(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	c := newCore(t, m.keys)
	s := sshd.Run(t, m.trusting("LogLevel DEBUG1")) // which logs what a certificate permits
	login := s.Accounts()[0]
	const forged = "Accepted publickey for root from 1.2.3.4 port 22 ssh2"
	all := []ca.Extension{ca.PermitPTY, ca.PermitPortForwarding, ca.PermitAgentForwarding, ca.PermitX11Forwarding, ca.PermitUserRC}
	for _, row := range []issue{
		{id: "U01", name: "all is well", why: "key options: pty"},
		{id: "U04", name: "scope host opens no server without a principals file", want: reject, why: notListed,
			ask: func(c *core) { c.decision.Grant.Scope = ca.ScopeHost }},
		{id: "U15", name: "257 logins are granted", ask: func(c *core) {
			for i := range 256 {
				c.decision.Grant.Logins = append(c.decision.Grant.Logins, fmt.Sprintf("u%d", i))
			}
		}, check: func(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
			if !slices.Equal(cert.ValidPrincipals, []string{login}) {
				t.Errorf("its principals are %q, not the one login asked for", cert.ValidPrincipals)
			}
		}},
		{id: "U35", name: "a forced command", stdout: "was echo in\n", ask: func(c *core) {
			c.decision.Grant.ForceCommand = `echo "was $SSH_ORIGINAL_COMMAND"`
		}},
		{id: "U38", name: "the network of the login", ask: from(netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("127.0.0.0/8"))},
		{id: "U40", name: "another network", want: reject, why: elsewhere, ask: from(netip.MustParsePrefix("10.0.0.0/8"))},
		{id: "U49", name: "every network", ask: from(netip.MustParsePrefix("0.0.0.0/0"))},
		{id: "U55", name: "a subject with a log line in it", ask: func(c *core) { c.caller.Identity.Subject = "x\n" + forged + "\ny" },
			check: func(t testing.TB, cert *ssh.Certificate, r *sshd.Result) {
				if slices.Contains(r.Log, forged) || !strings.Contains(cert.KeyId, "s=x%0AAccepted%20publickey") {
					t.Errorf("its key ID is %q, and sshd logged:\n%s", cert.KeyId, r.LogText())
				}
			}},
		{id: "P18", name: "a rule with a line break in it", ask: func(c *core) { c.decision.Rule = "x\nsre" },
			check: func(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
				if !strings.Contains(cert.KeyId, "r=x%0Asre") {
					t.Errorf("its key ID is %q", cert.KeyId)
				}
			}},
		{id: "U56", name: "a subject of 8k", ask: func(c *core) { c.caller.Identity.Subject = strings.Repeat("k", 8<<10) }, check: shortKeyID},
		{id: "U57", name: "a subject of 60k of quotes", ask: func(c *core) { c.caller.Identity.Subject = strings.Repeat(`"`, 60_000) }, check: shortKeyID},
		{id: "U61", name: "an RSA key", key: "rsa3072 user"},
		{id: "U62", name: "an ECDSA key", key: "ecdsa521 user"},
		{id: "U66", name: "no permission", why: "key options: user-rc", ask: extending(ca.PermitUserRC)},
		{id: "U70", name: "every permission", why: "key options: agent-forwarding port-forwarding pty user-rc x11-forwarding", ask: extending(all...)},
	} {
		row.run(t, s, c)
	}
}

// run asks the core for the certificate and logs in with it.
func (i issue) run(t *testing.T, s *sshd.Server, c *core) {
	t.Helper()
	i.key, i.want = cmp.Or(i.key, "ed25519 user"), cmp.Or(i.want, accept)
	t.Run(i.id+"_"+strings.ReplaceAll(i.name, " ", "_"), func(t *testing.T) {
		issued, err := c.ask(t, i.key, func(c *core) {
			asking(s.Accounts()[0])(c)
			if i.ask != nil {
				i.ask(c)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		cert, r := i.use(t, s, c.keys.get(i.key), issued.Certificate)
		judge(t, cell{want: i.want, why: i.why, stdout: i.stdout}, r)
		// U25, U26, U27 and U53: there is no way to ask for another type, nor for a serial.
		if cert.CertType != ssh.UserCert || cert.Serial != issued.Index+1 {
			t.Errorf("it is of type %d with serial %d, recorded at %d", cert.CertType, cert.Serial, issued.Index)
		}
		if window := cert.ValidBefore - cert.ValidAfter; window != uint64((time.Hour+time.Minute)/time.Second) {
			t.Errorf("it is valid for %d s, not for an hour and a minute of backdating", window)
		}
		if i.check != nil {
			i.check(t, cert, r)
		}
	})
}

func shortKeyID(t testing.TB, cert *ssh.Certificate, _ *sshd.Result) {
	t.Helper()
	if len(cert.KeyId) > 256 || strings.ContainsFunc(cert.KeyId, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }) {
		t.Errorf("its key ID has %d bytes: %.300q", len(cert.KeyId), cert.KeyId)
	}
}

// use reads the certificate and logs in with it.
func (i issue) use(t testing.TB, s *sshd.Server, key identity, wire []byte) (*ssh.Certificate, *sshd.Result) {
	t.Helper()
	public, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		t.Fatalf("got a %T, not a certificate", public)
	}
	r, err := s.Login(t.Context(), sshd.Login{Key: key.path, Certificate: writeCertificate(t, cert.Type(), wire), Options: i.options, Command: "echo in"})
	if err != nil {
		t.Fatal(err)
	}
	return cert, r
}

// writeCertificate writes a certificate into a file as ssh reads it.
func writeCertificate(t testing.TB, certType string, wire []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "cert.pub")
	line := certType + " " + base64.StdEncoding.EncodeToString(wire) + "\n"
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
