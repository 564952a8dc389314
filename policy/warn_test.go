package policy_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/policy"
)

// warnings compiles files and returns what there is to say about them.
func warnings(t testing.TB, files ...string) []policy.Warning {
	t.Helper()
	b := bundle(files...)
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.Warnings(context.Background(), noon, suite(t, p, b))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWarnings(t *testing.T) {
	const header = `version: 1
environments:
  staging: {hosts: ["*.staging"]}
  prod: {hosts: ["*.prod"], authority: prod}
`
	rule := func(rest string) string {
		return header + "allow:\n- name: one\n  owner: a-team\n  when: environment == \"staging\"\n" + rest
	}
	const grant = "  grant: {logins: [deploy], ttl: 1h}\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nothing to say", rule(grant), nil},
		{"a rule without an owner", header + "deny: [{name: x, when: token.bound}]\nallow:\n- name: one\n  when: environment == \"staging\"\n" + grant, []string{
			"policy.yaml:5:8: nobody answers for the rule x: give it an owner [no-owner]",
			"policy.yaml:7:3: nobody answers for the rule one: give it an owner [no-owner]",
		}},
		{"a rule that opens a guarded environment for ever", strings.Replace(rule(grant), `== "staging"`, `== "prod"`, 1), []string{
			"policy.yaml:6:3: the rule one opens prod, and never expires: give it a last day under expires [never-expires]",
		}},
		{"a rule that opens every environment for ever", strings.Replace(rule(grant), `environment == "staging"`, `token.bound`, 1), []string{
			"policy.yaml:6:3: the rule one opens prod, and never expires: give it a last day under expires [never-expires]",
		}},
		{"an environment with a ceiling of its own is guarded", strings.Replace(rule(grant), `["*.staging"]`, `["*.staging"], max_ttl: 1h`, 1), []string{
			"policy.yaml:6:3: the rule one opens staging, and never expires: give it a last day under expires [never-expires]",
		}},
		{"a rule whose last day is today", rule("  expires: 2026-11-23\n" + grant), nil},
		{"a rule whose last day was yesterday", rule("  expires: 2026-11-22\n" + grant), []string{
			"policy.yaml:6:3: the rule one expired on 2026-11-22: remove it [expired]",
		}},
		{"a certificate that opens two environments", "shared_trust: true\n" + strings.Replace(rule(grant), ", authority: prod", "", 1), []string{
			"policy.yaml:10:10: scope any: a certificate from the rule one opens prod, staging alike, since they share the authority default: grant scope environment or host [shared-login]",
		}},
		{"a certificate that is scoped", "shared_trust: true\n" + strings.Replace(rule("  grant: {logins: [deploy], scope: host, ttl: 1h}\n"), ", authority: prod", "", 1), nil},
		{"a command with forwarding", rule("  grant: {logins: [x], ttl: 1h, force_command: /bin/x, extensions: [permit-pty, permit-port-forwarding]}\n"), []string{
			"policy.yaml:9:10: force_command does not restrict permit-port-forwarding, which the rule one grants too [force-command-with-forwarding]",
		}},
		{"a command without forwarding", rule("  grant: {logins: [x], ttl: 1h, force_command: /bin/x}\n"), nil},
		{"the address of the caller", rule("  grant:\n    logins: [x]\n    ttl: 1h\n    source_address: [10.0.0.0/8, \"${request.source_ip}\"]\n"), []string{
			"policy.yaml:12:34: request.source_ip is the address that the CA saw; a jump host or NAT shows another to the server, which then refuses [source-address-from-caller]",
		}},
		{"the address of the caller, by a var", strings.Replace(rule("  grant: {logins: [x], ttl: 1h, source_address: [\"${vars.here}\"]}\n"), "allow:", "vars: {here: request.source_ip}\nallow:", 1), []string{
			"policy.yaml:10:50: request.source_ip is the address that the CA saw; a jump host or NAT shows another to the server, which then refuses [source-address-from-caller]",
		}},
		{"a network that is all there is", rule("  grant: {logins: [x], ttl: 1h, source_address: [0.0.0.0/0]}\n"), []string{
			"policy.yaml:9:50: source_address 0.0.0.0/0 lets the certificate work from everywhere: leave it out, or name a network [source-address-everywhere]",
		}},
		{"one principal for two groups", header + "allow:\n" +
			"- {name: a, owner: x, when: environment == \"staging\" && \"dev\" in identity.groups, grant: {logins: [deploy, web], ttl: 1h}}\n" +
			"- {name: b, owner: x, when: environment == \"staging\" && \"dba\" in identity.groups, grant: {logins: [deploy, db], ttl: 1h}}\n" +
			"- {name: c, owner: x, when: environment == \"staging\" && \"dba\" in identity.groups, grant: {logins: [db], ttl: 1h}}\n" +
			"- {name: d, owner: x, when: environment == \"staging\" && \"sre\" in identity.groups, grant: {logins: [db], scope: host, ttl: 1h}}\n", []string{
			"policy.yaml:7:100: scope any: the principal deploy opens staging to the group dba by this rule and to dev by a, and a server cannot tell them apart: give each a login of its own [shared-principal]",
		}},
		{"one principal for one group on one environment, and another on another", header + "allow:\n" +
			"- {name: a, owner: x, when: environment == \"staging\" && \"dev\" in identity.groups, grant: {logins: [deploy], ttl: 1h}}\n" +
			"- {name: b, owner: x, expires: 2027-01-01, when: environment == \"prod\" && \"sre\" in identity.groups, grant: {logins: [deploy], ttl: 1h}}\n", nil},
		{"what nothing asks for", header + "claims: {a: {type: bool}, b: {type: bool, default: false}, c: {type: string, default: x}}\nlists: {l: [x], m: [y]}\n" +
			"calendars: {k: {days: mon}, n: {days: tue}}\nvars: {v: '\"x\" in lists.l', w: claims.b && calendars.n}\n" +
			"deny: [{name: x, owner: x, when: vars.w}]\nallow: [{name: y, owner: x, when: environment == \"staging\", grant: {logins: [\"${claims.c}\"], ttl: 1h}}]\n", []string{
			"policy.yaml:5:10: nothing asks for claims.a, which is in the log of every decision all the same: remove it [unused-claim]",
			"policy.yaml:6:9: nothing asks for lists.l: remove it [unused-list]",
			"policy.yaml:6:17: nothing asks for lists.m: remove it [unused-list]",
			"policy.yaml:7:13: nothing asks for calendars.k: remove it [unused-calendar]",
			"policy.yaml:8:8: nothing asks for vars.v: remove it [unused-var]",
		}},
		{"what only a role asks for", header + "lists: {admins: [x]}\nroles: {admin: identity.subject in lists.admins}\n", nil},
		{"a warning that is silenced on its line", header + "allow:\n- name: one # hallpass:ignore no-owner it is an example\n  when: environment == \"staging\"\n" + grant, nil},
		{"warnings that are silenced above their line", header + "allow:\n# hallpass:ignore no-owner it is an example\n# of two\n# hallpass:ignore never-expires see above\n- name: one\n  when: environment == \"prod\"\n" + grant, nil},
		{"silence for something else", header + "allow:\n- name: one # hallpass:ignore expired it is an example\n  when: environment == \"staging\"\n" + grant, []string{
			"policy.yaml:6:3: nobody answers for the rule one: give it an owner [no-owner]",
		}},
		{"silence without a reason", header + "allow:\n- name: one # hallpass:ignore no-owner\n  when: environment == \"staging\"\n" + grant, []string{
			"policy.yaml:6:3: nobody answers for the rule one: give it an owner [no-owner]",
			"policy.yaml:6:13: say why: # hallpass:ignore no-owner because ... [bad-ignore]",
		}},
		{"silence for a warning that is none", rule(grant + "# hallpass:ignore no-owners it is an example\n"), []string{
			`policy.yaml:10:1: there is no warning "no-owners"; did you mean no-owner? [bad-ignore]`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, w := range warnings(t, "policy.yaml", tt.text) {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestShadowedRules(t *testing.T) {
	const rules = `version: 1
environments: {staging: {hosts: ["*.staging"]}}
deny: [{name: never, owner: a-team, when: '"sre" in identity.groups'}]
allow: [{name: one, owner: a-team, when: token.bound, grant: {logins: [deploy], ttl: 1h}}]
`
	const header = "defaults: {now: 2026-11-23T12:00:00Z, request: {login: deploy, host: a.staging}}\ncases:\n"
	const shadowed = "- {name: an SRE, identity: {groups: [sre]}, expect: {outcome: deny}}\n"
	const open = "- {name: a developer, expect: {outcome: allow}}\n"
	for _, tt := range []struct {
		name, cases string
		want        int
	}{
		{"a rule that each case shadows", shadowed, 1},
		{"a rule that some case shadows", shadowed + open, 0},
		{"a rule that no case makes true", "- {name: a stranger, token: {bound: false}, expect: {outcome: deny}}\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := warnings(t, "policy.yaml", rules, "a_test.yaml", header+tt.cases)
			if len(got) != tt.want || tt.want > 0 && got[0].Name != "shadowed" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestExampleHasNoWarnings: what people begin with is what we advise.
func TestExampleHasNoWarnings(t *testing.T) {
	text, err := os.ReadFile("example/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := warnings(t, "policy.yaml", string(text)); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
