package replay_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/fixture/history"
	"github.com/hallpass-ssh/hallpass/internal/replay"
	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/hallpass-ssh/hallpass/store/bolt"
)

const (
	staging = "app1.staging.example.com"
	prod    = "db1.prod.example.com"
)

const then = `
version: 1
claims: {contractor: {type: bool, default: false}}
environments:
  staging: {hosts: ["*.staging.example.com"]}
  prod: {hosts: ["*.prod.example.com"], authority: prod}
deny:
- {name: no-contractors, when: environment == "prod" && claims.contractor}
allow:
- {name: developers-on-staging, when: environment == "staging" && "developers" in identity.groups, grant: {logins: [deploy], ttl: 2h}}
- {name: sre-on-prod, when: environment == "prod" && "sre" in identity.groups, require: {reason: true}, grant: {logins: [deploy], ttl: 1h}}
`

func bundle(text string) *policy.Bundle {
	return &policy.Bundle{Source: "the test", Files: map[string][]byte{"policy.yaml": []byte(text)}}
}

func compile(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(bundle(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// decisions asks as five people do, an hour apart, beginning at history.Start.
func decisions(l *history.Log) {
	alice := history.Asked{Subject: "alice", Email: "alice@example.com", Groups: []string{"developers"}, Host: staging}
	bob := history.Asked{Subject: "bob", Groups: []string{"sre"}, Host: prod, Reason: "INC-1"}
	carol := history.Asked{Subject: "carol", Groups: []string{"sre"}, Host: prod, Reason: "INC-2", Claims: map[string]any{"contractor": true}}
	dave := history.Asked{Subject: "dave", Host: staging}
	silent := bob
	silent.Reason = ""
	rsa := alice
	rsa.RSA = 3072
	for _, asked := range []history.Asked{alice, alice, bob, carol, dave, silent, rsa} {
		_, _ = l.Ask(asked) // what comes of it is in the log
		l.Wait(time.Hour)
	}
}

// replayed closes the log and replays its copy.
func replayed(t testing.TB, l *history.Log, text string, change ...func(*replay.Config)) *policy.ReplaySummary {
	t.Helper()
	l.Close()
	copied, err := bolt.OpenCopy(l.Path, l.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	c := replay.Config{Log: replay.Copy{Reader: copied}, Proposed: compile(t, text)}
	for _, f := range change {
		f(&c)
	}
	s, err := replay.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// described says what changed, a line a group.
func described(s *policy.ReplaySummary) []string {
	var out []string
	for _, a := range s.Alarms {
		for _, d := range a.Differences {
			out = append(out, fmt.Sprintf("alarm: record %s: %s %q %q", a.Record, d.What, d.Recorded, d.Now))
		}
	}
	for _, g := range s.Changes {
		line := fmt.Sprintf("%s %d on %s: %s %s -> %s %s", g.Kind, g.Decisions, g.Environment, g.Before.Outcome, g.Before.Rule, g.After.Outcome, g.After.Rule)
		for _, d := range g.Differences {
			line += fmt.Sprintf("; %s %s -> %s", d.What, d.Before, d.After)
		}
		for _, who := range g.Identities {
			line += " " + who.Identity
		}
		out = append(out, line)
	}
	for _, g := range s.Skipped {
		out = append(out, strings.TrimSpace(fmt.Sprintf("skipped %d: %s %s", g.Decisions, g.Reason, g.Detail)))
	}
	return out
}

func TestReplay(t *testing.T) {
	for _, tt := range []struct {
		name string
		old  string // of the policy
		new  string
		want []string
	}{
		{"the same policy changes nothing", "", "", nil},
		{"a rule is renamed", "name: developers-on-staging", "name: devs", []string{
			"grant 3 on staging: allow developers-on-staging -> allow devs alice@example.com",
		}},
		{"a rule gives more time", "ttl: 2h", "ttl: 4h", []string{
			"grant 3 on staging: allow developers-on-staging -> allow developers-on-staging; ttl 2h -> 4h alice@example.com",
		}},
		{"a rule gives other options", "logins: [deploy], ttl: 2h", "logins: [deploy], ttl: 2h, extensions: [], force_command: /bin/true, scope: host, source_address: [10.0.0.0/8]", []string{
			"grant 3 on staging: allow developers-on-staging -> allow developers-on-staging; scope any -> host; extensions permit-pty -> ; force_command  -> /bin/true; source_address  -> 10.0.0.0/8 alice@example.com",
		}},
		{"a rule is for everybody", `environment == "staging" && "developers" in identity.groups`, `environment == "staging"`, []string{
			"gains 1 on staging: deny  -> allow developers-on-staging dave",
		}},
		{"a deny rule goes away", `&& claims.contractor`, `&& claims.contractor && false`, []string{
			"gains 1 on prod: deny no-contractors -> allow sre-on-prod carol",
		}},
		{"a rule asks for another group", `"sre" in`, `"ops" in`, []string{
			"loses 1 on prod: allow sre-on-prod -> deny  bob",
			"refusal 1 on prod: needs sre-on-prod -> deny  bob",
		}},
		{"a rule asks for no reason any more", "require: {reason: true}, ", "", []string{
			"gains 1 on prod: needs sre-on-prod -> allow sre-on-prod bob",
		}},
		{"a rule asks for a sign-in just now", "require: {reason: true}, ", "require: {reason: true, login_within: 1s}, ", []string{
			"loses 1 on prod: allow sre-on-prod -> needs sre-on-prod bob",
			"refusal 1 on prod: needs sre-on-prod -> needs sre-on-prod bob",
		}},
		{"the hosts of an environment go away", `"*.staging.example.com"`, `"*.stage.example.com"`, []string{
			"loses 3 on staging: allow developers-on-staging -> deny  alice@example.com",
			"refusal 1 on staging: deny  -> deny  dave",
		}},
		{"RSA keys are no longer taken", "claims:", "limits: {keys: [ed25519]}\nclaims:", []string{
			"loses 1 on staging: allow developers-on-staging -> deny  alice@example.com",
		}},
		{"RSA keys must be longer", "claims:", "limits: {keys: [ed25519, rsa>=4096]}\nclaims:", []string{
			"loses 1 on staging: allow developers-on-staging -> deny  alice@example.com",
		}},
		{"a claim is declared that was not recorded", "contractor: {type: bool, default: false}", "contractor: {type: bool, default: false}, level: {type: int, optional: true}", []string{
			"skipped 7: claim_not_recorded level",
		}},
		{"a claim has another type", "contractor: {type: bool, default: false}}", "contractor: {type: string, default: no}}", []string{
			"skipped 7: claim_not_recorded contractor",
		}},
		{"a login is never granted", "claims:", "limits: {never_logins: [root]}\nclaims:", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := history.New(t)
			l.Load(bundle(then))
			decisions(l)
			text := strings.ReplaceAll(then, tt.old, tt.new)
			if strings.HasPrefix(tt.new, "contractor: {type: string") {
				text = strings.ReplaceAll(text, "claims.contractor}", `claims.contractor == "yes"}`)
			}
			s := replayed(t, l, text)
			if diff := cmp.Diff(tt.want, described(s)); diff != "" {
				t.Error(diff)
			}
			if s.Decisions != 7 || s.Compared+s.SkippedDecisions() != 7 || s.NotReproduced != 0 {
				t.Errorf("%d decisions, %d compared, %d not reproduced", s.Decisions, s.Compared, s.NotReproduced)
			}
		})
	}
}

// Each decision is made again by the policy that made it, whatever was in force before and after.
func TestPoliciesOfThePast(t *testing.T) {
	l := history.New(t)
	texts := []string{then, strings.ReplaceAll(then, "ttl: 2h", "ttl: 3h"), strings.ReplaceAll(then, `"developers" in identity.groups`, "true"), then}
	for _, text := range texts {
		l.Load(bundle(text))
		decisions(l)
	}
	want := []string{
		"loses 1 on staging: allow developers-on-staging -> deny  dave",
		"grant 3 on staging: allow developers-on-staging -> allow developers-on-staging; ttl 3h -> 2h alice@example.com",
	}
	if diff := cmp.Diff(want, described(replayed(t, l, then))); diff != "" {
		t.Error(diff)
	}
}

func TestRange(t *testing.T) {
	for _, tt := range []struct {
		name         string
		since, until time.Duration // after the start; 0 for none
		want         uint64
	}{
		{"everything", 0, 0, 7},
		{"from the third on", 2 * time.Hour, 0, 5},
		{"up to the third, without it", 0, 2 * time.Hour, 2},
		{"one in the middle", 2 * time.Hour, 3 * time.Hour, 1},
		{"between two records", 150 * time.Minute, 170 * time.Minute, 0},
		{"after the end", 100 * time.Hour, 0, 0},
		{"before the beginning", 0, -time.Hour, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := history.New(t)
			l.Load(bundle(then))
			decisions(l)
			s := replayed(t, l, then, func(c *replay.Config) {
				if tt.since != 0 {
					c.Since = history.Start.Add(tt.since)
				}
				if tt.until != 0 {
					c.Until = history.Start.Add(tt.until)
				}
			})
			if s.Decisions != tt.want || s.Compared != tt.want {
				t.Errorf("%d decisions, %d compared, want %d", s.Decisions, s.Compared, tt.want)
			}
		})
	}
}

// A log whose decisions are not those of its policies is an alarm, unless another engine took them.
func TestWhatIsNotReproduced(t *testing.T) {
	honest, other := compile(t, then), compile(t, strings.ReplaceAll(then, `"sre" in`, `"developers" in`))
	log := func(engine string) *history.Log {
		l := history.New(t)
		l.LoadAs(honest.Ref(), honest.Blobs(), engine, other)
		decisions(l)
		return l
	}
	s := replayed(t, log(policy.Engine), then)
	got := strings.Join(described(s), "\n")
	if s.NotReproduced != 2 || len(s.Alarms) != 2 || !strings.Contains(got, `outcome "deny" "allow"`) || !strings.Contains(got, `outcome "needs" "deny"`) {
		if s.NotReproduced == 0 {
			t.Errorf("no alarm:\n%s", got)
		}
	}
	s = replayed(t, log("cel-go v0.1.0"), then)
	if len(s.Skipped) != 1 || s.NotReproduced != 0 || s.Skipped[0].Skip != (policy.Skip{Reason: policy.SkipEngine, Detail: "cel-go v0.1.0"}) {
		t.Errorf("another engine: %q", described(s))
	}
}

// What the log no longer tells is said, and nothing is assumed.
func TestWhatCannotBeAsked(t *testing.T) {
	real := compile(t, then)
	broken := []byte("version: 1\nallow: [{name: a, when: identity.shoe_size > 3, grant: {logins: [deploy], ttl: 1h}}]\n")
	manifest := fmt.Appendf(nil, "%x  policy.yaml\n", sha256.Sum256(broken))
	for _, tt := range []struct {
		name  string
		blobs [][]byte
		want  string
	}{
		{"a policy that does not compile in this version", [][]byte{manifest, broken}, "does not compile in this version: policy.yaml:2:25: no such variable identity.shoe_size"},
		{"a policy of which a file is gone", [][]byte{manifest}, "read policy.yaml of policy"},
		{"a policy that is gone", nil, "read the manifest of policy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := history.New(t)
			l.LoadAs(ca.PolicyRef{Digest: sha256.Sum256(manifest)}, tt.blobs, policy.Engine, real)
			decisions(l)
			s := replayed(t, l, then)
			if len(s.Skipped) != 1 || s.Skipped[0].Reason != policy.SkipPolicy || s.Skipped[0].Decisions != 7 || !strings.Contains(s.Skipped[0].Detail, tt.want) {
				t.Errorf("%q", described(s))
			}
		})
	}
}

// Requests that were refused before a policy was asked are counted, and no more.
func TestNotAsked(t *testing.T) {
	l := history.New(t)
	l.Load(bundle(then))
	if _, err := l.Ask(history.Asked{Subject: "w", Kind: ca.Person, Host: staging, Claims: map[string]any{"contractor": "yes"}}); ca.KindOf(err) != ca.Denied {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"skipped 1: not_asked"}, described(replayed(t, l, then))); diff != "" {
		t.Error(diff)
	}
}

// erased is a log whose identity snapshots were erased.
type erased struct{ replay.Log }

func (erased) Blob(context.Context, [32]byte) ([]byte, error) { return nil, nil }

// newer is a log that a newer program wrote: every third record has a field that this one does not know.
type newer struct{ replay.Log }

func (l newer) Read(ctx context.Context, from, to uint64, each func([]replay.Entry) error) error {
	return l.Log.Read(ctx, from, to, func(batch []replay.Entry) error {
		for i := range batch {
			if batch[i].Index%3 == 0 {
				batch[i].Record = append(batch[i].Record, 0xf8, 0x07, 1) // field 127
			}
		}
		return each(batch)
	})
}

// failing is a log that breaks off.
type failing struct {
	replay.Log
	err error
}

func (l failing) Read(ctx context.Context, from, to uint64, each func([]replay.Entry) error) error {
	return errors.Join(l.Log.Read(ctx, from, to-1, each), l.err)
}

func TestOddLogs(t *testing.T) {
	l := history.New(t)
	l.Load(bundle(then))
	decisions(l)
	l.Close()
	copied, err := bolt.OpenCopy(l.Path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	log, proposed := replay.Copy{Reader: copied}, compile(t, then)
	run := func(ctx context.Context, log replay.Log) (*policy.ReplaySummary, error) {
		return replay.Run(ctx, replay.Config{Log: log, Proposed: proposed})
	}

	s, err := run(t.Context(), erased{log})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"skipped 7: inputs_erased"}, described(s)); diff != "" {
		t.Error(diff)
	}
	if s, err = run(t.Context(), newer{log}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Skipped); n != 1 || s.Skipped[0].Reason != policy.SkipUnread || !strings.Contains(s.Skipped[0].Detail, "use a newer one") || s.Skipped[0].Decisions != 4 {
		t.Errorf("%q", described(s))
	}
	if _, err := run(t.Context(), failing{log, errors.New("the disk is gone")}); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("a log that breaks off: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(ctx, log); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestReplayCountsReviews: how many decisions people had to look at, and how many they would have to under another policy.
func TestReplayCountsReviews(t *testing.T) {
	const asked = then + `review:
- {name: prod, when: environment == "prod"}
- {name: first, when: decision.first_use}
`
	for _, tt := range []struct {
		name                   string
		old, new               string
		before, after, unknown uint64
	}{
		{"none before", then, strings.Replace(asked, "decision.first_use", "decision.refusals > 3", 1), 0, 0, 7},
		{"none any more", asked, then, 4, 0, 0},
		{"the same", asked, asked, 4, 4, 0},
		{"one rule less", asked, strings.Replace(asked, `name: prod, when: environment == "prod"`, "name: prod, when: false", 1), 4, 2, 0},
		{"what was not recorded", asked, strings.Replace(asked, "decision.first_use", "decision.refusals > 3", 1), 4, 0, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := history.New(t)
			l.Load(bundle(tt.old))
			decisions(l)
			s := replayed(t, l, tt.new)
			if s.ReviewsBefore != tt.before || s.ReviewsAfter != tt.after || s.ReviewsUnknown != tt.unknown || s.Changed != 0 || s.NotReproduced != 0 {
				t.Errorf("%d before, %d after, %d unknown; %d changed, %d not reproduced", s.ReviewsBefore, s.ReviewsAfter, s.ReviewsUnknown, s.Changed, s.NotReproduced)
			}
		})
	}
}
