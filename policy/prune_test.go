package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/policy"
)

const pruned = `# The policy of a company.
version: 1
include: [teams/*.yaml]
environments:
  prod: {hosts: ["*.prod.example.com"]}

allow:
# Who looks at it.
- name: first
  when: environment == "prod"
  grant: {logins: [deploy, 'readonly', "audit"], ttl: 1h} # three

# A heading of the next two.

# The database team,
# until the new tool is there.
- name: second
  when: environment == "prod"
  grant:
    logins:
    - deploy # everybody
    # Only for reading.
    - readonly
    ttl: 1h
  # The end of the second.
# Right above the third.
- {name: third, when: environment == "prod", grant: {logins: [deploy], ttl: 1h}}

# Below all of them.

roles: # who may
  auditor: "true"
`

const prunedTeam = `allow:
  - name: team
    when: environment == "prod"
    grant:
      logins: [dba]
      ttl: 1h
`

func TestPrune(t *testing.T) {
	flow := "allow: [{name: flow, when: environment == \"prod\", grant: {logins: [x, y], ttl: 1h}}]\n"
	for _, tt := range []struct {
		name string
		team string
		what policy.Pruning
		want func() string // of policy.yaml
		file string        // that changes, if it is another
		left []string
	}{
		{"a rule with the comment right above it", prunedTeam, policy.Pruning{Rules: []string{"third"}}, func() string {
			return cutText(pruned, "# Right above the third.\n", "\n# Below all of them.")
		}, "", nil},
		{"a rule in the middle, and no heading of others", prunedTeam, policy.Pruning{Rules: []string{"second"}}, func() string {
			return cutText(pruned, "# The database team,\n", "# Right above the third.\n")
		}, "", nil},
		{"the first rule", prunedTeam, policy.Pruning{Rules: []string{"first"}}, func() string {
			return cutText(pruned, "# Who looks at it.\n", "\n# A heading")
		}, "", nil},
		{"logins of one line", prunedTeam, policy.Pruning{Logins: map[string][]string{"first": {"readonly"}}}, func() string {
			return strings.Replace(pruned, "[deploy, 'readonly', \"audit\"]", "[deploy, \"audit\"]", 1)
		}, "", nil},
		{"several logins of one line", prunedTeam, policy.Pruning{Logins: map[string][]string{"first": {"deploy", "audit"}}}, func() string {
			return strings.Replace(pruned, "[deploy, 'readonly', \"audit\"]", "['readonly']", 1)
		}, "", nil},
		{"a login with a line of its own", prunedTeam, policy.Pruning{Logins: map[string][]string{"second": {"readonly"}}}, func() string {
			return strings.Replace(pruned, "    - readonly\n", "", 1)
		}, "", nil},
		{"all rules of a file", prunedTeam, policy.Pruning{Rules: []string{"team"}}, func() string { return "allow: []\n" }, "teams/a.yaml", nil},
		{"a file with the line ends of another system", strings.ReplaceAll(prunedTeam, "\n", "\r\n"), policy.Pruning{Rules: []string{"team"}}, func() string { return "allow: []\r\n" }, "teams/a.yaml", nil},
		{"what is in brackets is left", flow, policy.Pruning{Rules: []string{"flow"}}, nil, "", []string{"the rule flow"}},
		{"but a login in brackets goes", flow, policy.Pruning{Logins: map[string][]string{"flow": {"x"}}}, func() string { return strings.Replace(flow, "x, y", "y", 1) }, "teams/a.yaml", nil},
		{"nothing", prunedTeam, policy.Pruning{}, nil, "", nil},
		{"a rule that there is not", prunedTeam, policy.Pruning{Rules: []string{"zeroth"}}, nil, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bundle("policy.yaml", pruned, "teams/a.yaml", tt.team)
			p, err := policy.Compile(b)
			if err != nil {
				t.Fatal(err)
			}
			edits, left, err := p.Prune(b, tt.what)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			if tt.want == nil {
				if len(edits) > 0 {
					t.Errorf("%d files change:\n%s", len(edits), edits[0].Result())
				}
				return
			}
			file := tt.file
			if file == "" {
				file = "policy.yaml"
			}
			if len(edits) != 1 || edits[0].File != file {
				t.Fatalf("%d files change, want %s", len(edits), file)
			}
			if diff := cmp.Diff(tt.want(), string(edits[0].Result())); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// cutText removes what is from one text on and before another.
func cutText(text, from, before string) string {
	i := strings.Index(text, from)
	return text[:i] + text[i+strings.Index(text[i:], before):]
}

func TestAllowRules(t *testing.T) {
	p, err := policy.Compile(bundle("policy.yaml", pruned, "teams/a.yaml", strings.Replace(prunedTeam, "[dba]", "[dba, \"${identity.subject}\"]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := p.AllowRules()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules {
		got = append(got, r.Name+" "+strings.Join(r.Logins, ","))
	}
	want := []string{"first deploy,readonly,audit", "second deploy,readonly", "third deploy", "team dba"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
