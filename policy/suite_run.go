package policy

import (
	"context"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hallpass-ssh/hallpass/ca"
)

// TestReport is what a run of tests came to.
type TestReport struct {
	Results []TestResult // in the order of the cases
}

// Failed counts the cases that failed.
func (r TestReport) Failed() int {
	n := 0
	for _, one := range r.Results {
		if len(one.Failures) > 0 {
			n++
		}
	}
	return n
}

// TestResult is what one case came to.
type TestResult struct {
	Case *TestCase
	// Decision is what the policy said.
	Decision ca.Decision
	// Failures say, at its place, which expectation was not met; none if the case passed.
	Failures Errors
	// Elapsed is how long the decision took.
	Elapsed time.Duration
}

// RunTests asks the policy every question of the suite, as the daemon would, and holds the decisions against what is expected.
func (p *Policy) RunTests(ctx context.Context, s *TestSuite) TestReport {
	report := TestReport{Results: make([]TestResult, len(s.Cases))}
	for i, c := range s.Cases {
		start := time.Now()
		d := p.Decide(ctx, c.question)
		report.Results[i] = TestResult{Case: c, Decision: d, Failures: c.failures(d), Elapsed: time.Since(start)}
	}
	return report
}

// failures holds a decision against the expectations. With the wrong outcome the others would only be noise.
func (c *TestCase) failures(d ca.Decision) Errors {
	if message := c.outcome.hold(c.question, d); message != "" {
		return Errors{c.outcome.at.src.errorAt(c.outcome.at.place(), "%s", message)}
	}
	var failures Errors
	for _, one := range c.checks {
		if message := one.hold(c.question, d); message != "" {
			failures = append(failures, one.at.src.errorAt(one.at.place(), "%s", message))
		}
	}
	return failures
}

func isScalar(it item) bool { return it.node.Kind == yaml.ScalarNode }
