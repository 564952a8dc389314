package conformance_test

import (
	"os/user"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"golang.org/x/crypto/ssh"
)

// A: authorized_keys with cert-authority. The file names the CA, and perhaps the principals that it trusts the CA with.
func TestAuthorizedKeys(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	ca := publicLine(m.authority.PublicKey())
	two := map[string]string{"authorized_keys": `cert-authority,principals="deploy,u" ` + ca}
	one := map[string]string{"authorized_keys": `cert-authority,principals="deploy" ` + ca}
	whole := map[string]string{"authorized_keys": "cert-authority " + ca}
	of := func(p ...string) func(*crafted) { return func(c *crafted) { c.principals = p } }
	const missing, none = "Certificate does not contain an authorized principal", "Certificate lacks principal list"
	m.run(t, sshd.Config{Lines: []string{"AuthorizedKeysFile {dir}/authorized_keys"}},
		cell{id: "A01", name: "match", files: two, craft: of("deploy"), want: accept, why: "Accepted certificate ID"},
		cell{id: "A02", name: "other listed", files: two, craft: of("u"), want: accept},
		cell{id: "A03", name: "not listed", files: two, craft: of("root"), want: reject, why: missing},
		cell{id: "A04", name: "empty", files: two, craft: of(), want: reject, why: missing},
		cell{id: "A05", name: "comma", files: two, craft: of("deploy,root"), want: reject, why: missing},
		cell{id: "A06", name: "comma with listed", files: two, craft: of("deploy,u"), want: reject, why: missing},
		cell{id: "A07", name: "star", files: two, craft: of("*"), want: reject, why: missing},
		cell{id: "A08", name: "host type", files: two, craft: func(c *crafted) { c.kind, c.principals = ssh.HostCert, []string{"deploy"} }, byHand: true,
			want: reject, why: "Invalid certificate options"},
		cell{id: "A09", name: "single-list comma", files: one, craft: of("deploy,root"), want: reject, why: missing},
		cell{id: "A10", name: "single-list empty", files: one, craft: of(), want: reject, why: missing},
		cell{id: "A11", name: "no principals= and empty cert", files: whole, craft: of(), want: accept, why: "Accepted certificate ID"},
		cell{id: "A11b", name: "no principals= and an empty string", files: whole, craft: of(""), want: reject, why: notListed},
		cell{id: "A12", name: "no principals= and user name", files: whole, want: accept},
		cell{id: "A13", name: "no principals= and other", files: whole, craft: of("somebody"), want: reject, why: notListed},
		cell{id: "A13b", name: "without cert-authority", files: map[string]string{"authorized_keys": ca}, want: reject, why: noCA},
		cell{id: "A13c", name: "other ca", files: whole, craft: func(c *crafted) { c.authority = m.foreign }, want: reject, why: noCA},
	)
}

// P: AuthorizedPrincipalsFile and AuthorizedPrincipalsCommand. They alone say who may come in; the name of the account no
// longer counts.
func TestAuthorizedPrincipalsFile(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	file := func(text string) map[string]string { return map[string]string{"principals": text} }
	of := func(p ...string) func(*crafted) { return func(c *crafted) { c.principals = p } }
	sre := of("sre")
	const missing = "Certificate does not contain an authorized principal"
	// P07 comes first: no file was written yet.
	m.run(t, m.trusting("AuthorizedPrincipalsFile {dir}/principals"),
		cell{id: "P07", name: "missing file", craft: sre, want: reject, why: missing},
		cell{id: "P01", name: "match", files: file("sre\n"), craft: sre, want: accept, why: "Accepted certificate ID"},
		cell{id: "P01b", name: "match of login at host", files: file("deploy@db1.prod.example.com\n"), craft: of("deploy@db1.prod.example.com"), want: accept},
		cell{id: "P01c", name: "login at another host", files: file("deploy@db1.prod.example.com\n"), craft: of("deploy@db2.prod.example.com"), want: reject, why: missing},
		cell{id: "P01d", name: "login where the file wants login at host", files: file("deploy@db1.prod.example.com\n"), craft: of("deploy"), want: reject, why: missing},
		cell{id: "P02", name: "user name only", files: file("sre\n"), want: reject, why: missing},
		cell{id: "P03", name: "comma", files: file("sre\n"), craft: of("sre,x"), want: reject, why: missing},
		cell{id: "P04", name: "empty", files: file("sre\n"), craft: of(), want: reject, why: missing},
		cell{id: "P06", name: "empty file", files: file(""), craft: sre, want: reject, why: missing},
		cell{id: "P06b", name: "file with CRLF", files: file("sre\r\n"), craft: sre, want: reject, why: missing},
		cell{id: "P06c", name: "file with a comment and an indent", files: file("# who\n\tsre # them\n"), craft: sre, want: accept},
		cell{id: "P06d", name: "file without a last newline", files: file("x\nsre"), craft: sre, want: accept},
		cell{id: "P09", name: "command=", files: file(`command="echo forced" sre` + "\n"), craft: sre, want: accept, stdout: "forced\n"},
		cell{id: "P09b", name: "unknown option", files: file("nobody-knows sre\n"), craft: sre, want: reject, why: missing},
		cell{id: "P11", name: "from=", files: file(`from="10.0.0.0/8" sre` + "\n"), craft: sre, want: reject, why: "not from a permitted host"},
		cell{id: "P14", name: "space principal", files: file("a b\n"), craft: of("a b"), want: reject, why: missing},
		cell{id: "P16", name: "email", files: file("sre@example.com\n"), craft: of("sre@example.com"), want: accept},
		cell{id: "P16b", name: "star in the file", files: file("*\n"), craft: sre, want: reject, why: missing},
	)
}

func TestAuthorizedPrincipalsCommand(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	command := func(line string) sshd.Config {
		return m.trusting("AuthorizedPrincipalsCommand "+line, "AuthorizedPrincipalsCommandUser "+me.Username)
	}
	of := func(keyID string, p ...string) func(*crafted) {
		return func(c *crafted) { c.keyID, c.principals = keyID, p }
	}
	const missing = "Certificate does not contain an authorized principal"
	// Where sshd runs no command, that is what refuses these two.
	ran, why := accept, ""
	if !sshd.RunsCommands() {
		ran, why = reject, "Unsafe AuthorizedPrincipalsCommand"
	}
	m.run(t, command("/bin/echo sre"),
		cell{id: "P17", name: "command match", craft: of("crafted", "sre"), want: ran, why: why},
		cell{id: "P17b", name: "command user name only", want: reject, why: missing})
	// A key ID reaches the command as it is, so what the command repeats of it may be a line of its own.
	m.run(t, command("/bin/echo who: %i"),
		cell{id: "P18", name: "keyid newline reaches the command", craft: of("x\nsre\n", "sre"), want: ran, why: why},
		cell{id: "P18b", name: "keyid without newline", craft: of("x sre", "sre"), want: reject, why: missing})
	m.run(t, command("/bin/false"),
		cell{id: "P19", name: "command fails", craft: of("crafted", "sre"), want: reject, why: missing})
}
