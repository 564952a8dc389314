package conformance_test

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// trusting is a server that trusts the keys of the CA, and has no principals file.
func (m *matrix) trusting(lines ...string) sshd.Config {
	return sshd.Config{
		Lines: append(lines, "TrustedUserCAKeys {dir}/ca.pub"),
		Files: map[string]string{"ca.pub": publicLine(m.authority.PublicKey())},
	}
}

// U: TrustedUserCAKeys and no principals file. A certificate opens the account that is one of its principals.

// What sshd logs about certificates that it refuses.
const (
	notListed   = "Certificate invalid: name is not a listed principal"
	noCA        = "ID crafted (serial 7) CA " // in the line that a key failed: no file vouches for this CA
	unreadable  = "parse key: invalid format"
	unknownKind = "parse key: unknown/unsupported certificate type"
	badList     = "Certificate source-address contents invalid"
	elsewhere   = "not from a permitted source address (127.0.0.1)"
)

func TestTrustedPrincipals(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	principals := func(change func(login string) []string) func(*crafted) {
		return func(c *crafted) { c.principals = change(c.principals[0]) }
	}
	exactly := func(p ...string) func(*crafted) { return principals(func(string) []string { return p }) }
	m.run(t, m.trusting(),
		cell{id: "U01", name: "ok", want: accept, why: `Accepted certificate ID "crafted" (serial 7)`},
		cell{id: "U02", name: "wrong principal", craft: exactly("somebody"), want: reject, why: notListed},
		cell{id: "U03", name: "empty principals", craft: exactly(), want: reject, why: "Certificate lacks principal list"},
		cell{id: "U04", name: "second of two", craft: principals(func(l string) []string { return []string{"somebody", l} }), want: accept},
		cell{id: "U05", name: "comma principal", craft: principals(func(l string) []string { return []string{l + ",root"} }), want: reject, why: notListed},
		cell{id: "U05b", name: "comma principal that ends with the login", craft: principals(func(l string) []string { return []string{"x," + l} }), want: reject, why: notListed},
		cell{id: "U06", name: "empty string principal", craft: exactly(""), want: reject, why: notListed},
		cell{id: "U08", name: "nul in principal", craft: principals(func(l string) []string { return []string{l + "\x00x"} }), want: reject, why: unreadable, byHand: true},
		cell{id: "U09", name: "trailing space", craft: principals(func(l string) []string { return []string{l + " "} }), want: reject, why: notListed},
		cell{id: "U10", name: "newline principal", craft: principals(func(l string) []string { return []string{l + "\n"} }), want: reject, why: notListed},
		cell{id: "U11", name: "uppercase", craft: principals(func(l string) []string { return []string{strings.ToUpper(l)} }), want: reject, why: notListed},
		cell{id: "U11b", name: "with an invisible character", craft: principals(func(l string) []string { return []string{l + "\u200b"} }), want: reject, why: notListed},
		cell{id: "U13", name: "star", craft: exactly("*"), want: reject, why: notListed},
		cell{id: "U13b", name: "question marks", craft: principals(func(l string) []string { return []string{strings.Repeat("?", len(l))} }), want: reject, why: notListed},
		cell{id: "U15", name: "257 principals", craft: principals(func(l string) []string { return slices.Repeat([]string{l}, 257) }), want: reject, why: unreadable, byHand: true},
		cell{id: "U15b", name: "256 principals", craft: principals(func(l string) []string { return append(slices.Repeat([]string{"x"}, 255), l) }), want: accept},
	)
}

func TestTrustedWindow(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	window := func(after, before uint64) func(*crafted) {
		return func(c *crafted) { c.after, c.before = after, before }
	}
	const expired, early = "Certificate invalid: expired", "Certificate invalid: not yet valid"
	now := uint64(time.Now().Unix())
	m.run(t, m.trusting(),
		cell{id: "U16", name: "expired", craft: window(now-7200, now-3600), want: reject, why: expired},
		cell{id: "U17", name: "valid before 0", craft: window(0, 0), want: reject, why: expired},
		cell{id: "U17b", name: "inverted window", craft: window(now+3600, now-3600), want: reject, why: early},
		cell{id: "U18", name: "forever", craft: window(0, math.MaxUint64), want: accept},
		cell{id: "U19", name: "2^64-2", craft: window(0, math.MaxUint64-1), want: accept},
		cell{id: "U21", name: "future", craft: window(now+3600, now+7200), want: reject, why: early},
		cell{id: "U21b", name: "exactly at valid after", inOneSecond: true, byHand: true, want: accept,
			craft: func(c *crafted) { c.after = uint64(time.Now().Unix()) }},
		cell{id: "U23", name: "exact boundary before", inOneSecond: true, byHand: true, want: accept,
			craft: func(c *crafted) { c.before = uint64(time.Now().Unix()) + 1 }},
		cell{id: "U24", name: "exact boundary at valid before", inOneSecond: true, byHand: true, want: reject, why: expired,
			craft: func(c *crafted) { c.before = uint64(time.Now().Unix()) }},
	)
}

func TestTrustedFields(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	kind := func(n uint32) func(*crafted) { return func(c *crafted) { c.kind = n } }
	keyID := func(id string) func(*crafted) { return func(c *crafted) { c.keyID = id } }
	const forged = "Accepted publickey for root from 1.2.3.4 port 22 ssh2"
	m.run(t, m.trusting(),
		cell{id: "U25", name: "type0", craft: kind(0), want: reject, why: unknownKind, byHand: true},
		cell{id: "U26", name: "host type", craft: kind(ssh.HostCert), want: reject, why: "Certificate invalid: not a user certificate", byHand: true},
		cell{id: "U27", name: "type3", craft: kind(3), want: reject, why: unknownKind, byHand: true},
		cell{id: "U53", name: "serial0", craft: func(c *crafted) { c.serial = 0 }, want: accept, why: "(serial 0)"},
		cell{id: "U53b", name: "largest serial", craft: func(c *crafted) { c.serial = math.MaxUint64 }, want: accept, why: "(serial 18446744073709551615)"},
		cell{id: "U55", name: "keyid newline forges a log line", craft: keyID("x\n" + forged + "\ny"), want: accept,
			check: func(t testing.TB, r *sshd.Result) {
				if !slices.Contains(r.Log, forged) {
					t.Errorf("sshd did not log a line of the certificate's making:\n%s", r.LogText())
				}
			}},
		cell{id: "U56", name: "keyid 8k", craft: keyID(strings.Repeat("k", 8<<10)), want: accept},
		cell{id: "U57", name: "keyid 60k", craft: keyID(strings.Repeat("k", 60_000)), want: accept},
		cell{id: "U57b", name: "empty keyid", craft: keyID(""), want: accept, why: `Accepted certificate ID "" (serial 7)`},
		cell{id: "U57c", name: "nul in keyid", craft: keyID("a\x00b"), want: reject, why: unreadable, byHand: true},
		cell{id: "U57d", name: "reserved field in use", craft: func(c *crafted) { c.reserved = "later" }, want: accept},
		cell{id: "U57e", name: "something after the signature", craft: func(c *crafted) { c.trailing = "x" }, want: reject, why: unreadable, byHand: true},
	)
}

func TestTrustedOptions(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	critical := func(o ...option) func(*crafted) { return func(c *crafted) { c.critical = o } }
	extensions := func(o ...option) func(*crafted) { return func(c *crafted) { c.extensions = o } }
	source := func(list string) func(*crafted) { return critical(value("source-address", list)) }
	m.run(t, m.trusting(),
		cell{id: "U28", name: "unknown critical", craft: critical(flag("nobody-knows@example.com")), want: reject, why: `critical option "nobody-knows@example.com" is not supported`},
		cell{id: "U28b", name: "permission as critical option", craft: critical(flag("permit-pty")), want: reject, why: `critical option "permit-pty" is not supported`},
		cell{id: "U30", name: "force command as extension", craft: extensions(value("force-command", "false")), want: accept, why: `extension "force-command" is not supported`},
		cell{id: "U31", name: "source address as extension", craft: extensions(value("source-address", "10.0.0.0/8")), want: accept, why: `extension "source-address" is not supported`},
		cell{id: "U32", name: "unknown extension", craft: extensions(flag("nobody-knows@example.com")), want: accept, why: `extension "nobody-knows@example.com" is not supported`},
		cell{id: "U33", name: "extension with data", craft: extensions(value("permit-pty", "yes")), want: reject, why: `option "permit-pty" corrupt (extra data)`},
		cell{id: "U33b", name: "extension with an empty value", craft: extensions(value("permit-pty", "")), want: reject, why: `option "permit-pty" corrupt (extra data)`},
		cell{id: "U33c", name: "extension twice", craft: extensions(flag("permit-pty"), flag("permit-pty")), want: accept},
		cell{id: "U33d", name: "critical option twice", craft: critical(value("force-command", "true"), value("force-command", "false")), want: reject, why: "Certificate has multiple force-command options"},
		cell{id: "U33e", name: "critical option without a value", craft: critical(flag("force-command")), want: reject, why: `Unable to parse "force-command" section`},
		cell{id: "U34", name: "force false", craft: critical(value("force-command", "false")), want: accept, silent: true, exit: 1},
		cell{id: "U34b", name: "force with an empty command", craft: critical(value("force-command", "")), want: accept, silent: true},
		cell{id: "U35", name: "force echo sees SSH_ORIGINAL_COMMAND", craft: critical(value("force-command", `echo "was $SSH_ORIGINAL_COMMAND"`)), want: accept, stdout: "was echo in\n"},
		cell{id: "U38", name: "src cidr ok", craft: source("10.0.0.0/8,127.0.0.0/8"), want: accept},
		cell{id: "U38b", name: "src of IPv4 in IPv6", craft: source("::ffff:127.0.0.0/104"), want: reject, why: elsewhere},
		cell{id: "U39", name: "src bare ip", craft: source("127.0.0.1"), want: accept},
		cell{id: "U40", name: "src other net", craft: source("10.0.0.0/8"), want: reject, why: elsewhere},
		cell{id: "U41", name: "src mask33", craft: source("127.0.0.1/33"), want: reject, why: badList},
		cell{id: "U42", name: "src hostbits", craft: source("127.0.0.1/8"), want: reject, why: badList},
		cell{id: "U43", name: "src empty", craft: source(""), want: reject, why: badList},
		cell{id: "U45", name: "src negated", craft: source("!10.0.0.0/8"), want: reject, why: badList},
		cell{id: "U46", name: "src wildcard", craft: source("127.0.0.*"), want: reject, why: badList},
		cell{id: "U46b", name: "src host name", craft: source("localhost"), want: reject, why: badList},
		cell{id: "U46c", name: "src with a space", craft: source("10.0.0.0/8, 127.0.0.0/8"), want: reject, why: badList},
		cell{id: "U49", name: "src any", craft: source("0.0.0.0/0"), want: accept},
		cell{id: "U49b", name: "src any IPv6", craft: source("::/0"), want: reject, why: elsewhere},
		cell{id: "U50", name: "src one bad entry", craft: source("127.0.0.0/8,10.0.0.1/33"), want: reject, why: badList},
		cell{id: "U51", name: "verify required nonsk", craft: critical(flag("verify-required")), want: accept},
	)
}

func TestTrustedKeys(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	by := func(ca ssh.Signer, algorithm string) func(*crafted) {
		return func(c *crafted) { c.authority, c.algorithm = ca, algorithm }
	}
	rsa, ecdsa := m.keys.get("rsa3072 ca").signer, m.keys.get("ecdsa256 ca").signer
	config := m.trusting()
	config.Files["ca.pub"] += publicLine(rsa.PublicKey()) + publicLine(ecdsa.PublicKey())
	m.run(t, config,
		cell{id: "U58", name: "rsa ca sha512", craft: by(rsa, ssh.KeyAlgoRSASHA512), want: accept, why: "signed by RSA CA"},
		cell{id: "U58b", name: "rsa ca sha1", craft: by(rsa, ssh.KeyAlgoRSA), want: reject, why: "signature algorithm ssh-rsa: signature algorithm not supported"},
		cell{id: "U58c", name: "ecdsa ca", craft: by(ecdsa, ""), want: accept, why: "signed by ECDSA CA"},
		cell{id: "U60", name: "rsa1024 subject", key: "rsa1024", want: accept},
		cell{id: "U61", name: "rsa2048", key: "rsa2048", want: accept},
		cell{id: "U62", name: "ecdsa521", key: "ecdsa521", want: accept},
		cell{id: "U63", name: "other ca", craft: by(m.foreign, ""), want: reject, why: noCA},
		cell{id: "U64", name: "self signed", craft: by(m.keys.get("ed25519 user").signer, ""), want: reject, why: noCA},
	)
}

func TestTrustedPermissions(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	with := func(names ...string) func(*crafted) {
		return func(c *crafted) {
			c.extensions = nil
			for _, n := range names {
				c.extensions = append(c.extensions, flag(n))
			}
		}
	}
	said := func(fragment string) func(testing.TB, *sshd.Result) {
		return func(t testing.TB, r *sshd.Result) {
			if !strings.Contains(r.Stderr, fragment) {
				t.Errorf("ssh did not say %q but:\n%s", fragment, r.Stderr)
			}
		}
	}
	// Without root, sshd can hand out a terminal only where /dev/pts needs no chown, and the account is somebody's, whose
	// ~/.ssh/rc is not ours to write. Then what it logs of the permissions says it all.
	var terminal []string
	tty, rc := "none\n", "in\n"
	if sshd.OwnAccounts() {
		terminal, tty, rc = []string{"-tt"}, "terminal\r\n", "rc\nin\n"
	}
	const pty = `tty >/dev/null && echo terminal || echo none`
	const lookForAgent = `test -S "$SSH_AUTH_SOCK" && echo agent || echo none`
	forwardAgent := []string{"IdentityAgent=" + serveAgent(t, agent.NewKeyring()), "ForwardAgent=yes"}
	behind := banner(t, "hello\n")
	config := m.trusting("LogLevel DEBUG1") // which logs what a certificate permits
	config.Files["home/deploy/.ssh/rc"] = "echo rc\n"
	m.run(t, config,
		cell{id: "U65", name: "pty with ext", craft: with("permit-pty"), flags: terminal, command: pty, want: accept, why: "key options: pty", stdout: tty},
		cell{id: "U66", name: "pty without ext", craft: with(), flags: []string{"-tt"}, command: pty, want: accept, silent: true, exit: 255,
			check: said("PTY allocation request failed")},
		cell{id: "U67", name: "agent fwd with ext", craft: with("permit-agent-forwarding"), options: forwardAgent, command: lookForAgent, want: accept, stdout: "agent\n"},
		cell{id: "U67b", name: "agent fwd without ext", craft: with(), options: forwardAgent, command: lookForAgent, want: accept, stdout: "none\n"},
		cell{id: "U68", name: "port fwd with ext", craft: with("permit-port-forwarding"), flags: []string{"-W", behind}, want: accept, stdout: "hello\n"},
		cell{id: "U68b", name: "port fwd without ext", craft: with(), flags: []string{"-W", behind}, want: accept, silent: true, exit: 255,
			check: said("administratively prohibited")},
		cell{id: "U68c", name: "remote port fwd with ext", craft: with("permit-port-forwarding"), options: []string{"ExitOnForwardFailure=yes"},
			flags: []string{"-R", "0:" + behind}, want: accept},
		cell{id: "U68d", name: "remote port fwd without ext", craft: with(), options: []string{"ExitOnForwardFailure=yes"},
			flags: []string{"-R", "0:" + behind}, want: accept, silent: true, exit: 255, check: said("remote port forwarding failed")},
		cell{id: "U70", name: "user rc with ext", craft: with("permit-user-rc"), want: accept, why: "key options: user-rc", stdout: rc},
		cell{id: "U70b", name: "user rc without ext", craft: with("permit-pty"), want: accept, why: "key options: pty"},
	)
}

func TestTrustedServerSettings(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	force := func(c *crafted) { c.critical = []option{value("force-command", "echo cert")} }
	byRSA := func(c *crafted) { c.authority = m.keys.get("rsa3072 second ca").signer }
	bySecond := func(c *crafted) { c.authority = m.keys.get("ed25519 second ca").signer }
	first, second := publicLine(m.authority.PublicKey()), publicLine(m.keys.get("ed25519 second ca").public)
	file := func(text string) map[string]string { return map[string]string{"ca.pub": text} }

	m.run(t, m.trusting("ForceCommand echo srv"),
		cell{id: "U37", name: "server ForceCommand wins", craft: force, want: accept, stdout: "srv\n"})
	m.run(t, m.trusting("CASignatureAlgorithms ssh-ed25519"),
		cell{id: "U71", name: "CASignatureAlgorithms excludes", craft: byRSA, want: reject, why: "signature algorithm rsa-sha2-512: signature algorithm not supported"},
		cell{id: "U71b", name: "CASignatureAlgorithms includes", want: accept})
	m.run(t, m.trusting("PubkeyAcceptedAlgorithms ssh-ed25519"),
		cell{id: "U72", name: "PubkeyAcceptedAlgorithms plain only", want: reject, why: "cert-v01@openssh.com not in PubkeyAcceptedAlgorithms"})
	m.run(t, m.trusting("RequiredRSASize 3072"),
		cell{id: "U73", name: "RequiredRSASize", key: "rsa2048", want: reject, why: "refusing RSA-CERT key: Invalid key length"})
	m.run(t, m.trusting("TrustedUserCAKeys none"),
		cell{id: "U75", name: "TrustedUserCAKeys none", want: reject, why: noCA})
	m.run(t, sshd.Config{Lines: []string{"TrustedUserCAKeys {dir}/missing.pub"}},
		cell{id: "U76", name: "ca file missing", want: reject, why: noCA})
	m.run(t, m.trusting(),
		cell{id: "U77", name: "ca file garbage after first", files: file(first + "garbage\n" + second), want: accept},
		cell{id: "U78", name: "second ca after garbage", files: file(first + "garbage\n" + second), craft: bySecond, want: reject, why: noCA},
		cell{id: "U78b", name: "second ca without the garbage", files: file(first + second), craft: bySecond, want: accept},
		cell{id: "U78c", name: "first ca after garbage", files: file("garbage\n" + first), want: reject, why: noCA},
		cell{id: "U78d", name: "second ca glued to the first", files: file(strings.TrimSpace(first) + strings.TrimSpace(second) + "\n"), craft: bySecond, want: reject, why: noCA},
		cell{id: "U78e", name: "empty ca file", files: file(""), want: reject, why: noCA})
	none := m.trusting()
	none.Match = []string{"Match User " + strconv.Quote("{user}"), "TrustedUserCAKeys none"}
	m.run(t, none,
		cell{id: "U79", name: "Match none", want: reject, why: noCA})
	m.run(t, m.trusting("AuthorizedPrincipalsFile none"),
		cell{id: "U81", name: "AuthorizedPrincipalsFile none", want: accept})
}
