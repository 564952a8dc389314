package policy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// Counted repeats are what people write for the numbers of tickets.
func TestPatternWithACountedRepeat(t *testing.T) {
	const rules = "version: 1\nroles:\n  auditor: identity.subject.matches(\"^INC-[0-9]{4,6}$\")\n"
	p := compile(t, rules)
	for subject, want := range map[string]bool{"INC-20211": true, "INC-7": false} {
		q := question(t)
		q.Identity.Subject = subject
		if got, err := p.Role(context.Background(), "auditor", ca.Question{Identity: q.Identity, Token: q.Token, Now: q.Now}); got != want || err != nil {
			t.Errorf("%s: %v, error %v, want %v", subject, got, err, want)
		}
	}
	large := strings.Replace(rules, "[0-9]{4,6}", "[a-z]{999}[a-z]{999}", 1)
	if _, err := policy.Compile(bundle("policy.yaml", large)); err == nil || !strings.Contains(err.Error(), "are allowed: write a shorter one") {
		t.Errorf("a pattern of 2,000 instructions: error %v", err)
	}
}
