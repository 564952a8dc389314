package conformance_test

import (
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/policy"
)

// TestPolicyRefuses writes into a policy what a server would misread. It does not load.
func TestPolicyRefuses(t *testing.T) {
	t.Parallel()
	const good = `version: 1
limits: {max_ttl: 12h, keys: [ed25519]}
environments:
  prod: {hosts: ["*.prod.example.com"]}
allow:
- name: everybody
  when: "true"
  grant: {logins: [deploy], ttl: 1h}
`
	if _, err := policy.Compile(bundle(good)); err != nil {
		t.Fatalf("the policy that the rows spoil: %v", err)
	}
	for _, row := range []struct{ id, name, grant, fragment string }{
		{"U03", "no logins", `{ttl: 1h}`, "the grant has no logins"},
		{"A11", "an empty list of logins", `{logins: [], ttl: 1h}`, "the grant has no logins"},
		{"U05", "a comma in a login", `{logins: ["deploy,root"], ttl: 1h}`, "is not a login"},
		{"U06", "an empty login", `{logins: [""], ttl: 1h}`, "an entry of logins is empty"},
		{"U08", "a NUL in a login", `{logins: ["deploy\0x"], ttl: 1h}`, "is not a login"},
		{"U09", "a space after a login", `{logins: ["deploy "], ttl: 1h}`, "is not a login"},
		{"U10", "a line break after a login", `{logins: ["deploy\n"], ttl: 1h}`, "is not a login"},
		{"U13", "a star for a login", `{logins: ["*"], ttl: 1h}`, "is not a login"},
		{"U16", "a lifetime that is over", `{logins: [deploy], ttl: -1h}`, "ttl must be a duration"},
		{"U17", "no lifetime", `{logins: [deploy], ttl: 0s}`, "ttl must be a duration"},
		{"U18", "a lifetime without an end", `{logins: [deploy], ttl: forever}`, "ttl must be a duration"},
		{"U19", "a lifetime of centuries", `{logins: [deploy], ttl: 2562047h}`, "no certificate may live longer than 24h"},
		{"U26", "another type of certificate", `{logins: [deploy], ttl: 1h, type: host}`, `grant has no key "type"`},
		{"U28", "unknown critical options", `{logins: [deploy], ttl: 1h, critical_options: {nobody-knows@example.com: ""}}`, `grant has no key "critical_options"`},
		{"U30", "a forced command as an extension", `{logins: [deploy], ttl: 1h, extensions: [force-command]}`, "sshd ignores it as an extension"},
		{"U31", "source addresses as an extension", `{logins: [deploy], ttl: 1h, extensions: [source-address]}`, "sshd ignores it as an extension"},
		{"U33", "an extension with data", `{logins: [deploy], ttl: 1h, extensions: ["permit-pty=yes"]}`, "no such extension"},
		{"U33c", "an extension twice", `{logins: [deploy], ttl: 1h, extensions: [permit-pty, permit-pty]}`, "comes twice"},
		{"U34b", "a forced command of blanks", `{logins: [deploy], ttl: 1h, force_command: " "}`, "force_command must be one line"},
		{"U41", "a mask of 33 bits", `{logins: [deploy], ttl: 1h, source_address: [127.0.0.1/33]}`, "is neither a network"},
		{"U42", "host bits beyond the mask", `{logins: [deploy], ttl: 1h, source_address: [127.0.0.1/8]}`, "bits set behind the mask"},
		{"U43", "no source address", `{logins: [deploy], ttl: 1h, source_address: []}`, "lists 1 to 64 networks"},
		{"U43b", "an empty source address", `{logins: [deploy], ttl: 1h, source_address: [""]}`, "an entry of source_address is empty"},
		{"U45", "a negated source address", `{logins: [deploy], ttl: 1h, source_address: ["!10.0.0.0/8"]}`, "is neither a network"},
		{"U46", "a pattern of source addresses", `{logins: [deploy], ttl: 1h, source_address: ["127.0.0.*"]}`, "is neither a network"},
		{"U46b", "a host name for a source address", `{logins: [deploy], ttl: 1h, source_address: [localhost]}`, "is neither a network"},
		{"U46c", "two source addresses in one", `{logins: [deploy], ttl: 1h, source_address: ["10.0.0.0/8,127.0.0.0/8"]}`, "is neither a network"},
		{"U50", "one bad source address among good ones", `{logins: [deploy], ttl: 1h, source_address: [127.0.0.0/8, 10.0.0.1/33]}`, "is neither a network"},
		{"U53", "a serial", `{logins: [deploy], ttl: 1h, serial: 0}`, `grant has no key "serial"`},
		{"U55", "a key ID", `{logins: [deploy], ttl: 1h, key_id: "x\ny"}`, `grant has no key "key_id"`},
	} {
		t.Run(row.id+"_"+strings.ReplaceAll(row.name, " ", "_"), func(t *testing.T) {
			text := strings.Replace(good, "{logins: [deploy], ttl: 1h}", row.grant, 1)
			_, err := policy.Compile(bundle(text))
			if err == nil || !strings.Contains(err.Error(), "policy.yaml:8:") || !strings.Contains(err.Error(), row.fragment) {
				t.Errorf("got %v, want a mistake in line 8 that says %q", err, row.fragment)
			}
		})
	}
}

func bundle(text string) *policy.Bundle {
	return &policy.Bundle{Files: map[string][]byte{"policy.yaml": []byte(text)}}
}
