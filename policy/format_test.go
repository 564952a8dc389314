package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/policy"
)

// TestFormat formats the files of testdata/format.txtar.
func TestFormat(t *testing.T) {
	const name = "testdata/format.txtar"
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		before, after := archive.Files[i], &archive.Files[i+1]
		title := strings.TrimSuffix(before.Name, "/before")
		t.Run(title, func(t *testing.T) {
			if strings.Contains(title, "Windows") {
				before.Data = []byte(strings.ReplaceAll(string(before.Data), "\n", "\r\n"))
			}
			got, err := policy.Format("policy.yaml", before.Data)
			if err != nil {
				t.Fatal(err)
			}
			again, err := policy.Format("policy.yaml", got)
			if err != nil || string(again) != string(got) {
				t.Errorf("formatted twice it differs: %v\n%s", err, cmp.Diff(string(got), string(again)))
			}
			if *update {
				after.Data = got
			} else if diff := cmp.Diff(string(after.Data), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFormatRefuses: what cannot be shown to mean the same is left alone.
func TestFormatRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"what is not YAML", "version: [", "not YAML"},
		{"nothing", "", "the file is empty"},
		{"a key twice", "version: 1\nversion: 1\n", "without changing what it means"},
		{"a text with space at the end of its lines", "version: 1\nmessage: |\n  one  \n  two\n", "without changing what it means"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := policy.Format("policy.yaml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestExampleIsFormatted(t *testing.T) {
	text, err := os.ReadFile("example/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.Format("policy.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(got)); diff != "" {
		t.Error(diff)
	}
}

// messy writes the rules of a policy with keys in any order, any indentation, and comments everywhere.
type messy struct {
	t *rapid.T
	b strings.Builder
	n int
}

// pick draws a number.
func (m *messy) pick(most int) int { return rapid.IntRange(0, most).Draw(m.t, "pick") }

// noise writes empty lines and comments.
func (m *messy) noise(indent int) {
	for range m.pick(2) {
		m.n++
		m.b.WriteString(rapid.SampledFrom([]string{"\n", "  \n", fmt.Sprintf("%*s# %d\n", indent, "", m.n)}).Draw(m.t, "noise"))
	}
}

// mapping writes keys with their values, one a line, in any order; the first stands behind a dash that is already written.
func (m *messy) mapping(indent int, dash bool, pairs ...string) {
	for i, pair := range rapid.Permutation(pairs).Draw(m.t, "order") {
		if i > 0 || !dash {
			m.noise(indent)
			fmt.Fprintf(&m.b, "%*s", indent, "")
		}
		m.n++
		key, value, _ := strings.Cut(pair, ": ")
		switch {
		case value != "" && strings.Contains(value, " && ") && m.pick(1) == 0:
			value = strings.Replace(value, " && ", fmt.Sprintf(" &&\n%*s", indent+1+m.pick(4), ""), 1)
			fmt.Fprintf(&m.b, "%s: %s\n", key, value)
		case strings.HasPrefix(value, "[") && m.pick(1) == 0:
			fmt.Fprintf(&m.b, "%s:\n", key)
			in := indent + m.pick(3)
			for _, one := range strings.Split(strings.Trim(value, "[]"), ", ") {
				m.noise(in)
				fmt.Fprintf(&m.b, "%*s- %s\n", in, "", one)
			}
		case m.pick(2) == 0:
			fmt.Fprintf(&m.b, "%s: %s # %d\n", key, value, m.n)
		default:
			fmt.Fprintf(&m.b, "%s: %s\n", key, value)
		}
	}
}

func (m *messy) String() string {
	for _, section := range rapid.Permutation([]string{"version", "environments", "deny", "allow", "claims"}).Draw(m.t, "sections") {
		m.noise(0)
		switch section {
		case "version":
			m.b.WriteString("version: 1\n")
		case "claims":
			m.b.WriteString("claims: {contractor: {type: bool, default: false}, level: {type: int, optional: true}, name: {type: string}}\n")
		case "environments":
			m.b.WriteString("environments:\n")
			indent := 1 + m.pick(3)
			m.mapping(indent, false, `staging: {hosts: ["*.staging"]}`, `prod: {hosts: ["*.prod"], authority: prod}`)
		default:
			fmt.Fprintf(&m.b, "%s:\n", section)
			dash := m.pick(3)
			for i := range 1 + m.pick(2) {
				m.noise(dash)
				gap := 1 + m.pick(2)
				fmt.Fprintf(&m.b, "%*s-%*s", dash, "", gap, "")
				m.rule(section, i, dash+1+gap)
			}
		}
	}
	m.noise(0)
	return m.b.String()
}

func (m *messy) rule(section string, i, indent int) {
	if section == "deny" {
		m.mapping(indent, true, fmt.Sprintf("name: d%d", i), "owner: x", "when: "+conditionText(blockAtoms).Draw(m.t, "deny"))
		return
	}
	m.mapping(indent, true, fmt.Sprintf("name: a%d", i), "owner: x", "when: "+conditionText(blockAtoms).Draw(m.t, "allow"))
	fmt.Fprintf(&m.b, "%*sgrant:\n", indent, "")
	m.mapping(indent+1+m.pick(3), false, "logins: [deploy, readonly]", "ttl: 1h", "extensions: [permit-pty]")
}

// blockAtoms are conditions that YAML takes without quotes.
var blockAtoms = rapid.SampledFrom([]string{`environment == "staging"`, `claims.contractor`, `token.bound`, `request.break_glass`, `claims.level.orValue(0) > 2`})

// TestFormatKeepsEverything: a file formatted twice is as formatted once, no comment is lost, and the policy decides as before.
func TestFormatKeepsEverything(t *testing.T) {
	questions := questions(ed25519Key(t))
	rapid.Check(t, func(t *rapid.T) {
		text := (&messy{t: t}).String()
		once, err := policy.Format("policy.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		twice, err := policy.Format("policy.yaml", once)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("%v\n%s\n%s", err, text, cmp.Diff(string(once), string(twice)))
		}
		if strings.Count(text, "# ") != strings.Count(string(once), "# ") {
			t.Fatalf("comments were lost\n%s\n%s", text, once)
		}
		if rapid.IntRange(0, 9).Draw(t, "compile") > 0 {
			return // compiling is what takes the time
		}
		before, err := policy.Compile(bundle("policy.yaml", text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		after, err := policy.Compile(bundle("policy.yaml", string(once)))
		if err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		q := questions.Draw(t, "question")
		if diff := cmp.Diff(before.Decide(context.Background(), q), after.Decide(context.Background(), q), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Fatalf("%s\n%s\n%s", diff, text, once)
		}
	})
}

// conditionText draws a condition of texts.
func conditionText(atoms *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		out := atoms.Draw(t, "atom")
		for range rapid.IntRange(0, 3).Draw(t, "more") {
			out += rapid.SampledFrom([]string{" && ", " && ", " || "}).Draw(t, "operator") + atoms.Draw(t, "atom")
		}
		return out
	})
}
