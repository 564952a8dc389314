package cli

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

type testRunJSON struct {
	OK       bool           `json:"ok"`
	Mistakes []mistakeJSON  `json:"mistakes"`
	Cases    []testCaseJSON `json:"cases"`
	Coverage *coverageJSON  `json:"coverage,omitempty"`
}

type testCaseJSON struct {
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Name     string        `json:"name"`
	Passed   bool          `json:"passed"`
	Outcome  string        `json:"outcome"`
	Rule     string        `json:"rule,omitempty"`
	Message  string        `json:"message"`
	Seconds  float64       `json:"seconds"`
	Failures []mistakeJSON `json:"failures"`
}

type coverageJSON struct {
	Percent float64         `json:"percent"`
	Covered int             `json:"covered"`
	Total   int             `json:"total"`
	Missing []uncoveredJSON `json:"missing"`
}

type uncoveredJSON struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	Rule      string `json:"rule"`
	Condition string `json:"condition,omitempty"`
	Value     bool   `json:"value"`
}

var outcomeWords = map[ca.Outcome]string{ca.Allow: "allow", ca.Deny: "deny", ca.NeedsMore: "needs"}

// json is the run for machines; OK says that every case passed.
func (r testRun) json() testRunJSON {
	out := testRunJSON{OK: r.report.Failed() == 0, Mistakes: []mistakeJSON{}, Cases: []testCaseJSON{}}
	for _, one := range r.report.Results {
		out.Cases = append(out.Cases, testCaseJSON{
			File: one.Case.File, Line: one.Case.Line, Name: one.Case.Name, Passed: len(one.Failures) == 0,
			Outcome: outcomeWords[one.Decision.Outcome], Rule: one.Decision.Rule, Message: one.Decision.Message,
			Seconds: one.Elapsed.Seconds(), Failures: mistakesJSON(one.Failures),
		})
	}
	if c := r.coverage; c != nil {
		out.Coverage = &coverageJSON{c.Percent(), c.Covered, c.Total, []uncoveredJSON{}}
		for _, u := range c.Missing {
			out.Coverage.Missing = append(out.Coverage.Missing, uncoveredJSON(u))
		}
	}
	return out
}

func mistakesJSON(all policy.Errors) []mistakeJSON {
	out := []mistakeJSON{}
	for _, m := range all {
		out = append(out, mistakeJSON{m.File, m.Line, m.Column, m.Message})
	}
	return out
}

// The part of JUnit XML that CI systems agree on: one suite a file, one failure a case.
type (
	junitReport struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(name string, r testRun) error {
	report := junitReport{
		Tests: len(r.report.Results), Failures: r.report.Failed(), Time: fmt.Sprintf("%.3f", r.elapsed.Seconds()),
	}
	for _, one := range r.report.Results {
		if n := len(report.Suites); n == 0 || report.Suites[n-1].Name != one.Case.File {
			report.Suites = append(report.Suites, junitSuite{Name: one.Case.File})
		}
		suite := &report.Suites[len(report.Suites)-1]
		c := junitCase{
			Name: one.Case.Name, Class: strings.TrimSuffix(one.Case.File, ".yaml"), File: one.Case.File, Line: one.Case.Line,
			Time: fmt.Sprintf("%.6f", one.Elapsed.Seconds()),
		}
		suite.Tests++
		if len(one.Failures) > 0 {
			suite.Failures++
			c.Failure = &junitFailure{one.Failures[0].Message, one.Failures.Error()}
		}
		suite.Cases = append(suite.Cases, c)
	}
	text, err := xml.MarshalIndent(report, "", "  ")
	if err == nil {
		err = os.WriteFile(name, append([]byte(xml.Header), append(text, '\n')...), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the JUnit report: %w", err)
	}
	return nil
}
