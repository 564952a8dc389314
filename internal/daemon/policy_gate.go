package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
)

// testTimeout bounds a run of a policy's own tests.
const testTimeout = time.Minute

// policyGate holds what every policy is held to before it comes into force.
type policyGate struct {
	authorities map[string]*ca.Authority
	recorder    *store.Recorder
	// signers is the file of allowed signers, read anew for each look; empty if signatures are not asked for.
	signers  string
	runTests bool
	now      func() time.Time
}

func gate(cfg *Config, authorities map[string]*ca.Authority, recorder *store.Recorder) policyGate {
	return policyGate{authorities, recorder, cfg.path(cfg.Policy.AllowedSigners), cfg.Policy.RunTests, cfg.Now}
}

// signed holds a commit against the allowed signers. A commit that the log has as being in force was held against them when it
// came, and its signer's time may be over by now.
func (g *policyGate) signed(ctx context.Context, b *policy.Bundle, inForce ca.PolicyRef) error {
	if g.signers == "" {
		return nil
	}
	if b.Commit != nil && !b.Dirty && b.Revision == inForce.Revision {
		before, err := g.recorder.PolicyCommit(ctx)
		if err != nil {
			return err
		}
		if before.GetSigningKey() != "" {
			b.Commit.Signer, b.Commit.SigningKey = before.GetSigner(), before.GetSigningKey()
			return nil
		}
	}
	signers, err := policy.LoadSigners(g.signers)
	if err != nil {
		return err
	}
	return signers.Verify(b, g.now())
}

// compile also refuses a policy that names an Authority which this daemon does not have.
func (g *policyGate) compile(b *policy.Bundle) (*policy.Policy, error) {
	compiled, err := policy.Compile(b)
	if err != nil {
		return nil, &policy.Fault{Kind: pb.PolicyFault_POLICY_FAULT_BROKEN, Err: err}
	}
	for _, name := range compiled.Authorities() {
		if g.authorities[name] == nil {
			return nil, &policy.Fault{
				Kind: pb.PolicyFault_POLICY_FAULT_BROKEN, Err: fmt.Errorf("the policy names the authority %q, which hallpassd.yaml does not have", name),
			}
		}
	}
	return compiled, nil
}

// tested runs the policy's own tests, if that is asked for.
func (g *policyGate) tested(ctx context.Context, b *policy.Bundle, p *policy.Policy) error {
	if !g.runTests {
		return nil
	}
	suite, err := p.ReadTests(b)
	if err != nil {
		return &policy.Fault{Kind: pb.PolicyFault_POLICY_FAULT_TESTS_FAILED, Err: fmt.Errorf("its tests cannot be read: %w", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	report := p.RunTests(ctx, suite)
	failed := report.Failed()
	if failed == 0 && ctx.Err() == nil {
		return nil
	}
	if failed == 0 {
		return &policy.Fault{Kind: pb.PolicyFault_POLICY_FAULT_TESTS_FAILED, Err: fmt.Errorf("its tests did not end: %w", ctx.Err())}
	}
	var told []error
	for _, result := range report.Results {
		if len(result.Failures) > 0 {
			told = append(told, fmt.Errorf("case %q: %w", result.Case.Name, result.Failures))
		}
	}
	return &policy.Fault{
		Kind: pb.PolicyFault_POLICY_FAULT_TESTS_FAILED,
		Err:  fmt.Errorf("%d of its %d tests fail:\n%w", failed, len(report.Results), errors.Join(told...)),
	}
}

// faultOf is the kind of reason that kept a policy out.
func faultOf(err error) pb.PolicyFault {
	if f, ok := errors.AsType[*policy.Fault](err); ok {
		return f.Kind
	}
	return pb.PolicyFault_POLICY_FAULT_UNREADABLE
}

// faultWord is the word for a fault in metrics and in the daemon's own log.
func faultWord(f pb.PolicyFault) string {
	return strings.ToLower(strings.TrimPrefix(f.String(), "POLICY_FAULT_"))
}

// refusal is a policy that was refused, as far as it tells one refusal from the next.
type refusal struct {
	fault             pb.PolicyFault
	revision, message string
}

// again says whether a refusal that a look came to was recorded already. A poll records the same commit and the same fault once,
// and so does a start; somebody who asked gets a record for each message.
func (r refusal) again(last refusal, cause string) bool {
	if r == last {
		return true
	}
	named := r.revision != "" || r.fault == pb.PolicyFault_POLICY_FAULT_UNREADABLE
	return cause != causeReload && cause != causeAccept && named && r.fault == last.fault && r.revision == last.revision
}

// bounded cuts an error so that it fits a record.
func bounded(s string) string {
	const limit = 4000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + " ..."
}
