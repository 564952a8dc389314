package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/history"
	"github.com/hallpass-ssh/hallpass/internal/replay"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

// TestCertificatesStayWithinGrants puts random policies in force, asks the real core, and reads the certificates: each is within
// the grant of its rule and the limits. The log of it all is then replayed: every decision comes out as it is recorded.
func TestCertificatesStayWithinGrants(t *testing.T) {
	t.Parallel()
	l := history.New(t)
	questions := questions(ed25519Key(t))
	var last *policy.Policy
	asked, granted := uint64(0), 0
	rapid.Check(t, func(t *rapid.T) {
		m := policies.Draw(t, "policy")
		last = l.Load(bundle("policy.yaml", m.String()))
		for range 10 {
			q := questions.Draw(t, "question")
			q.Now, q.Request.Rule = l.Now(), "" // an expired rule is expired by the clock of the log
			who := askedOf(q)
			who.Subject = fmt.Sprint("s", asked) // so that no sign-in is bound to the key of another
			issued, err := l.Ask(who)
			if asked++; err != nil {
				if kind := ca.KindOf(err); kind != ca.Denied && kind != ca.Needs {
					t.Fatal(err)
				}
				continue
			}
			granted++
			checkCertificate(t, m, q, issued)
		}
	})
	if granted == 0 {
		t.Error("nothing was granted")
	}
	l.Close()
	copied, err := bolt.OpenCopy(l.Path, l.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	s, err := replay.Run(t.Context(), replay.Config{Log: replay.Copy{Reader: copied}, Proposed: last})
	if err != nil {
		t.Fatal(err)
	}
	if s.NotReproduced != 0 || s.Decisions != asked || s.SkippedDecisions() != 0 {
		t.Errorf("%d decisions of %d, %d not reproduced: %+v; skipped: %+v", s.Decisions, asked, s.NotReproduced, s.Alarms, s.Skipped)
	}
}

// askedOf asks the core what a question asks a policy.
func askedOf(q ca.Question) history.Asked {
	a := history.Asked{
		Email: q.Identity.Email, Groups: q.Identity.Groups, Claims: map[string]any{}, Login: q.Request.Login, Host: q.Request.Host,
		Reason: q.Request.Reason, TTL: q.Request.TTL, BreakGlass: q.Request.BreakGlass, From: q.Request.SourceIP, Unbound: !q.Token.Bound,
	}
	maps.Copy(a.Claims, q.Identity.Claims)
	if level, ok := a.Claims["level"].(int64); ok {
		a.Claims["level"] = json.Number(strconv.FormatInt(level, 10))
	}
	if !q.Token.AuthTime.Equal(noon) {
		a.SignedIn = time.Hour
	}
	return a
}

// checkCertificate holds a certificate against the rule that it names, the environment and the limits.
func checkCertificate(t *rapid.T, m model, q ca.Question, issued *ca.Issued) {
	key, err := ssh.ParsePublicKey(issued.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		t.Fatalf("it is a %T", key)
	}
	i := slices.IndexFunc(m.allow, func(r modelRule) bool { return r.name == issued.Decision.Rule })
	if i < 0 {
		t.Fatalf("the rule %q is none", issued.Decision.Rule)
	}
	r, environment := m.allow[i], environmentOf(q.Request.Host)
	longest := min(r.ttl, map[string]time.Duration{"staging": 3 * time.Hour, "prod": 2 * time.Hour}[environment])
	if asked := q.Request.TTL; asked > 0 {
		longest = min(longest, asked)
	}
	if ttl := time.Duration(int64(cert.ValidBefore)-q.Now.Unix()) * time.Second; ttl <= 0 || ttl > longest || q.Now.Unix()-int64(cert.ValidAfter) > 300 {
		t.Fatalf("it holds for %s, of %s", ttl, longest)
	}
	principal := q.Request.Login + map[string]string{"environment": "@" + environment, "host": "@" + q.Request.Host}[r.scope]
	if !slices.Equal(cert.ValidPrincipals, []string{principal}) || q.Request.Login == "root" {
		t.Fatalf("principals %q, want %q", cert.ValidPrincipals, principal)
	}
	extensions := slices.Sorted(maps.Keys(cert.Extensions))
	critical := map[string]string{}
	if r.command {
		critical["force-command"] = "/bin/true"
	}
	if r.fromCaller {
		critical["source-address"] = q.Request.SourceIP.String() + "/" + strconv.Itoa(q.Request.SourceIP.BitLen())
	}
	if !slices.Equal(extensions, r.extensions) || !maps.Equal(cert.CriticalOptions, critical) {
		t.Fatalf("extensions %q, options %q, want %q and %q", extensions, cert.CriticalOptions, r.extensions, critical)
	}
}
