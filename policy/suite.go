package policy

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hallpass-ssh/hallpass/ca"
)

// testSuffix ends the names of files that hold tests. They are no part of the policy.
const testSuffix = "_test.yaml"

// TestSuite holds the test cases of a policy.
type TestSuite struct {
	Cases []*TestCase
}

// TestCase is a question to the policy, and what its decision must be.
type TestCase struct {
	Name string
	// File, Line and Column say where the case stands.
	File         string
	Line, Column int

	question ca.Question
	history  ca.History
	outcome  check
	checks   []check // of a decision with the right outcome
}

// check is one expectation. It returns what is wrong with a decision, or nothing.
type check struct {
	at   item
	hold func(ca.Question, ca.Decision) string
}

// Only returns the cases whose "file/name" matches re.
func (s *TestSuite) Only(re *regexp.Regexp) *TestSuite {
	some := &TestSuite{}
	for _, c := range s.Cases {
		if re.MatchString(c.File + "/" + c.Name) {
			some.Cases = append(some.Cases, c)
		}
	}
	return some
}

// ReadTests reads the cases in all *_test.yaml files of a bundle, which is the one that the policy was compiled from. Its error
// is an Errors that holds every mistake: names of rules, identities and claims that the policy does not have are some.
func (p *Policy) ReadTests(b *Bundle) (*TestSuite, error) {
	r := &suiteReader{policy: p, suite: &TestSuite{}}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		if strings.HasSuffix(name, testSuffix) {
			r.file(name, b.Files[name])
		}
	}
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	return r.suite, nil
}

// suiteReader reads the files of a suite, one after another.
type suiteReader struct {
	reader
	policy *Policy
	suite  *TestSuite

	// of the file that is being read
	standard   described
	identities map[string]ca.Identity
	names      map[string]int // of cases, with their lines
}

// described is a question as it is written. What is absent falls to the defaults of the file, then to those of the language.
type described struct {
	identity ca.Identity
	// A person's token is bound and from a sign-in five minutes ago, a workload's neither: nil stands for that.
	bound    *bool
	authAge  *time.Duration // negative for none
	issueAge time.Duration
	request  ca.Request
	lists    describedLists
	history  describedHistory
	now      time.Time
}

// Where nothing else is said.
const (
	standardIssuer   = "https://idp.example.com"
	standardSubject  = "someone"
	standardAuthAge  = 5 * time.Minute
	standardIssueAge = time.Minute
	standardSource   = "192.0.2.1" // RFC 5737
)

// file reads one file. Cases come last, wherever they stand, because they refer to the rest.
func (r *suiteReader) file(name string, text []byte) {
	root, ok := r.document(name, text)
	if !ok {
		return
	}
	r.standard, r.identities, r.names = standardQuestion(), map[string]ca.Identity{}, map[string]int{}
	var defaults, identities, cases item
	isMapping := r.mapping(root, "a test file", []field{
		{key: "defaults", read: func(it item) { defaults = it }},
		{key: "identities", read: func(it item) { identities = it }},
		{key: "cases", read: func(it item) { cases = it }},
	})
	if defaults.node != nil {
		r.mapping(defaults, "defaults", r.questionFields(&r.standard))
	}
	if identities.node != nil {
		r.pairs(identities, "identities", func(name string, _, value item) {
			id := cloneIdentity(r.standard.identity)
			if id.Subject == standardSubject {
				id.Subject = name
			}
			r.describe(value, &id)
			r.identities[name] = id
		})
	}
	switch {
	case cases.node != nil:
		r.list(cases, "cases", r.testCase)
	case isMapping:
		r.errorf(root, "the file has no cases")
	}
}

func (r *suiteReader) testCase(it item) {
	c := &TestCase{File: it.src.name, Line: it.node.Line, Column: it.node.Column}
	d := r.standard
	d.identity, d.lists = cloneIdentity(d.identity), maps.Clone(d.lists)
	var expect item
	isMapping := r.mapping(it, "a case", append(r.questionFields(&d),
		field{key: "name", read: func(it item) { c.Name = r.caseName(it) }},
		field{key: "expect", read: func(it item) { expect = it }}))
	if !isMapping {
		return
	}
	for _, missing := range []struct {
		is   bool
		what string
	}{
		{c.Name == "", "name"},
		{expect.node == nil, "expect"},
		{d.request.Login == "", "login: write request: {login: ...}"},
		{d.request.Host == "", "host: write request: {host: ...}"},
		{d.now.IsZero(), "now: write a time such as 2026-11-23T12:00:00Z here or under defaults, so that the case means the same tomorrow"},
	} {
		if missing.is {
			r.errorf(it, "the case has no %s", missing.what)
		}
	}
	if expect.node != nil {
		r.expect(expect, c)
	}
	c.question, c.history = d.question(), d.history.at(d.now)
	r.suite.Cases = append(r.suite.Cases, c)
}

func (r *suiteReader) caseName(it item) string {
	s, ok := r.text(it, "name")
	if !ok {
		return "?" // a mistake already
	}
	if line, twice := r.names[s]; twice {
		r.errorf(it, "the name of the case is taken: also in line %d", line)
	}
	r.names[s] = it.node.Line
	return s
}

func standardQuestion() described {
	return described{
		identity: ca.Identity{Issuer: standardIssuer, Subject: standardSubject, Kind: ca.Person, Claims: map[string]any{}},
		issueAge: standardIssueAge, lists: describedLists{},
		request: ca.Request{PublicKey: ca.DescribedKey(ssh.KeyAlgoED25519), SourceIP: netip.MustParseAddr(standardSource)},
	}
}

func cloneIdentity(id ca.Identity) ca.Identity {
	id.Claims = maps.Clone(id.Claims)
	return id
}

// question puts the parts together.
func (d described) question() ca.Question {
	q := ca.Question{Identity: d.identity, Request: d.request, Now: d.now, Lists: d.lists.fetched(d.now)}
	person := d.identity.Kind == ca.Person
	q.Token = ca.Token{Bound: person, IssuedAt: d.now.Add(-d.issueAge)}
	if d.bound != nil {
		q.Token.Bound = *d.bound
	}
	switch {
	case d.authAge != nil && *d.authAge >= 0:
		q.Token.AuthTime = d.now.Add(-*d.authAge)
	case d.authAge == nil && person:
		q.Token.AuthTime = d.now.Add(-standardAuthAge)
	}
	return q
}
