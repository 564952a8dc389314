package conformance_test

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

// TestCoreRefuses asks the core for what a server would misread, by the cells that show how. The policy always says yes.
func TestCoreRefuses(t *testing.T) {
	t.Parallel()
	c := newCore(t, newKeys(t))
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, row := range []struct {
		id, name string
		key      string // "ed25519 user" if empty
		spoil    func(*core)
		kind     ca.Kind
		fragment string
	}{
		{id: "U03", name: "no login asked and none granted", spoil: func(c *core) { c.request.Login, c.decision.Grant.Logins = "", nil }, kind: ca.Invalid, fragment: "is not a login"},
		{id: "A11", name: "a login asked and none granted", spoil: func(c *core) { c.decision.Grant.Logins = nil }, kind: ca.Internal, fragment: "other logins"},
		{id: "U05", name: "a comma in the login", spoil: asking("deploy,root"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U05c", name: "a comma in the environment", spoil: func(c *core) {
			c.decision.Grant.Scope, c.decision.Environment.Name = ca.ScopeEnvironment, "prod,root"
		}, kind: ca.Internal, fragment: "would not be what was granted"},
		{id: "U06", name: "an empty login", spoil: asking(""), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U08", name: "a NUL in the login", spoil: asking("deploy\x00x"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U09", name: "a space after the login", spoil: asking("deploy "), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U10", name: "a line break after the login", spoil: asking("deploy\n"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U11b", name: "an invisible character in the login", spoil: asking("deploy\u200b"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U13", name: "a star for a login", spoil: asking("*"), kind: ca.Invalid, fragment: "is not a login"},
		{id: "U13c", name: "a star for an environment", spoil: func(c *core) {
			c.decision.Grant.Scope, c.decision.Environment.Name = ca.ScopeEnvironment, "*"
		}, kind: ca.Internal, fragment: "would not be what was granted"},
		{id: "U16", name: "a lifetime that is over", spoil: lasting(-time.Hour), kind: ca.Internal, fragment: "lifetime"},
		{id: "U17", name: "no lifetime", spoil: lasting(0), kind: ca.Internal, fragment: "lifetime"},
		{id: "U18", name: "the longest lifetime there is", spoil: lasting(time.Duration(math.MaxInt64).Truncate(time.Second)), kind: ca.Denied, fragment: "the longest, 24h0m0s"},
		{id: "U19", name: "a second more than a day", spoil: lasting(24*time.Hour + time.Second), kind: ca.Denied, fragment: "the longest, 24h0m0s"},
		{id: "U28", name: "an unknown option", spoil: extending("nobody-knows@example.com"), kind: ca.Internal, fragment: "the extension"},
		{id: "U30", name: "a forced command as an extension", spoil: extending("force-command"), kind: ca.Internal, fragment: "the extension"},
		{id: "U31", name: "source addresses as an extension", spoil: extending("source-address"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33", name: "an extension with data", spoil: extending("permit-pty=yes"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33b", name: "an extension with the bytes of an empty value", spoil: extending("permit-pty\x00\x00\x00\x04\x00\x00\x00\x00"), kind: ca.Internal, fragment: "the extension"},
		{id: "U33c", name: "an extension twice", spoil: extending(ca.PermitPTY, ca.PermitPTY), kind: ca.Internal, fragment: "the extension"},
		{id: "U34b", name: "a forced command of blanks", spoil: func(c *core) { c.decision.Grant.ForceCommand = " " }, kind: ca.Internal, fragment: "forced command"},
		{id: "U38b", name: "an IPv4 network in IPv6", spoil: from(netip.MustParsePrefix("::ffff:127.0.0.0/104")), kind: ca.Internal, fragment: "source address"},
		{id: "U41", name: "a mask of 33 bits", spoil: from(netip.PrefixFrom(loopback, 33)), kind: ca.Internal, fragment: "source address"},
		{id: "U42", name: "host bits beyond the mask", spoil: from(netip.PrefixFrom(loopback, 8)), kind: ca.Internal, fragment: "source address"},
		{id: "U43", name: "an empty list of source addresses", spoil: from([]netip.Prefix{}...), kind: ca.Internal, fragment: "source addresses"},
		{id: "U50", name: "one bad source address among good ones", spoil: from(netip.PrefixFrom(loopback, 32), netip.PrefixFrom(loopback, 33)), kind: ca.Internal, fragment: "source address"},
		{id: "U51", name: "verify-required on a key that cannot", spoil: func(c *core) { c.decision.Grant.VerifyRequired = true }, kind: ca.Denied, fragment: "security key"},
		{id: "U60", name: "an RSA key of 1024 bits", key: "rsa1024 user", spoil: func(*core) {}, kind: ca.Invalid, fragment: "1024"},
		{id: "U64", name: "the CA key as the key to certify", key: "ed25519 ca", spoil: func(*core) {}, kind: ca.Denied, fragment: "CA key"},
	} {
		t.Run(row.id+"_"+strings.ReplaceAll(row.name, " ", "_"), func(t *testing.T) {
			if row.key == "" {
				row.key = "ed25519 user"
			}
			before, signed := c.records(t), c.signer.signed.Load()
			issued, err := c.ask(t, row.key, row.spoil)
			if err == nil || ca.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.fragment) {
				t.Errorf("got %v (%v), want %v: %q", err, ca.KindOf(err), row.kind, row.fragment)
			}
			if issued != nil && issued.Certificate != nil {
				t.Error("a certificate came out")
			}
			if got := c.signer.signed.Load(); got != signed {
				t.Errorf("%d signatures were made", got-signed)
			}
			news := c.records(t)[len(before):]
			if len(news) != 1 {
				t.Fatalf("%d records were written, want one", len(news))
			}
			if r := news[0]; r.Subject != "alice" || r.Refusal == nil || r.Refusal.Kind != row.kind || r.ToBeSigned != nil {
				t.Errorf("the record is of %q, refused %+v, with %d bytes to be signed", r.Subject, r.Refusal, len(r.ToBeSigned))
			}
		})
	}
}
