package cli_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/fixture/history"
	"github.com/hallpass-ssh/hallpass/policy"
)

const replayed = `version: 1
claims: {contractor: {type: bool, default: false}}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
deny:
- {name: no-contractors, when: environment == "prod" && claims.contractor}
allow:
- {name: developers, when: environment == "staging" && "developers" in identity.groups, grant: {logins: [deploy], ttl: 2h}}
- {name: sre, when: environment == "prod" && "sre" in identity.groups, grant: {logins: [deploy], ttl: 1h}}
`

// replayDir holds a copy of a log, and policies: same, changed, claim, broken.
func replayDir(t *testing.T) string {
	t.Helper()
	l := history.New(t)
	l.Load(&policy.Bundle{Source: "the test", Files: map[string][]byte{"policy.yaml": []byte(replayed)}})
	const staging, prod = "app1.staging.example.com", "db1.prod.example.com"
	for _, asked := range []history.Asked{
		{Subject: "u-1", Email: "alice@example.com", Groups: []string{"developers"}, Host: staging},
		{Subject: "u-1", Email: "alice@example.com", Groups: []string{"developers"}, Host: staging},
		{Subject: "u-2", Email: "bob@example.com", Groups: []string{"sre"}, Host: prod},
		{Subject: "u-3", Email: "c|<b>@example.com", Groups: []string{"sre"}, Host: prod, Claims: map[string]any{"contractor": true}},
		{Subject: "u-4", Email: "dave@example.com", Host: staging},
	} {
		_, _ = l.Ask(asked)
		l.Wait(24 * time.Hour)
	}
	l.Close()
	dir := t.TempDir()
	copyFile(t, l.Path, filepath.Join(dir, "copy.db"))
	changed := strings.NewReplacer("ttl: 2h", "ttl: 4h", "deny:\n", "deny: []\n", `- {name: no-contractors, when: environment == "prod" && claims.contractor}`, "", `"sre" in identity.groups`, `"sre" in identity.groups && claims.contractor`).Replace(replayed)
	for name, text := range map[string]string{
		"key": l.Key + "\n", "same.txtar": "-- policy.yaml --\n" + replayed, "changed/policy.yaml": changed,
		"claim/policy.yaml":  strings.Replace(replayed, "default: false}", "default: false}, level: {type: int, optional: true}", 1),
		"broken/policy.yaml": "version: 2\n", "text.db": "no log",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// hallpass runs the tool in dir.
func hallpass(t *testing.T, dir string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	cmd := exec.Command("hallpass", args...)
	cmd.Dir = dir
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if code, ok := errors.AsType[*exec.ExitError](err); ok {
		exit = code.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exit
}

func TestPolicyReplayShows(t *testing.T) {
	dir := replayDir(t)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"text", []string{"changed"}, `5 decisions from 2026-11-01 08:00 to 2026-11-05 08:00: 4 would change. 1 gain access, 1 lose access, 2 get another grant.

gain access
  1 decision on prod: refused by no-contractors -> allowed by sre
      c|<b>@example.com; record 7

lose access
  1 decision on prod: allowed by sre -> refused, no rule
      bob@example.com; record 6

get another grant
  2 decisions on staging: developers: ttl 2h -> 4h
      alice@example.com (2); record 4
`},
		{"markdown", []string{"changed", "--markdown"}, `### Policy replay

5 decisions from 2026-11-01 08:00 to 2026-11-05 08:00: 4 would change. 1 gain access, 1 lose access, 2 get another grant.

**1 gain access**

| decisions | environment | change | who | record |
|---:|---|---|---|---:|
| 1 | prod | refused by no-contractors -\> allowed by sre | c\|\<b\>&#64;example.com | 7 |

**1 lose access**

| decisions | environment | change | who | record |
|---:|---|---|---|---:|
| 1 | prod | allowed by sre -\> refused, no rule | bob&#64;example.com | 6 |

**2 get another grant**

| decisions | environment | change | who | record |
|---:|---|---|---|---:|
| 2 | staging | developers: ttl 2h -\> 4h | alice&#64;example.com (2) | 4 |
`},
		{"claims that were not recorded", []string{"claim"}, `5 decisions from 2026-11-01 08:00 to 2026-11-05 08:00, of which 0 can be compared: none would change.

not compared
  5 decisions: a claim was not recorded then: level; record 4
`},
		{"no change", []string{"same.txtar", "--log-key", "key"}, "5 decisions from 2026-11-01 08:00 to 2026-11-05 08:00: none would change.\n"},
		{"dates", []string{"same.txtar", "--between", "2026-11-02..2026-11-03"}, "1 decision from 2026-11-02 08:00 to 2026-11-02 08:00: none would change.\n"},
		{"an empty range", []string{"same.txtar", "--between", "2026-11-02T09:00:00Z..2026-11-02T10:00:00Z"}, "There are no decisions in this range.\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, stderr, exit := hallpass(t, dir, append([]string{"policy", "replay", "--log", "copy.db"}, tt.args...)...)
			if diff := cmp.Diff(tt.want, out); diff != "" || exit != 0 || stderr != "" {
				t.Errorf("exit %d, %s%s", exit, stderr, diff)
			}
		})
	}
}

func TestPolicyReplayExits(t *testing.T) {
	dir := replayDir(t)
	otherLog := history.New(t)
	damaged, err := os.ReadFile(filepath.Join(dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"cut.db": damaged[:len(damaged)/2], "zero.db": append(make([]byte, 8192), damaged[8192:]...), "empty.db": nil,
		"other-key": []byte(otherLog.Key), "private": []byte("PRIVATE+KEY+x+y+z\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"a change that was not expected", []string{"changed", "--expect-none"}, 1, "4 decisions would change"},
		{"none, as expected", []string{"same.txtar", "--expect-none"}, 0, ""},
		{"what cannot be told is not none", []string{"claim", "--expect-none"}, 1, "of 5 decisions it cannot be told"},
		{"a policy that does not compile", []string{"broken"}, 1, "policy.yaml:1:10: version 2 is not known"},
		{"no such folder", []string{"nowhere"}, 1, "no such file"},
		{"another log", []string{"same.txtar", "--log-key", "other-key"}, 1, "log"},
		{"a key that is none", []string{"same.txtar", "--log-key", "text.db"}, 1, "text.db: this is not the public key of a log"},
		{"a key that is a folder", []string{"same.txtar", "--log-key", "broken"}, 1, "read the public key of the log"},
		{"the private key of a log", []string{"same.txtar", "--log-key", "private"}, 1, "private: this is the private key of a log"},
		{"the private key itself", []string{"same.txtar", "--log-key", "PRIVATE+KEY+x+y+z"}, 1, "--log-key: this is the private key of a log"},
		{"no such copy", []string{"same.txtar", "--log", "nowhere.db"}, 1, "nowhere.db"},
		{"a file that is no log", []string{"same.txtar", "--log", "text.db"}, 1, "text.db"},
		{"an empty file", []string{"same.txtar", "--log", "empty.db"}, 1, "empty.db"},
		{"a copy that was cut", []string{"same.txtar", "--log", "cut.db"}, 1, "cut.db"},
		{"a copy without its beginning", []string{"same.txtar", "--log", "zero.db"}, 1, "zero.db"},
		{"two ranges", []string{"same.txtar", "--since", "1d", "--between", "2d..1d"}, 2, "give one"},
		{"a range that ends before it begins", []string{"same.txtar", "--between", "1d..2d"}, 2, "not before"},
		{"a range without an end", []string{"same.txtar", "--between", "1d"}, 2, "two times"},
		{"a time that is none", []string{"same.txtar", "--since", "yesterday"}, 2, `"yesterday": want a time`},
		{"a negative time", []string{"same.txtar", "--since", "-3h"}, 2, "want a time"},
		{"too many days", []string{"same.txtar", "--since", "99999999999d"}, 2, "want a time"},
		{"two forms", []string{"same.txtar", "--markdown", "-o", "json"}, 2, "give one"},
		{"no folder", nil, 2, "wants DIR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"policy", "replay"}, tt.args...)
			if !strings.Contains(strings.Join(tt.args, " "), "--log ") {
				args = append(args, "--log", "copy.db")
			}
			out, stderr, exit := hallpass(t, dir, args...)
			if exit != tt.exit || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d, want %d with %q:\n%s%s", exit, tt.exit, tt.want, out, stderr)
			}
		})
	}
}

// The names of the JSON are those of the help.
func TestPolicyReplayJSON(t *testing.T) {
	out, _, exit := hallpass(t, replayDir(t), "policy", "replay", "changed", "--log", "copy.db", "-o", "json")
	if exit != 0 {
		t.Fatal(exit)
	}
	var got struct {
		Decisions, Compared, Changed, Gains, Loses int
		Differ                                     int   `json:"grants_differ"`
		NotReproduced                              *int  `json:"not_reproduced"`
		Alarms, Skipped                            []any // never null
		Changes                                    []struct {
			Kind, Environment string
			Before, After     struct{ Outcome, Rule string }
			Differences       []struct{ What, Before, After string }
			Identities        []struct{ Identity, Issuer, Subject string }
			First             string `json:"first_record"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Decisions != 5 || got.Compared != 5 || got.Changed != 4 || got.Gains != 1 || got.Loses != 1 || got.Differ != 2 || *got.NotReproduced != 0 ||
		got.Alarms == nil || got.Skipped == nil || len(got.Changes) != 3 {
		t.Fatalf("%+v", got)
	}
	if g := got.Changes[2]; g.Kind != "grant" || g.Before.Rule != "developers" || g.Differences[0].What != "ttl" || g.Differences[0].After != "4h" ||
		g.Identities[0].Subject != "u-1" || g.First != "4" {
		t.Errorf("%+v", g)
	}
	for _, word := range []string{"grants_differ", "not_reproduced", "first_record", "claim_not_recorded"} {
		help, _, _ := hallpass(t, t.TempDir(), "policy", "replay", "--help")
		if !strings.Contains(help, word) {
			t.Errorf("the help does not tell of %s", word)
		}
	}
}
