package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/policy"
)

const compared = `version: 1
claims:
  contractor: {type: bool, default: false}
  level: {type: int, optional: true}
limits: {max_ttl: 12h, never_logins: [root], keys: [ed25519, rsa>=3072]}
environments:
  staging: {hosts: ["*.staging"]}
  prod: {hosts: ["*.prod", "*.live"], max_ttl: 2h, authority: prod}
lists: {oncall: [alice@example.com, bob@example.com]}
calendars: {office: {days: mon-fri, hours: 08:00-18:00}}
vars: {dev: '"dev" in identity.groups'}
deny:
- {name: no-contractors, when: environment == "prod" && claims.contractor, message: Employees only.}
allow:
- name: devs
  owner: team
  when: environment == "staging" && "dev" in identity.groups
  grant: {logins: [deploy, readonly], ttl: 2h}
- name: sre
  expires: 2027-06-30
  when: environment == "prod" && ("sre" in identity.groups || token.bound)
  require: {reason: true, login_within: 15m}
  grant: {logins: [deploy], ttl: 1h, scope: host, source_address: [10.0.0.0/8], force_command: /bin/true}
roles: {auditor: '"security" in identity.groups'}
`

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name     string
		old, new string
		want     []string
	}{
		{"the same", "", "", nil},
		{"comments, quotes and layout", `when: environment == "staging" && "dev" in identity.groups`, "when: >- # staging\n    'staging' == environment\n    && ('dev' in identity.groups)", nil},
		{"the order of a condition", `environment == "prod" && ("sre" in identity.groups || token.bound)`, `(token.bound || "sre" in identity.groups) && environment == "prod"`, nil},
		{"the order of rules and keys", "- {name: no-contractors, when: environment == \"prod\" && claims.contractor, message: Employees only.}", "- {message: Employees only., when: environment == \"prod\" && claims.contractor, name: no-contractors}", nil},
		{"more time", "ttl: 2h}", "ttl: 4h}", []string{"allow rule devs: ttl 2h -> 4h (wider)"}},
		{"less time", "max_ttl: 12h", "max_ttl: 6h", []string{"limits: max_ttl 12h -> 6h (narrower)"}},
		{"no ceiling", "max_ttl: 2h, ", "", []string{"environment prod: max_ttl removed 2h (wider)"}},
		{"one more login", "[deploy, readonly]", "[admin, readonly, deploy]", []string{"allow rule devs: logins added admin (wider)"}},
		{"one login for another", "[deploy, readonly]", "[deploy, admin]", []string{"allow rule devs: logins readonly -> admin"}},
		{"a part more in a condition", `&& "dev" in identity.groups`, `&& "dev" in identity.groups && token.bound`, []string{"allow rule devs: when added token.bound (narrower)"}},
		{"a part less in a condition of a deny rule", `environment == "prod" && claims.contractor`, "claims.contractor", []string{
			`deny rule no-contractors: when removed environment == "prod" (narrower)`}},
		{"a part more in a condition of a deny rule", `&& claims.contractor`, "&& claims.contractor && !token.bound", []string{
			"deny rule no-contractors: when added !token.bound (wider)"}},
		{"a way more in a condition", `'"security" in identity.groups'`, `'"security" in identity.groups || "audit" in identity.groups'`, []string{
			`role auditor: when added "audit" in identity.groups (wider)`}},
		{"a side less of a part", `("sre" in identity.groups || token.bound)`, `token.bound`, []string{
			`allow rule sre: when "sre" in identity.groups || token.bound -> token.bound (narrower)`}},
		{"a list with another member", "lists: {oncall: [alice@example.com, bob@example.com]}", "lists: {oncall: [bob@example.com, carol@example.com]}", []string{
			"list oncall: members alice@example.com -> carol@example.com"}},
		{"a list in another order", "lists: {oncall: [alice@example.com, bob@example.com]}", "lists: {oncall: [bob@example.com, alice@example.com]}", nil},
		{"a calendar", "calendars: {office: {days: mon-fri, hours: 08:00-18:00}}", "calendars: {office: {days: mon-sat, hours: 08:00-18:00, zone: Europe/Berlin}}", []string{
			"calendar office: zone UTC -> Europe/Berlin", "calendar office: days added sat"}},
		{"a shared condition", "vars: {dev: '\"dev\" in identity.groups'}", "vars: {dev: '\"dev\" in identity.groups || token.bound'}", []string{
			`var dev: value "dev" in identity.groups -> "dev" in identity.groups || token.bound`}},
		{"another condition", `&& "dev" in identity.groups`, `&& "ops" in identity.groups`, []string{
			`allow rule devs: when "dev" in identity.groups -> "ops" in identity.groups`}},
		{"no reason", "reason: true, ", "", []string{"allow rule sre: require.reason removed true (wider)"}},
		{"an older sign-in", "15m", "1h", []string{"allow rule sre: require.login_within 15m -> 1h (wider)"}},
		{"a later end", "2027-06-30", "2027-12-31", []string{"allow rule sre: expires 2027-06-30 -> 2027-12-31 (wider)"}},
		{"no end", "  expires: 2027-06-30\n", "", []string{"allow rule sre: expires removed 2027-06-30 (wider)"}},
		{"from everywhere", "source_address: [10.0.0.0/8], ", "", []string{"allow rule sre: source_address removed 10.0.0.0/8 (wider)"}},
		{"from elsewhere too", "[10.0.0.0/8]", "[10.0.0.0/8, 192.0.2.0/24]", []string{"allow rule sre: source_address added 192.0.2.0/24 (wider)"}},
		{"any command", ", force_command: /bin/true", "", []string{"allow rule sre: force_command removed /bin/true (wider)"}},
		{"another command", "/bin/true", "/bin/sh", []string{"allow rule sre: force_command /bin/true -> /bin/sh"}},
		{"another scope", "scope: host", "scope: environment", []string{"allow rule sre: scope host -> environment"}},
		{"an owner", "owner: team", "owner: others", []string{"allow rule devs: owner team -> others"}},
		{"hosts", `["*.prod", "*.live"]`, `["*.prod"]`, []string{"environment prod: hosts removed *.live (narrower)"}},
		{"an authority", "authority: prod", "authority: other", []string{"environment prod: authority prod -> other"}},
		{"an environment", "  staging:", "  test: {hosts: [\"*.test\"], authority: test}\n  staging:", []string{"environment test: added (wider)"}},
		{"a login that nobody gets", "[root]", "[root, admin]", []string{"limits: never_logins added admin (narrower)"}},
		{"a type of key", "[ed25519, rsa>=3072]", "[ed25519]", []string{"limits: keys removed rsa>=3072 (narrower)"}},
		{"a claim", "  level: {type: int, optional: true}\n", "", []string{"claim level: removed"}},
		{"the default of a claim", "default: false", "default: true", []string{"claim contractor: default false -> true"}},
		{"the type of a claim", "type: int", "type: string", []string{"claim level: type int -> string"}},
		{"a deny rule goes", "deny:\n- {name: no-contractors, when: environment == \"prod\" && claims.contractor, message: Employees only.}", "deny: []", []string{"deny rule no-contractors: removed (wider)"}},
		{"a name", "name: devs", "name: developers", []string{"allow rule developers: added (wider)", "allow rule devs: removed (narrower)"}},
		{"a role", "roles: {", "roles: {admin: 'true', ", []string{"role admin: added (wider)"}},
		{"trust", "version: 1", "version: 1\nshared_trust: true", []string{"policy: shared_trust added true"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := strings.ReplaceAll(compared, tt.old, tt.new)
			if tt.old != "" && changed == compared && tt.old != tt.new {
				t.Fatal("nothing was replaced")
			}
			var got []string
			for _, c := range diff(t, compared, changed) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func diff(t testing.TB, before, after string) []policy.Changed {
	t.Helper()
	changes, err := policy.Diff(compile(t, before), compile(t, after))
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// Rules may move between files.
func TestDiffDoesNotCountFiles(t *testing.T) {
	const world = "version: 1\ninclude: [teams/*.yaml]\nenvironments: {staging: {hosts: [\"*.staging\"]}}\n"
	const a = "allow: [{name: a, when: token.bound, grant: {logins: [deploy], ttl: 1h}}]\n"
	const b = "deny: [{name: b, when: '!token.bound'}]\n"
	before, err := policy.Compile(bundle("policy.yaml", world, "teams/a.yaml", a, "teams/b.yaml", b))
	if err != nil {
		t.Fatal(err)
	}
	after, err := policy.Compile(bundle("policy.yaml", world+a, "teams/both.yaml", b))
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := policy.Diff(before, after); err != nil || len(changes) > 0 {
		t.Errorf("%v %v", changes, err)
	}
}
