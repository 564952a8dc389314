package ca_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"golang.org/x/crypto/ssh"
)

// A certificate of the log is what its decision leads to, or it is said in what it is not.
func TestCheckGrantedSaysHowACertificateDiffers(t *testing.T) {
	s := newStand(t)
	policy := s.rules.Load().Ref()
	var asked ca.Question
	var decision ca.Decision
	decide := s.rules.Load().decide
	s.setRules(&rules{decide: func(q ca.Question) ca.Decision {
		asked, decision = q, decide(q)
		return decision
	}})
	issued, _ := s.issued(s.ask())
	for _, tt := range []struct {
		name   string
		change func(*ssh.Certificate, *ca.Question, *ca.Decision)
		want   string // empty: it is what was granted
	}{
		{"as it was issued", func(*ssh.Certificate, *ca.Question, *ca.Decision) {}, ""},
		{"asked with a key of which only the type is known", func(_ *ssh.Certificate, q *ca.Question, _ *ca.Decision) {
			q.Request.PublicKey = ca.DescribedKey(ssh.KeyAlgoED25519)
		}, ""},
		{"a key of another type", func(_ *ssh.Certificate, q *ca.Question, _ *ca.Decision) {
			q.Request.PublicKey = ca.DescribedKey(ssh.KeyAlgoSKED25519)
		}, "another type"},
		{"another principal", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) { c.ValidPrincipals[0] = "root" }, "principal"},
		{"one more principal", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) {
			c.ValidPrincipals = append(c.ValidPrincipals, "root")
		}, "2 principals"},
		{"a second longer", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) { c.ValidBefore++ }, "end when it should"},
		{"begun after the decision", func(c *ssh.Certificate, q *ca.Question, _ *ca.Decision) {
			c.ValidAfter = uint64(q.Now.Unix()) + 1
		}, "begins at another time"},
		{"begun long before the decision", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) { c.ValidAfter -= 3600 }, "begins at another time"},
		{"one more extension", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) {
			c.Extensions["permit-port-forwarding"] = ""
		}, "extensions are not those"},
		{"a restriction that is gone", func(_ *ssh.Certificate, _ *ca.Question, d *ca.Decision) { d.Grant.ForceCommand = "/bin/true" }, "critical options are not those"},
		{"a restriction among the extensions", func(c *ssh.Certificate, _ *ca.Question, d *ca.Decision) {
			c.Extensions["force-command"], d.Grant.ForceCommand = "/bin/true", "/bin/true"
		}, "critical options are not those"},
		{"the key ID of another rule", func(_ *ssh.Certificate, _ *ca.Question, d *ca.Decision) { d.Rule = "another" }, "key ID"},
		{"a decision that refuses", func(_ *ssh.Certificate, _ *ca.Question, d *ca.Decision) { *d = ca.Decision{Outcome: ca.Deny} }, "grants none"},
		{"a host certificate", func(c *ssh.Certificate, _ *ca.Question, _ *ca.Decision) { c.CertType = ssh.HostCert }, "not a user certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := readCertificate(t, issued.Marshal())
			q, d := asked, decision
			tt.change(changed, &q, &d)
			err := ca.CheckGranted(toBeSigned(changed), q, d, policy)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("bytes that are no certificate", func(t *testing.T) {
		for _, b := range [][]byte{nil, []byte("x"), toBeSigned(issued)[:40]} {
			if err := ca.CheckGranted(b, asked, decision, policy); err == nil {
				t.Errorf("%q is taken for a certificate", b)
			}
		}
	})
	if asked.Now.Sub(time.Unix(int64(issued.ValidAfter), 0)) <= 0 {
		t.Error("the certificate was not backdated: the test shows less than it says")
	}
}

// toBeSigned cuts the signature off.
func toBeSigned(c *ssh.Certificate) []byte {
	unsigned := *c
	unsigned.Signature = nil
	b := unsigned.Marshal()
	return b[:len(b)-4]
}
