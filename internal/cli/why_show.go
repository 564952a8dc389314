package cli

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/policy"
	"golang.org/x/crypto/ssh"
)

// whyJSON is the form of a decision with all that it rests on.
type whyJSON struct {
	Record string    `json:"record"`
	Epoch  uint32    `json:"epoch"`
	Time   time.Time `json:"time"`
	// Outcome is "granted", or the kind of the refusal.
	Outcome     string `json:"outcome"`
	Who         string `json:"who"`
	Login       string `json:"login"`
	Host        string `json:"host"`
	Rule        string `json:"rule"`
	Environment string `json:"environment"`
	Message     string `json:"message"`
	// Proven says that the caller showed that it has the key and that its sign-in belongs to it.
	Proven bool `json:"proven"`
	// Policy, RuleSource, Inputs and Certificate are null where there is none.
	Policy      *whyPolicyJSON      `json:"policy"`
	RuleSource  *policy.RuleSource  `json:"rule_source"`
	Inputs      *whyInputsJSON      `json:"inputs"`
	Certificate *whyCertificateJSON `json:"certificate"`
	Again       againJSON           `json:"again"`
	// Review are the review rules that ask people to look at the decision.
	Review []reviewRuleJSON `json:"review,omitempty"`
}

type whyPolicyJSON struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
	Dirty    bool   `json:"dirty"`
	Source   string `json:"source"`
	// Cause is what put it in force: "start", "reload", "poll" or "accept"; Record and Since are where and when.
	Cause      string     `json:"cause"`
	Record     string     `json:"record"`
	Since      time.Time  `json:"since"`
	Author     string     `json:"author,omitempty"`
	Committed  *time.Time `json:"committed,omitempty"`
	Subject    string     `json:"subject,omitempty"`
	Signer     string     `json:"signer,omitempty"`
	SigningKey string     `json:"signing_key,omitempty"`
}

type whyInputsJSON struct {
	Issuer     string         `json:"issuer"`
	Subject    string         `json:"subject"`
	Kind       string         `json:"kind"`
	Email      string         `json:"email"`
	Groups     []string       `json:"groups"`
	Claims     map[string]any `json:"claims"`
	Bound      bool           `json:"bound"`
	AuthTime   *time.Time     `json:"auth_time"`
	IssuedAt   *time.Time     `json:"issued_at"`
	ExpiresAt  *time.Time     `json:"expires_at"`
	TTL        int64          `json:"ttl_seconds"`
	Reason     string         `json:"reason"`
	Rule       string         `json:"rule"`
	BreakGlass bool           `json:"break_glass"`
	KeyType    string         `json:"key_type"`
	SourceIP   string         `json:"source_ip"`
	Now        time.Time      `json:"now"`
}

type whyCertificateJSON struct {
	Serial          string            `json:"serial"`
	KeyID           string            `json:"key_id"`
	Principals      []string          `json:"principals"`
	ValidAfter      time.Time         `json:"valid_after"`
	ValidBefore     time.Time         `json:"valid_before"`
	CriticalOptions map[string]string `json:"critical_options"`
	Extensions      []string          `json:"extensions"`
	Authority       string            `json:"authority"`
	CAKey           string            `json:"ca_key"`
}

func newWhyJSON(f *foundDecision, again againJSON) whyJSON {
	d := f.decided
	out := whyJSON{
		Record: digits(f.record.GetIndex()), Epoch: f.record.GetEpoch(), Time: f.record.GetTime().AsTime(), Outcome: "granted",
		Who: d.GetCaller().GetSubject(), Login: d.GetAsked().GetLogin(), Host: d.GetAsked().GetHost(), Rule: d.GetDecision().GetRule(),
		Environment: d.GetDecision().GetEnvironment(), Message: d.GetDecision().GetMessage(), Proven: d.GetProven(), Again: again,
	}
	if f.was.Refusal != nil {
		out.Outcome, out.Message = f.was.Refusal.Kind.String(), f.was.Refusal.Message
	}
	if q := again.question; q != nil {
		out.Who = cmp.Or(q.Identity.Email, out.Who)
		out.Inputs = newWhyInputs(*q)
	}
	if f.loaded != nil {
		out.Policy = newWhyPolicy(f)
	}
	if f.policy != nil {
		if source, ok := f.policy.RuleSource(out.Rule); ok {
			out.RuleSource = &source
		}
	}
	for _, rule := range d.GetReview().GetRules() {
		out.Review = append(out.Review, reviewRuleJSON{rule.GetName(), rule.GetMessage(), rule.GetFailed()})
	}
	if cert, err := audit.ParseToBeSigned(d.GetToBeSigned()); err == nil { // a record with one that cannot be read is refused
		out.Certificate = newWhyCertificate(cert, d.GetAuthority())
	}
	return out
}

func newWhyPolicy(f *foundDecision) *whyPolicyJSON {
	l := f.loaded.GetLoaded()
	out := &whyPolicyJSON{
		Revision: l.GetPolicy().GetRevision(), Digest: hex.EncodeToString(l.GetPolicy().GetDigest()), Dirty: l.GetPolicy().GetDirty(),
		Source: l.GetSource(), Cause: l.GetCause(), Record: digits(f.loaded.GetIndex()), Since: f.loaded.GetTime().AsTime(),
	}
	if c := l.GetCommit(); c != nil {
		out.Author, out.Subject, out.Signer, out.SigningKey = c.GetAuthor(), c.GetSubject(), c.GetSigner(), c.GetSigningKey()
		if c.GetTime() != nil {
			at := c.GetTime().AsTime()
			out.Committed = &at
		}
	}
	return out
}

func newWhyInputs(q ca.Question) *whyInputsJSON {
	id, t, r := q.Identity, q.Token, q.Request
	out := &whyInputsJSON{
		Issuer: id.Issuer, Subject: id.Subject, Kind: id.Kind.String(), Email: id.Email, Groups: append([]string{}, id.Groups...), Claims: id.Claims,
		Bound: t.Bound, AuthTime: optional(t.AuthTime), IssuedAt: optional(t.IssuedAt), ExpiresAt: optional(t.Expires),
		TTL: int64(r.TTL / time.Second), Reason: r.Reason, Rule: r.Rule, BreakGlass: r.BreakGlass, Now: q.Now,
	}
	if r.PublicKey != nil {
		out.KeyType = cmp.Or(ca.KeyType(r.PublicKey.Type()), r.PublicKey.Type())
	}
	if r.SourceIP.IsValid() {
		out.SourceIP = r.SourceIP.String()
	}
	return out
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func newWhyCertificate(cert *ssh.Certificate, authority string) *whyCertificateJSON {
	return &whyCertificateJSON{
		Serial: digits(cert.Serial), KeyID: cert.KeyId, Principals: cert.ValidPrincipals, ValidAfter: certTime(cert.ValidAfter),
		ValidBefore: certTime(cert.ValidBefore), CriticalOptions: cert.CriticalOptions, Extensions: append([]string{}, slices.Sorted(maps.Keys(cert.Extensions))...),
		Authority: authority, CAKey: ssh.FingerprintSHA256(cert.SignatureKey),
	}
}

// showWhy prints a decision on one screen.
func (a *app) showWhy(w whyJSON) error {
	if a.json() {
		return a.printJSON(w)
	}
	head := w.Outcome
	if w.Outcome != "granted" {
		head = "refused (" + w.Outcome + ")"
	}
	p := &facts{Writer: tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)}
	fmt.Fprintf(a.out, "%s: %s@%s for %s, %s\n", bold(a.out, head), oneLine(w.Login), oneLine(w.Host), oneLine(w.Who), showTime(w.Time))
	fmt.Fprintf(a.out, "  %s\n\n", oneLine(w.Message))
	place := w.Record
	if w.Certificate != nil {
		place += ", serial " + w.Certificate.Serial
	}
	p.add("record", place)
	w.Policy.show(p)
	if s := w.RuleSource; s != nil {
		p.add("rule", fmt.Sprintf("%s, %s:%d", w.Rule, s.File, s.Line))
		for line := range strings.Lines(s.Text) {
			p.add("", "| "+strings.TrimSuffix(line, "\n"))
		}
	} else if w.Rule == "" && w.Policy != nil {
		p.add("rule", "none decided; those that came near: hallpass policy explain --record "+w.Record)
	} else {
		p.add("rule", w.Rule)
	}
	for _, rule := range w.Review {
		p.add("review", rule.String())
	}
	w.Inputs.show(p)
	if w.Certificate != nil {
		w.Certificate.show(p)
	}
	w.Again.show(p)
	if err := p.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// facts are lines of a name and a value.
type facts struct {
	*tabwriter.Writer
}

// add writes a fact, unless it has no value. What a terminal would act on becomes harmless, and one fact stays one line.
func (f *facts) add(name, value string) {
	if value != "" {
		fmt.Fprintf(f.Writer, "%s\t%s\n", name, oneLine(value))
	}
}

func (p *whyPolicyJSON) show(f *facts) {
	if p == nil {
		f.add("policy", "none was asked")
		return
	}
	name := short(cmp.Or(p.Revision, p.Digest))
	if p.Dirty {
		name += ", with files that were not committed"
	}
	if p.Subject != "" {
		name += fmt.Sprintf(": %s", p.Subject)
	}
	f.add("policy", name)
	if p.Author != "" {
		by := "by " + p.Author
		if p.Committed != nil {
			by += ", " + showTime(*p.Committed)
		}
		f.add("", by)
	}
	if p.Signer != "" {
		f.add("", fmt.Sprintf("signed by %s, %s", p.Signer, p.SigningKey))
	}
	f.add("", fmt.Sprintf("in force since %s (%s, record %s), from %s", showTime(p.Since), p.Cause, p.Record, p.Source))
}

func (in *whyInputsJSON) show(f *facts) {
	if in == nil {
		f.add("inputs", "erased")
		return
	}
	f.add("caller", fmt.Sprintf("%s, a %s: %s at %s", cmp.Or(in.Email, "no email"), in.Kind, in.Subject, in.Issuer))
	f.add("groups", cmp.Or(strings.Join(in.Groups, ", "), "none"))
	var claims []string
	for _, name := range slices.Sorted(maps.Keys(in.Claims)) {
		claims = append(claims, fmt.Sprintf("%s = %v", name, in.Claims[name]))
	}
	f.add("claims", strings.Join(claims, ", "))
	token := "not bound to the key"
	if in.Bound {
		token = "bound to the key"
	}
	for _, at := range []struct {
		what string
		time *time.Time
	}{{"signed in", in.AuthTime}, {"issued", in.IssuedAt}, {"expires", in.ExpiresAt}} {
		if at.time != nil {
			token += ", " + at.what + " " + showTime(*at.time)
		}
	}
	f.add("token", token)
	var asked []string
	for _, part := range []struct {
		set  bool
		text string
	}{
		{in.KeyType != "", "key " + in.KeyType}, {in.SourceIP != "", "from " + in.SourceIP},
		{in.TTL > 0, "for " + (time.Duration(in.TTL) * time.Second).String()}, {in.Rule != "", "by the rule " + in.Rule},
		{in.BreakGlass, "in an emergency"}, {in.Reason != "", "reason: " + in.Reason},
	} {
		if part.set {
			asked = append(asked, part.text)
		}
	}
	f.add("request", strings.Join(asked, ", "))
	f.add("decided at", showTime(in.Now))
}

func (c *whyCertificateJSON) show(f *facts) {
	f.add("certificate", fmt.Sprintf("principal %s, %s to %s, signed by the authority %s", strings.Join(c.Principals, ", "),
		showTime(c.ValidAfter), showTime(c.ValidBefore), c.Authority))
	var options []string
	for _, name := range slices.Sorted(maps.Keys(c.CriticalOptions)) {
		options = append(options, strings.TrimSuffix(name+"="+c.CriticalOptions[name], "="))
	}
	f.add("", cmp.Or(strings.Join(append(options, c.Extensions...), ", "), "no options"))
}

func (again againJSON) show(f *facts) {
	words := map[string]string{
		string(policy.Same): "THE SAME", string(policy.Different): "NOT THE SAME", string(policy.NotAsked): "nothing to compare: " + again.Reason,
		erased: "inputs erased: " + again.Reason, cannotTell: "cannot be told: " + again.Reason,
	}
	line := words[again.Result]
	if again.Outcome != "" {
		line += ": " + again.Outcome
		if again.Rule != "" {
			line += " by " + again.Rule
		}
		if again.Environment != "" {
			line += " in " + again.Environment
		}
		line += ", evaluated here by " + again.Engine
	}
	f.add("again", line)
	for _, d := range again.Differences {
		f.add("", fmt.Sprintf("! %s: recorded %s, now %s", d.What, cmp.Or(d.Recorded, "none"), cmp.Or(d.Now, "none")))
	}
	if again.EngineThen != "" && again.EngineThen != again.Engine && again.Outcome != "" {
		f.add("", "the daemon decided by another engine then: "+again.EngineThen)
	}
}

// showTime is a time in UTC: what two auditors compare must not depend on where they are.
func showTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// oneLine makes text of others harmless to a terminal and to a table.
func oneLine(text string) string {
	return strings.NewReplacer("\n", "?", "\t", "    ").Replace(plain(text))
}
