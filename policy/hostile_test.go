package policy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// withRule is a policy with one allow rule whose condition is given, in one line of YAML.
func withRule(condition string) string {
	return "version: 1\nclaims: {level: {type: int}}\nenvironments: {staging: {hosts: ['*.staging.example.com']}}\n" +
		"allow:\n- name: one\n  when: " + condition + "\n  grant: {logins: [deploy], ttl: 1h}\n"
}

func utf16LE(s string) string {
	var b strings.Builder
	b.WriteString("\xff\xfe")
	for _, u := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(u))
		b.WriteByte(byte(u >> 8))
	}
	return b.String()
}

// within fails the test if f takes longer, or leaves more memory behind, than hostile input may make it.
func within(t *testing.T, limit time.Duration, megabytes uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if took > limit {
		t.Errorf("took %s, may take %s", took, limit)
	}
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > megabytes {
		t.Errorf("took %d MB, may take %d", used, megabytes)
	}
}

// A policy that is wrong or hostile is refused when it is loaded, in bounded time and memory, and says why.
func TestHostilePolicies(t *testing.T) {
	deep := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for _, tt := range []struct {
		name, text, want string
	}{
		{"a syntax error of YAML", "version: 1\nallow: [\n", "not YAML"},
		{"a syntax error of an expression", withRule(`token.bound &&`), "the expression ends too early"},
		{"an unknown field", "version: 1\nalow: []\n", `no key "alow"; did you mean allow?`},
		{"an unknown field deep inside", withRule("'true'") + "  required: {reason: true}\n", `no key "required"; did you mean require?`},
		{"a duplicate rule name", withRule("'true'") + "- {name: one, when: 'true', grant: {logins: [a], ttl: 1h}}\n", "the rule name one is taken"},
		{"a type error", withRule(`request.login == 1`), "cannot apply == to string, int"},
		{"an unknown function", withRule(`exec("/bin/sh")`), "undeclared reference to 'exec'"},
		{"a result that is no bool", withRule(`request.login`), "the expression gives string, and must give bool"},
		{"a cost above the limit", withRule(`identity.groups.exists(a, identity.groups.exists(b, a + b == request.login))`), "more than the 1000000 that are allowed"},
		{"macros within macros within macros", withRule(`"[1].exists(a, [1].exists(b, [1].exists(c, a + b == c)))"`), "nesting limit"},
		{"a map within a filter within a loop", withRule(`"[[1]].exists(a, a.map(c, [c].exists(d, d > 1)).size() > 0)"`), "nesting limit"},
		{"a pattern that is not anchored", withRule(`request.login.matches("deploy")`), "the pattern must be anchored"},
		{"a pattern anchored in one of its branches", withRule(`request.login.matches("^a|b$")`), "the pattern must be anchored"},
		{"a pattern that is anchored per line", withRule(`request.login.matches("(?m)^deploy$")`), "the pattern must be anchored"},
		{"a pattern that is no literal", withRule(`request.login.matches(request.host)`), "must be a literal"},
		{"a pattern that is no literal, by a var", "vars: {p: '\"^a$\"'}\n" + withRule(`request.login.matches(vars.p)`), "must be a literal"},
		{"a pattern that compiles to a machine of a million parts", withRule(`request.login.matches("^(((a{100}){100}){100})$")`), "invalid"},
		{"a pattern with a thousand steps", withRule(`request.login.matches("^a{600}b{600}$")`), "the pattern takes 1204 steps, and 1000 are allowed"},
		{"a pattern with a look-behind, which RE2 does not have", withRule(`request.login.matches("^(?<=a)b$")`), "invalid"},
		{"an alias bomb", "version: 1\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nallow: *b\n", "anchors and aliases are not supported"},
		{"an alias of itself", "version: 1\nallow: &a [*a]\n", "anchors and aliases are not supported"},
		{"a merge key", "version: 1\nlimits: {<<: {max_ttl: 1h}}\n", "a key must be plain text, not a merge key"},
		{"a tag", "version: 1\nlimits: !!map {max_ttl: 1h}\n", "the tag"},
		{"binary text by a tag", "version: 1\nlimits: {never_logins: [!!binary cm9vdA==]}\n", "the tag"},
		{"brackets a million deep", "version: 1\nallow: " + strings.Repeat("[", 1<<20-20), "exceeded max depth"},
		{"braces ten thousand deep", "version: 1\nlimits: " + deep("{a: ", "1", "}", 9_900), "no key"},
		{"dashes ten thousand deep", "version: 1\nallow:\n" + strings.Repeat("- ", 9_000) + "a\n", "must be a mapping"},
		{"an expression of brackets a thousand deep", withRule("'" + deep("(", "true", ")", 1000) + "'"), "recursion limit"},
		{"an expression of lists a hundred deep", withRule("'" + deep("[", "1", "]", 100) + ".size() > 0'"), "recursion limit"},
		{"an expression of a thousand conditions", withRule("'" + strings.Repeat("true ? ", 700) + "true" + strings.Repeat(" : true", 700) + "'"), "exceeds limit"},
		{"an expression that is too long", withRule("'" + strings.Repeat("true && ", 600) + "true'"), "code point size exceeds limit"},
		{"text that grows tenfold, twelve times", withRule("|-\n    \"a\"" + strings.Repeat(`.replace("a", "aaaaaaaaaa")`, 12) + " == request.reason"), "more than the 1000000 that are allowed"},
		{"text of the caller that grows tenfold, twelve times", withRule("|-\n    request.reason" + strings.Repeat(`.replace("a", "aaaaaaaaaa")`, 12) + ` == ""`), "more than the 1000000 that are allowed"},
		{"a number in a hundred thousand digits", withRule("\"'%.100000f'.format([1.0]) == ''\""), "precision"},
		{"a number a billion wide", withRule("\"'%1000000000d'.format([1]) == ''\""), "could not parse formatting clause"},
		{"a list of a billion numbers", withRule(`lists.range(1000000000).size() > 0`), "more than the 1000000 that are allowed"},
		{"a list of as many numbers as a text has letters", withRule(`lists.range(size(request.reason)).size() > 0`), "more than the 1000000 that are allowed"},
		{"a key that comes twice", "version: 1\nlimits: {max_ttl: 1h, max_ttl: 24h}\n", "comes twice"},
		{"a key that comes twice in other quotes", "version: 1\nlimits: {max_ttl: 1h, \"max_ttl\": 24h}\n", "comes twice"},
		{"a key that comes twice by an escape", "version: 1\nlimits: {max_ttl: 1h, \"\\u006dax_ttl\": 24h}\n", "comes twice"},
		{"a section that comes twice", "version: 1\ndeny: []\nallow: []\ndeny: []\n", "comes twice"},
		{"a second document", "version: 1\n---\nallow: []\n", "a second document"},
		{"a mark of another byte order", utf16LE("version: 1\n"), "not UTF-8"},
		{"tabs for indentation", "version: 1\nlimits:\n\tmax_ttl: 1h\n", "not YAML"},
		{"a NUL", "version: 1\nlimits: {max_ttl: 1h}\x00\n", "control characters"},
		{"a NUL by an escape", "version: 1\nlimits: {never_logins: [\"a\\0b\"]}\n", "is not a login"},
		{"bytes that are not UTF-8", "version: 1\nlimits: {never_logins: [\"\xc0\xaf\"]}\n", "not UTF-8"},
		{"half of a surrogate pair", "version: 1\nlimits: {never_logins: [\"\xed\xa0\x80\"]}\n", "not UTF-8"},
		{"letters that look like others", "version: 1\nlimits: {never_logins: [rооt]}\n", "is not a login"}, // Cyrillic
		{"a number beyond 64 bits", "version: 99999999999999999999999999\n", "must be"},
		{"a number in an expression beyond 64 bits", withRule(`request.login.size() < 99999999999999999999999999`), "int"},
		{"a version that is a float", "version: 1.0\n", "must be a whole number"},
		{"a version that is octal", "version: 0o1\n", "must be a decimal whole number"},
		{"a lifetime beyond all bounds", "version: 1\nlimits: {max_ttl: 99999999999999999999h}\n", "must be a duration"},
		{"a lifetime that overflows", "version: 1\nlimits: {max_ttl: 9223372036854775807s}\n", "must be a duration"},
		{"a lifetime above the hard cap", "version: 1\nlimits: {max_ttl: 25h}\n", "no certificate may live longer than 24h"},
		{"a lifetime that is negative", "version: 1\nlimits: {max_ttl: -1h}\n", "must be a duration"},
		{"a lifetime that is infinite", "version: 1\nlimits: {max_ttl: .inf}\n", "must be a duration"},
		{"a login with a comma, which would be two principals", withRule("'true'") + "- {name: two, when: 'true', grant: {logins: ['deploy,root'], ttl: 1h}}\n", "is not a login"},
		{"a login with a line break", withRule("'true'") + "- {name: two, when: 'true', grant: {logins: [\"deploy\\nroot\"], ttl: 1h}}\n", "is not a login"},
		{"a critical option among the extensions", withRule("'true'") + "- {name: two, when: 'true', grant: {logins: [a], ttl: 1h, extensions: [source-address]}}\n", "sshd ignores it as an extension"},
		{"verify_required for keys that are not in hardware", withRule("'true'") + "- {name: two, when: 'true', grant: {logins: [a], ttl: 1h, verify_required: true}}\n", "has an effect on sk keys only"},
		{"a roster that is an alias bomb", "version: 1\nlists: {a: {file: bomb.yaml}}\n", "anchors and aliases are not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bundle("policy.yaml", tt.text, "bomb.yaml", "a: &a [x]\nb: &b [*a,*a]\nmembers: [*b, *b]\n")
			if strings.Contains(tt.text, "bomb.yaml") {
				b.Files["bomb.yaml"] = []byte("- &a [x]\n- [*a, *a]\n")
			}
			var err error
			within(t, 5*time.Second, 500, func() { _, err = policy.Compile(b) })
			all, ok := errors.AsType[policy.Errors](err)
			if !ok || len(all) == 0 {
				t.Fatalf("not refused: %v", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("refused because of %.600v\nwant %s", err, tt.want)
			}
		})
	}
}

// What a caller or the clock makes of a condition when it runs is stopped in bounded time and memory: the rule does not apply, and
// as a deny rule it refuses.
func TestHostileQuestions(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprintf("group-%06d", i)
	}
	groups := func(q *ca.Question) { q.Identity.Groups = many }
	reason := func(q *ca.Question) { q.Request.Reason = long }
	for _, tt := range []struct {
		name, condition string
		change          func(*ca.Question)
		want            string
	}{
		{"a claim that is missing", `claims.level > 2`, nil, "the token has no claim level"},
		{"a division by zero", `1 / size(request.reason) == 1`, nil, "division by zero"},
		{"a remainder of zero", `1 % size(request.reason) == 1`, nil, "modulus by zero"},
		{"a number that overflows", `9223372036854775807 + size(request.login) > 0`, nil, "overflow"},
		{"an entry that is not there", `identity.groups[7] == "x"`, nil, "index out of bounds"},
		{"text that is no network", `cidr(request.login).containsIP("192.0.2.1")`, nil, "CIDR"},
		{"text that is no time", `timestamp(request.login) < now`, nil, ""},
		{"a time zone out of thin air", `now.getHours(request.login) > 0`, nil, "deploy"},
		{"a hundred thousand groups in a loop", `identity.groups.exists(g, g.startsWith("x"))`, groups, ""},
		{"a reason of a megabyte and a pattern", `request.reason.matches("^(a|b|ab)*c$") && request.reason.matches("^(a|b|ab)*d$")`, reason, ""},
		{"text that grows tenfold, twice", `request.reason.replace("a", "aaaaaaaaaa").replace("a", "aaaaaaaaaa").size() == 0`, reason, "costs more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.Compile(bundle("policy.yaml", withRule("|-\n    "+tt.condition)))
			if err != nil {
				t.Fatal(err)
			}
			q := question(t)
			if tt.change != nil {
				tt.change(&q)
			}
			var d ca.Decision
			within(t, 8*time.Second, 1500, func() { d = decide(p, q) })
			if d.Outcome != ca.Deny {
				t.Fatalf("got %v by %q", d.Outcome, d.Rule)
			}
			if tt.want != "" && (len(d.Failed) != 1 || !strings.Contains(d.Failed[0].Message, tt.want)) {
				t.Errorf("failed %+v, want %q", d.Failed, tt.want)
			}
			for _, f := range d.Failed {
				if len(f.Message) > 300 {
					t.Errorf("the failure is told in %d bytes", len(f.Message))
				}
			}
			if tt.condition == `claims.level > 2` || len(d.Failed) == 0 {
				return // which a deny rule may not ask
			}
			refuses, err := policy.Compile(bundle("policy.yaml", withRule("'true'")+"deny:\n- name: no\n  when: |-\n    "+tt.condition+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if d := decide(refuses, q); d.Outcome != ca.Deny || d.Rule != "no" || !strings.Contains(d.Message, "could not be evaluated") {
				t.Errorf("as a deny rule: %v by %q: %s", d.Outcome, d.Rule, d.Message)
			}
		})
	}
}

// A decision that has no time left is a no.
func TestDecisionsThatRunOutOfTime(t *testing.T) {
	p := compile(t, withRule("'true'"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := p.Decide(ctx, question(t))
	if d.Outcome != ca.Deny || len(d.Failed) != 1 || !strings.Contains(d.Failed[0].Message, "no answer within") {
		t.Errorf("got %v, failed %+v", d.Outcome, d.Failed)
	}
}

// A policy without rules is a policy: it denies.
func TestAPolicyWithoutRules(t *testing.T) {
	p := compile(t, "version: 1\nenvironments: {staging: {hosts: ['*.staging.example.com']}}\nallow: []\n")
	if d := decide(p, question(t)); d.Outcome != ca.Deny || d.Message == "" {
		t.Errorf("got %v: %q", d.Outcome, d.Message)
	}
}

// A file of a hundred megabytes is refused before it is read, by rules or by a list.
func TestFilesOfAHundredMegabytes(t *testing.T) {
	for _, name := range []string{"policy.yaml", "rosters/oncall.yaml"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "rosters"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"policy.yaml", "rosters/oncall.yaml"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte("version: 1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(filepath.Join(dir, name), 100<<20); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second, 10, func() {
			if _, err := policy.ReadDir(dir, false); err == nil || !strings.Contains(err.Error(), "a policy file may have 1048576") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// What other programs leave in files, and means nothing, is taken.
func TestHarmlessOddities(t *testing.T) {
	plain := compile(t, withRule(`'request.login == "deploy"'`))
	for _, tt := range []struct{ name, text string }{
		{"a mark of the byte order of UTF-8", "\ufeff" + withRule(`'request.login == "deploy"'`)},
		{"line ends of Windows", strings.ReplaceAll(withRule(`'request.login == "deploy"'`), "\n", "\r\n")},
		{"no line end at the end", strings.TrimSuffix(withRule(`'request.login == "deploy"'`), "\n")},
		{"a mark of the document's begin and end", "---\n" + withRule(`'request.login == "deploy"'`) + "...\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, tt.text)
			if got, want := decide(p, question(t)), decide(plain, question(t)); got.Outcome != want.Outcome || got.Rule != want.Rule {
				t.Errorf("got %v by %q, want %v by %q", got.Outcome, got.Rule, want.Outcome, want.Rule)
			}
		})
	}
}

// Patterns that count are common; CEL's own limit on patterns ends the program on them.
func TestPatternsThatCount(t *testing.T) {
	p := compile(t, withRule(`'request.login.matches("^[a-z]{3,8}$") && request.host.matches("^(?:[a-z0-9]{1,20}[.]){3}com$")'`))
	if d := decide(p, question(t)); d.Outcome != ca.Allow {
		t.Errorf("got %v: %s", d.Outcome, d.Message)
	}
	q := question(t)
	q.Request.Login = "de"
	if d := decide(p, q); d.Outcome != ca.Deny || len(d.Failed) > 0 {
		t.Errorf("a login that is too short: %v, failed %+v", d.Outcome, d.Failed)
	}
}

// Vars of which each doubles the one before outgrow no bound, as texts or as lists.
func TestVarsThatDouble(t *testing.T) {
	for _, first := range []string{"request.login", "identity.groups"} {
		var b strings.Builder
		b.WriteString("vars:\n  v0: " + first + "\n")
		for i := 1; i < 100; i++ {
			fmt.Fprintf(&b, "  v%d: vars.v%d + vars.v%d\n", i, i-1, i-1)
		}
		p := compile(t, b.String()+withRule(`vars.v99.size() > 0`))
		var d ca.Decision
		within(t, 2*time.Second, 200, func() { d = decide(p, question(t)) })
		if d.Outcome != ca.Deny || len(d.Failed) != 1 || !strings.Contains(d.Failed[0].Message, " has more than ") {
			t.Errorf("of %s: %v, failed %+v", first, d.Outcome, d.Failed)
		}
	}
}
