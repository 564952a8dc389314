package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
)

const claimed = `
version: 1
claims:
  flag:  {type: bool, default: false}
  level: {type: int, optional: true}
  name:  {type: string}
  teams: {type: strings, default: [none]}
`

func TestDeclare(t *testing.T) {
	for _, tt := range []struct {
		name   string
		claims string
		want   map[string]any
		err    string
	}{
		{"all claims", `{"flag":true,"level":3,"name":"al","teams":["a","b"],"other":1}`,
			map[string]any{"flag": true, "level": int64(3), "name": "al", "teams": []string{"a", "b"}}, ""},
		{"none: what the token lacks is absent", `{}`, map[string]any{}, ""},
		{"an empty list", `{"teams":[]}`, map[string]any{"teams": []string{}}, ""},
		{"the largest int", `{"level":9223372036854775807}`, map[string]any{"level": int64(9223372036854775807)}, ""},
		{"an int that does not fit", `{"level":9223372036854775808}`, nil, "the claim level of your token is a number that is no int of 64 bits, and the policy declares it as int"},
		{"a fraction", `{"level":3.0}`, nil, "the claim level"},
		{"a number as a string", `{"level":"3"}`, nil, "the claim level of your token is a string, and the policy declares it as int"},
		{"a bool as a string", `{"flag":"true"}`, nil, "the claim flag of your token is a string"},
		{"a bool as a number", `{"flag":1}`, nil, "the claim flag of your token is an int"},
		{"null", `{"flag":null}`, nil, "the claim flag of your token is null"},
		{"one string where a list is declared", `{"teams":"admin"}`, nil, "the claim teams of your token is a string, and the policy declares it as strings"},
		{"a list of anything", `{"teams":["a",1]}`, nil, "the claim teams of your token is a list that holds more than strings"},
		{"a list where a string is declared", `{"name":["a"]}`, nil, "the claim name of your token is a list of strings"},
		{"an object", `{"name":{"a":1}}`, nil, "the claim name of your token is an object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := json.NewDecoder(strings.NewReader(tt.claims))
			d.UseNumber()
			caller := ca.Caller{Identity: question(t).Identity}
			if err := d.Decode(&caller.Claims); err != nil {
				t.Fatal(err)
			}
			got, err := compile(t, claimed).Declare(caller)
			if tt.err != "" {
				if ca.KindOf(err) != ca.Denied || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want a Denied with %q", err, tt.err)
				}
				if got.Subject != "" {
					t.Errorf("a refused caller got an identity: %+v", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.Claims); diff != "" {
				t.Error(diff)
			}
		})
	}
}
