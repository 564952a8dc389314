package policy_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/hallpass-ssh/hallpass/ca"
)

// TestRefusals holds what a refused caller is told, and the explanation of it, against testdata/refusals.txtar: each says
// what was refused, why, and what to type.
func TestRefusals(t *testing.T) {
	const name = "testdata/refusals.txtar"
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const rules = "policy.yaml"
	golden := map[string]string{}
	for _, f := range archive.Files {
		golden[f.Name] = string(f.Data)
	}
	p := compile(t, golden[rules])
	out := &txtar.Archive{Comment: archive.Comment, Files: []txtar.File{{Name: rules, Data: []byte(golden[rules])}}}
	onProd := func(q *ca.Question) { q.Request.Host = "db1.prod.example.com" }
	sre := func(q *ca.Question) { onProd(q); q.Identity.Groups = []string{"developers", "sre"} }
	for _, tt := range []struct {
		name   string
		change func(*ca.Question)
		want   ca.Outcome
	}{
		{"the wrong group", func(q *ca.Question) { q.Identity.Groups = []string{"marketing"} }, ca.Deny},
		{"the wrong environment", onProd, ca.Deny},
		{"a change freeze", func(q *ca.Question) { sre(q); q.Now = noon.AddDate(0, 1, 0); q.Token.AuthTime = q.Now }, ca.Deny},
		{"a reason missing", func(q *ca.Question) { sre(q); q.Token.AuthTime = noon }, ca.NeedsMore},
		{"a stale sign-in", func(q *ca.Question) { sre(q); q.Request.Reason = "INC-42: disk full" }, ca.NeedsMore},
		{"no such host", func(q *ca.Question) { q.Request.Host = "db1" }, ca.Deny},
		{"an expired rule", func(q *ca.Question) { q.Request.Login = "migrate" }, ca.Deny},
		{"a contractor off the network", func(q *ca.Question) {
			q.Identity.Claims["contractor"] = true
			q.Request.SourceIP = netip.MustParseAddr("203.0.113.9")
		}, ca.Deny},
		{"an email that is not set", func(q *ca.Question) { q.Request.Login, q.Identity.Email = "readonly", "" }, ca.Deny},
		{"too long a lifetime", func(q *ca.Question) { q.Request.TTL = 8 * time.Hour }, ca.Deny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question(t)
			tt.change(&q)
			x := p.Explain(context.Background(), q)
			if x.Decision.Outcome != tt.want {
				t.Errorf("got outcome %s: %s", x.Outcome, x.Message)
			}
			got := "message: " + p.Decide(context.Background(), q).Message + "\n\n" + x.Text(100)
			if diff := cmp.Diff(golden[tt.name], got); diff != "" && !*update {
				t.Error(diff)
			}
			out.Files = append(out.Files, txtar.File{Name: tt.name, Data: []byte(got)})
		})
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
