package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/policy"
)

// A rule is shown as it is written: its lines, the comments right above it and inside, nothing of its neighbours.
func TestRuleSource(t *testing.T) {
	const main = `version: 1
include: [more.yaml]
environments: {staging: {hosts: ["*.staging"]}}
# What is forbidden.
deny: [ # in brackets
  {name: flow, when: "false"}, {name: flow-too, when: 'request.host ==
    "x"'},
  # The last.
  {name: last,
   when: "false"
  },
]
`
	const more = `allow:
# First comment.
#  Second comment.
- name: first   # at its name
  # inside
  when: |
    environment == "staging" &&

    "a" in identity.groups

  grant:
    logins: [
      deploy
    ]
    ttl: 2h
    # at its end

# About nobody.

-
  grant: {logins: [deploy], ttl: 1h}
  when: "true"
  name: second
- when: "true"
  name: third
  grant: {ttl: 1h, logins: [deploy]}
`
	p, err := policy.Compile(bundle("policy.yaml", main, "more.yaml", more))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file  string
		first, last int // lines
	}{
		{"flow", "policy.yaml", 6, 6},
		{"flow-too", "policy.yaml", 6, 7},
		{"last", "policy.yaml", 8, 11},
		{"first", "more.yaml", 2, 16},
		{"second", "more.yaml", 20, 23},
		{"third", "more.yaml", 24, 26},
	} {
		text := map[string]string{"policy.yaml": main, "more.yaml": more}[tt.file]
		want := policy.RuleSource{
			File: tt.file, Line: tt.first, Text: strings.Join(strings.SplitAfter(text, "\n")[tt.first-1:tt.last], ""),
		}
		got, ok := p.RuleSource(tt.name)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s:\n%s", tt.name, diff)
		}
	}
	if got, ok := p.RuleSource("none"); ok {
		t.Errorf("a rule that is not there: %v", got)
	}
}
