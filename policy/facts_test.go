package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

const facts = `
version: 1
claims: {level: {type: int}, team: {type: string, default: none}}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
lists:
  dbas: [bob@example.com, alice@example.com]
  nobody: []
  pager: {url: "https://pager.example.com/oncall", max_age: 15m, field: users, member: email}
calendars:
  office: {zone: Europe/Berlin, days: [mon-fri], hours: ["08:00-18:00"]}
vars:
  who: identity.email.orValue("")
  on_call: vars.who in lists.pager
  dba: vars.who in lists.dbas
  fails: claims.level > 2
  developers: '"developers" in identity.groups'
  here: environment == "staging" && vars.developers
`

// holding says what a condition in an allow rule comes to.
func holding(t *testing.T, condition string, change ...func(*ca.Question)) ca.Decision {
	t.Helper()
	q := question(t)
	for _, c := range change {
		c(&q)
	}
	return decide(compile(t, facts+"allow:\n- name: rule\n  when: "+condition+"\n  grant: {logins: [deploy], ttl: 1h}\n"), q)
}

// pagerList brings the list "pager", fetched so long ago.
func pagerList(age time.Duration, members ...string) func(*ca.Question) {
	return func(q *ca.Question) {
		q.Lists = []ca.FetchedList{{Name: "pager", Fetched: q.Now.Add(-age), Members: members}}
	}
}

func TestFactsOfTheWorld(t *testing.T) {
	at := func(s string) func(*ca.Question) {
		return func(q *ca.Question) {
			var err error
			if q.Now, err = time.Parse(time.RFC3339, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	none := func(*ca.Question) {}
	for _, tt := range []struct {
		name      string
		condition string
		change    func(*ca.Question)
		want      ca.Outcome
		failed    string
	}{
		{"a member of a list", `identity.email.orValue("") in lists.dbas`, none, ca.Allow, ""},
		{"a member of a list, by a var of a var", `vars.dba`, none, ca.Allow, ""},
		{"somebody else", `vars.dba`, func(q *ca.Question) { q.Identity.Email = "mallory@example.com" }, ca.Deny, ""},
		{"somebody without an email", `vars.dba`, func(q *ca.Question) { q.Identity.Email = "" }, ca.Deny, ""},
		{"a list of nobody", `vars.who in lists.nobody`, none, ca.Deny, ""},
		{"a loop over a list", `lists.dbas.exists(m, m.startsWith("alice@"))`, none, ca.Allow, ""},
		{"the size of a list", `lists.dbas.size() == 2 && size(lists.nobody) == 0`, none, ca.Allow, ""},
		{"two lists together", `vars.who in lists.nobody + lists.dbas`, none, ca.Allow, ""},
		{"functions on sets", `sets.intersects(lists.dbas, [vars.who]) && lists.dbas == ["alice@example.com", "bob@example.com"]`, none, ca.Allow, ""},
		{"functions named lists", `lists.range(3).exists(i, i == 2)`, none, ca.Allow, ""},
		{"a fetched list", `vars.on_call`, pagerList(0, "alice@example.com"), ca.Allow, ""},
		{"a fetched list as old as allowed", `vars.on_call`, pagerList(15*time.Minute, "alice@example.com"), ca.Allow, ""},
		{"a fetched list without the caller", `vars.on_call`, pagerList(0, "bob@example.com"), ca.Deny, ""},
		{"a fetched list that is too old", `vars.on_call`, pagerList(2*time.Hour, "alice@example.com"), ca.Deny,
			"vars.on_call: the list pager is 2h old, at most 15m is allowed"},
		{"a fetched list that is a little too old", `vars.who in lists.pager`, pagerList(15*time.Minute+time.Nanosecond, "alice@example.com"), ca.Deny,
			"the list pager is 15m old, at most 15m is allowed"},
		{"a list that was never fetched", `vars.on_call`, none, ca.Deny, "vars.on_call: the list pager has not been fetched yet"},
		{"a list fetched tomorrow", `vars.on_call`, pagerList(-24*time.Hour, "alice@example.com"), ca.Deny, "a clock is wrong"},
		{"a list that is not at hand and does not matter", `environment == "staging" || vars.on_call`, none, ca.Allow, ""},
		{"a var that fails", `vars.fails`, none, ca.Deny, "vars.fails: the token has no claim level"},
		{"a var that fails, twice", `vars.fails || vars.fails`, none, ca.Deny, "vars.fails: the token has no claim level"},
		{"a var that fails and does not matter", `vars.fails || vars.dba`, none, ca.Allow, ""},
		{"a var in a login's condition", `vars.here && request.login == "deploy"`, none, ca.Allow, ""},
		{"office hours", `calendars.office`, at("2026-11-23T12:00:00Z"), ca.Allow, ""},
		{"the first minute of office hours", `calendars.office`, at("2026-11-23T07:00:00Z"), ca.Allow, ""},
		{"the minute before office hours", `calendars.office`, at("2026-11-23T06:59:59Z"), ca.Deny, ""},
		{"the last second of office hours", `calendars.office`, at("2026-11-23T16:59:59Z"), ca.Allow, ""},
		{"the end of office hours", `calendars.office`, at("2026-11-23T17:00:00Z"), ca.Deny, ""},
		{"the weekend", `calendars.office`, at("2026-11-22T12:00:00Z"), ca.Deny, ""},
		{"office hours in summer begin earlier in UTC", `calendars.office`, at("2026-07-01T06:00:00Z"), ca.Allow, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := holding(t, "'"+tt.condition+"'", tt.change)
			if d.Outcome != tt.want {
				t.Errorf("got %v: %s", d.Outcome, d.Message)
			}
			if (len(d.Failed) > 0) != (tt.failed != "") || len(d.Failed) > 0 && !strings.Contains(d.Failed[0].Message, tt.failed) {
				t.Errorf("failed: %+v, want %q", d.Failed, tt.failed)
			}
		})
	}
}

func TestDenyRulesOnAListThatIsTooOldRefuse(t *testing.T) {
	p := compile(t, facts+`
deny:
- name: suspended
  when: vars.who in lists.pager
allow:
- name: all
  when: environment == "staging"
  grant: {logins: [deploy], ttl: 1h}
`)
	q := question(t)
	pagerList(0)(&q)
	if d := decide(p, q); d.Outcome != ca.Allow {
		t.Errorf("a fresh list: %s", d.Message)
	}
	pagerList(time.Hour)(&q)
	d := decide(p, q)
	if d.Outcome != ca.Deny || d.Rule != "suspended" || !strings.Contains(d.Message, "the list pager is 1h old, at most 15m is allowed") {
		t.Errorf("an old list: %v by %q: %s", d.Outcome, d.Rule, d.Message)
	}
}

// The index sees through vars: a rule that is for another environment or group is not asked, and decides the same.
func TestTheIndexSeesThroughVars(t *testing.T) {
	p := compile(t, facts+`
allow:
- name: here
  when: vars.here && vars.fails
  grant: {logins: [deploy], ttl: 1h}
`)
	q := question(t)
	if d := decide(p, q); len(d.Failed) != 1 {
		t.Errorf("a developer on staging: %+v", d.Failed)
	}
	q.Identity.Groups = []string{"sre"}
	if d := decide(p, q); len(d.Failed) != 0 {
		t.Errorf("somebody else: %+v", d.Failed)
	}
	if d := p.DecideWithoutIndex(t.Context(), q); len(d.Failed) != 0 || d.Outcome != ca.Deny {
		t.Errorf("without the index: %+v", d)
	}
}

// A restriction that has an effect on sk keys only needs a rule for such keys, also by a var; and scope any a rule for one environment.
func TestGrantsSeeThroughVars(t *testing.T) {
	compile(t, `
version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
  other: {hosts: ["*.other.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
vars:
  token: request.key_type in ["sk-ed25519", "sk-ecdsa"]
  safe: environment == "prod" && vars.token
allow:
- name: all
  when: vars.safe
  grant: {logins: [deploy], ttl: 1h, verify_required: true}
`)
}

func TestRolesOnLists(t *testing.T) {
	p := compile(t, facts+"roles: {admin: vars.dba, auditor: calendars.office}\n")
	q := question(t)
	for _, role := range []string{"admin", "auditor"} {
		if yes, err := p.Role(t.Context(), role, q); !yes || err != nil {
			t.Errorf("%s: %v, %v", role, yes, err)
		}
	}
	q.Identity.Email, q.Now = "mallory@example.com", time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, role := range []string{"admin", "auditor"} {
		if yes, err := p.Role(t.Context(), role, q); yes || err != nil {
			t.Errorf("%s of another on Sunday: %v, %v", role, yes, err)
		}
	}
}

func TestExplanationsNameVarsAndWhatIsBehind(t *testing.T) {
	p := compile(t, facts+`
allow:
- name: on-call
  when: vars.here && vars.on_call && calendars.office
  grant: {logins: [deploy], ttl: 1h}
`)
	q := question(t)
	q.Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	pagerList(time.Minute, "bob@example.com")(&q)
	text := p.Explain(context.Background(), q).Text(160)
	for _, want := range []string{
		"true    vars.here", `environment = "staging"`, `identity.groups = ["developers"]`,
		"false   vars.on_call    vars.on_call = false", `identity.email = "alice@example.com"`, `lists.pager = ["bob@example.com"]`,
		"false   calendars.office    calendars.office = false", "now in Europe/Berlin = Sun 2026-11-22 13:00:00",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the explanation lacks %q:\n%s", want, text)
		}
	}
	q.Lists = nil
	if text := p.Explain(context.Background(), q).Text(160); !strings.Contains(text, "failed  vars.on_call") ||
		!strings.Contains(text, "the list pager has not been fetched yet") {
		t.Errorf("without the list:\n%s", text)
	}
}

func TestFilesOfListsArePartOfThePolicy(t *testing.T) {
	files := []string{
		"policy.yaml", "version: 1\nenvironments: {staging: {hosts: ['*.staging.example.com']}}\n" +
			"lists: {oncall: {file: rosters/oncall.yaml}, leads: {file: rosters/teams.yaml, field: db.people, member: email}}\n" +
			"allow:\n- name: a\n  when: identity.email.orValue('') in lists.oncall && 'bob@example.com' in lists.leads\n  grant: {logins: [deploy], ttl: 1h}\n",
		"rosters/oncall.yaml", `["alice@example.com"]`,
		"rosters/teams.yaml", "db: {people: [{email: bob@example.com, phone: 1}]}\n",
	}
	first, err := policy.Compile(bundle(files...))
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(first, question(t)); d.Outcome != ca.Allow {
		t.Errorf("alice: %s", d.Message)
	}
	if n := len(first.Blobs()); n != 4 {
		t.Errorf("%d blobs, want the manifest and three files", n)
	}
	files[3] = `["carol@example.com"]`
	second, err := policy.Compile(bundle(files...))
	if err != nil {
		t.Fatal(err)
	}
	if first.Ref() == second.Ref() {
		t.Error("another roster is the same policy")
	}
	if d := decide(second, question(t)); d.Outcome != ca.Deny {
		t.Error("alice is no longer on the roster, and gets in")
	}
	blobs := map[string][]byte{}
	for _, b := range first.Blobs() {
		blobs[sha256Hex(b)] = b
	}
	back, err := policy.ReadManifest(first.Ref(), func(d [32]byte) ([]byte, error) { return blobs[hexOf(d[:])], nil })
	if err != nil {
		t.Fatal(err)
	}
	again, err := policy.Compile(back)
	if err != nil || again.Ref() != first.Ref() {
		t.Errorf("compiled again from its blobs: %v", err)
	}
}

func TestMembersOfAnAnswer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fetch  policy.Fetch
		answer string
		want   []string
		err    string
	}{
		{"a list of texts", policy.Fetch{}, `["b", "a", "b"]`, []string{"a", "b"}, ""},
		{"a list of nobody", policy.Fetch{}, `[]`, []string{}, ""},
		{"a list inside", policy.Fetch{Field: "data.users", Member: "email"}, `{"data":{"users":[{"email":"a","x":1}]},"more":true}`, []string{"a"}, ""},
		{"no JSON", policy.Fetch{}, `<html>`, nil, "not JSON"},
		{"an empty answer", policy.Fetch{}, ``, nil, "not JSON"},
		{"half an answer", policy.Fetch{}, `["a",`, nil, "not JSON"},
		{"two answers", policy.Fetch{}, `["a"]["b"]`, nil, "more than one"},
		{"an error with the status of success", policy.Fetch{Field: "users"}, `{"error":"no"}`, nil, "no field users"},
		{"a field that is no list", policy.Fetch{Field: "users"}, `{"users":{}}`, nil, "the field users is no list"},
		{"null for the list", policy.Fetch{Field: "users"}, `{"users":null}`, nil, "the field users is no list"},
		{"no list at all", policy.Fetch{}, `{"users":[]}`, nil, "it is no list"},
		{"a number", policy.Fetch{}, `["a", 1]`, nil, "entry 2 is no text"},
		{"an object where a text is wanted", policy.Fetch{}, `[{"email":"a"}]`, nil, "entry 1 is no text"},
		{"an entry without the member", policy.Fetch{Member: "email"}, `[{"email":"a"},{"mail":"b"}]`, nil, "entry 2 has no field email"},
		{"an entry that is no object", policy.Fetch{Member: "email"}, `["a"]`, nil, "entry 1 is no object"},
		{"an empty member", policy.Fetch{}, `[""]`, nil, "entry 1 is empty"},
		{"a member with a newline", policy.Fetch{}, `["a\nb"]`, nil, "cannot be printed"},
		{"a member with a NUL", policy.Fetch{}, `["a\u0000"]`, nil, "cannot be printed"},
		{"a member with space around", policy.Fetch{}, `["a "]`, nil, "ends with a space"},
		{"a member that is too long", policy.Fetch{}, `["` + strings.Repeat("a", 257) + `"]`, nil, "more than 256 bytes"},
		{"too many members", policy.Fetch{}, `["a"` + strings.Repeat(`,"a"`, 10_000) + `]`, nil, "more than 10000"},
		{"bytes that are no text", policy.Fetch{}, "[\"a\xff\"]", nil, "not UTF-8"},
		{"deep nesting", policy.Fetch{}, strings.Repeat("[", 100_000), nil, "not JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.fetch.Members([]byte(tt.answer))
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each of vars is evaluated once in a decision, and a chain in which each asks twice for the one before stays as cheap as it is long.
func TestVarsDoNotMultiply(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nenvironments: {staging: {hosts: ['*.staging.example.com']}}\nvars:\n  v0: request.login == 'deploy'\n")
	for i := 1; i < 200; i++ {
		fmt.Fprintf(&b, "  v%d: vars.v%d && vars.v%d\n", i, i-1, i-1)
	}
	b.WriteString("allow:\n- name: a\n  when: vars.v199\n  grant: {logins: [deploy], ttl: 1h}\n")
	start := time.Now()
	p := compile(t, b.String())
	if d := decide(p, question(t)); d.Outcome != ca.Allow {
		t.Errorf("%+v", d)
	}
	if x := p.Explain(t.Context(), question(t)); x.Outcome != "allow" {
		t.Errorf("explained as %s", x.Outcome)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestFetchesAreNamed(t *testing.T) {
	want := []policy.Fetch{{Name: "pager", URL: "https://pager.example.com/oncall", MaxAge: 15 * time.Minute, Field: "users", Member: "email"}}
	if diff := cmp.Diff(want, compile(t, facts).Fetches()); diff != "" {
		t.Error(diff)
	}
}

// A list of ten thousand is searched, not walked.
func TestLongLists(t *testing.T) {
	members := make([]string, 10_000)
	for i := range members {
		members[i] = fmt.Sprintf("user%05d@example.com", i)
	}
	slices.Sort(members)
	q := question(t)
	q.Identity.Email = members[9_999]
	pagerList(0, members...)(&q)
	if d := decide(compile(t, facts+"allow:\n- name: rule\n  when: vars.on_call\n  grant: {logins: [deploy], ttl: 1h}\n"), q); d.Outcome != ca.Allow {
		t.Errorf("%+v", d)
	}
}
