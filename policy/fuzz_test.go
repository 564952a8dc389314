package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// What ends a line for YAML.
var lineBreak = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

// FuzzPolicyYAML: no file makes the compiler panic; a refusal names a line that exists, or the one after the last; what
// compiles decides and says the same twice.
func FuzzPolicyYAML(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/refused.txtar")
	if err != nil {
		f.Fatal(err)
	}
	seeds := 0
	for _, file := range archive.Files {
		if strings.HasSuffix(file.Name, "/policy.yaml") {
			f.Add(file.Data)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("there are no seeds")
	}
	example, err := os.ReadFile("example/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(world + developers))
	q := question(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		p, err := policy.Compile(bundle("policy.yaml", string(text)))
		if err == nil {
			if first, second := decide(p, q), decide(p, q); first.Outcome != second.Outcome || first.Message != second.Message {
				t.Fatalf("two answers: %+v, %+v", first, second)
			}
			return
		}
		all, ok := errors.AsType[policy.Errors](err)
		if !ok || len(all) == 0 {
			t.Fatalf("no mistake in %T %v", err, err)
		}
		lines := len(lineBreak.FindAll(text, -1)) + 1
		for _, e := range all {
			if e.Line < 1 || e.Column < 1 || e.Line > lines+1 || e.Message == "" {
				t.Fatalf("%d lines, and a mistake at %d:%d: %q", lines, e.Line, e.Column, e.Message)
			}
		}
	})
}

// FuzzPolicyEval: no claims make a decision panic or allow more than the rules; a claim of another type is refused.
func FuzzPolicyEval(f *testing.F) {
	p, err := policy.Compile(bundle("policy.yaml", world+`
deny:
- {name: contractors, when: 'claims.contractor || claims.teams.exists(t, t.startsWith("x"))'}
allow:
- {name: level, when: environment == "staging" && claims.level.orValue(0) / claims.level.value() == 1, grant: {logins: [deploy, "${claims.unix_name}"], ttl: 4h}}
- {name: groups, when: 'identity.groups.exists(g, g.matches("^team-[a-z]+$"))', grant: {logins: ["${identity.groups[0]}"], ttl: 4h, scope: host}}
`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"contractor":false,"level":3,"unix_name":"al","teams":["a"]}`, "developers", "deploy", "app1.staging.example.com", int64(0))
	f.Add(`{"level":0}`, "team-a,x", "team-a", "db1.prod.example.com", int64(3600))
	f.Add(`{"level":"3"}`, "", "root", "", int64(-1))
	f.Add(`{"teams":[1]}`, "", "deploy", "a,b.staging.example.com", int64(1))
	base := question(f)
	f.Fuzz(func(t *testing.T, claims, groups, login, host string, seconds int64) {
		q := base
		d := json.NewDecoder(strings.NewReader(claims))
		d.UseNumber()
		caller := ca.Caller{Identity: q.Identity}
		if d.Decode(&caller.Claims) != nil {
			return
		}
		caller.Identity.Groups = strings.Split(groups, ",")
		if q.Identity, err = p.Declare(caller); err != nil {
			if ca.KindOf(err) != ca.Denied {
				t.Fatalf("%v", err)
			}
			return
		}
		q.Request.Login, q.Request.Host, q.Request.TTL = login, host, time.Duration(seconds)*time.Second
		got := p.Decide(context.Background(), q)
		if got.Outcome != ca.Allow && got.Outcome != ca.Deny {
			t.Fatalf("outcome %d", got.Outcome)
		}
		if got.Outcome == ca.Allow && (q.Identity.Claims["contractor"] == true || login == "root" || got.TTL <= 0 || got.TTL > 4*time.Hour) {
			t.Fatalf("%+v", got)
		}
		if got.Message == "" {
			t.Fatal("no message")
		}
	})
}
