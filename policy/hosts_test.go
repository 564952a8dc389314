package policy_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hallpass-ssh/hallpass/policy"
)

var (
	patterns = rapid.StringOfN(rapid.SampledFrom([]rune("ab.*?")), 1, 8, -1)
	hosts    = rapid.StringOfN(rapid.SampledFrom([]rune("ab.")), 0, 8, -1)
)

// TestPatternsMatchAsRegexpsDo holds the matcher against one that is known to be right.
func TestPatternsMatchAsRegexpsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern, host := patterns.Draw(t, "pattern"), hosts.Draw(t, "host")
		quoted := strings.NewReplacer(".", `\.`, "*", ".*", "?", ".").Replace(pattern)
		want := regexp.MustCompile("^(?:" + quoted + ")$").MatchString(host)
		if got := policy.MatchHost(pattern, host); got != want {
			t.Fatalf("%q matches %q: got %v", pattern, host, got)
		}
		if got := policy.Edits(host, pattern) == 0; got != want {
			t.Fatalf("%q is no edit away from %q: got %v", host, pattern, got)
		}
	})
}

// TestOverlapIsExact compares with all hosts up to a length: a witness shorter than both patterns together always exists.
func TestOverlapIsExact(t *testing.T) {
	short := rapid.StringOfN(rapid.SampledFrom([]rune("ab*?")), 1, 4, -1)
	var all []string
	for level := []string{""}; len(level[0]) <= 8; {
		all = append(all, level...)
		var next []string
		for _, s := range level {
			next = append(next, s+"a", s+"b")
		}
		level = next
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := short.Draw(t, "a"), short.Draw(t, "b")
		want := ""
		found := false
		for _, host := range all {
			if policy.MatchHost(a, host) && policy.MatchHost(b, host) {
				want, found = host, true
				break
			}
		}
		if got := policy.Overlap(a, b); got != found {
			t.Fatalf("overlap of %q and %q: got %v; %q matches both: %v", a, b, got, want, found)
		}
	})
}

func TestPatternThatGoesBackOftenIsFast(t *testing.T) {
	pattern := strings.Repeat("*a", 100) + "b"
	if policy.MatchHost(pattern, strings.Repeat("a", 250)) {
		t.Error("matches")
	}
}
