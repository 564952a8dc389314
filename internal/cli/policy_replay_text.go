package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
)

// Bounds of what people are shown of a replay. -o json has more.
const (
	maxReplayGroups = 15 // of one kind
	maxReplayPeople = 5  // of one group
)

// replayKinds are the kinds of changes in their order, with what happens to people.
var replayKinds = []struct {
	kind  policy.ChangeKind
	title string
	count func(*policy.ReplaySummary) uint64
}{
	{policy.Gains, "gain access", func(s *policy.ReplaySummary) uint64 { return s.Gains }},
	{policy.Loses, "lose access", func(s *policy.ReplaySummary) uint64 { return s.Loses }},
	{policy.Regrants, "get another grant", func(s *policy.ReplaySummary) uint64 { return s.Regrants }},
	{policy.Refuses, "are refused for another reason", func(s *policy.ReplaySummary) uint64 { return s.Refuses }},
}

// replayHeadline says in one sentence what a replay came to.
func replayHeadline(s *policy.ReplaySummary) string {
	if s.Decisions == 0 {
		return "There are no decisions in this range."
	}
	line := count(s.Decisions, "decision")
	if !s.From.IsZero() {
		line += " from " + replayTime(s.From) + " to " + replayTime(s.To)
	}
	if s.Compared < s.Decisions {
		line += ", of which " + grouped(s.Compared) + " can be compared"
	}
	if s.Changed == 0 {
		return line + ": none would change."
	}
	var parts []string
	for _, k := range replayKinds {
		if n := k.count(s); n > 0 {
			parts = append(parts, grouped(n)+" "+k.title)
		}
	}
	return line + ": " + grouped(s.Changed) + " would change. " + strings.Join(parts, ", ") + "."
}

// replayReviews says how many decisions people would have to look at; nothing if there are none either way.
func replayReviews(s *policy.ReplaySummary) string {
	if s.ReviewsBefore == 0 && s.ReviewsAfter == 0 && s.ReviewsUnknown == 0 {
		return ""
	}
	line := fmt.Sprintf("Reviews asked for: %s then, %s by the new rules", grouped(s.ReviewsBefore), grouped(s.ReviewsAfter))
	if s.ReviewsUnknown > 0 {
		line += fmt.Sprintf("; of %s it cannot be told, because what they want to know of the past was not recorded", count(s.ReviewsUnknown, "decision"))
	}
	return line + "."
}

func replayTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// replayGroups returns the groups of a kind that are shown, and how many decisions are in others.
func replayGroups(s *policy.ReplaySummary, kind policy.ChangeKind) (shown []policy.ChangeGroup, more uint64) {
	for _, g := range s.Changes {
		switch {
		case g.Kind != kind:
		case len(shown) < maxReplayGroups:
			shown = append(shown, g)
		default:
			more += g.Decisions
		}
	}
	return shown, more
}

// replayPeople lists the identities of a group.
func replayPeople(g policy.ChangeGroup) string {
	var names []string
	for _, who := range g.Identities[:min(len(g.Identities), maxReplayPeople)] {
		name := who.Identity
		if who.Decisions > 1 {
			name += fmt.Sprintf(" (%s)", grouped(who.Decisions))
		}
		names = append(names, name)
	}
	text := strings.Join(names, ", ")
	if n := len(g.Identities) - len(names); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	if g.MoreDecisions > 0 {
		text += " and others"
	}
	return text
}

// replayChange says what changes for a group.
func replayChange(g policy.ChangeGroup) string {
	before, after := replaySide(g.Before), replaySide(g.After)
	if g.Kind != policy.Regrants {
		return before + " -> " + after
	}
	text := g.After.Rule
	if g.Before.Rule != g.After.Rule {
		text = g.Before.Rule + " -> " + g.After.Rule
	}
	for i, d := range g.Differences {
		text += map[bool]string{true: ": ", false: "; "}[i == 0] + d.What + " " + orNone(d.Before) + " -> " + orNone(d.After)
	}
	return text
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func replaySide(d policy.ReplayDecision) string {
	switch {
	case d.Outcome == "allow":
		return "allowed by " + d.Rule
	case d.Outcome == "needs":
		return "needs " + d.Needs + " (" + d.Rule + ")"
	case d.Rule != "":
		return "refused by " + d.Rule
	}
	return "refused, no rule"
}

// replaySkip says why decisions were not compared.
func replaySkip(s policy.SkipGroup) string {
	words := map[policy.SkipReason]string{
		policy.SkipNotAsked: "refused before the policy was asked", policy.SkipErased: "inputs erased",
		policy.SkipUnread: "the record cannot be read", policy.SkipPolicy: "its own policy cannot be asked again",
		policy.SkipEngine: "another engine decided", policy.SkipClaim: "a claim was not recorded then",
		policy.SkipCeiling: "allowed by the policy, refused by a ceiling after it", policy.SkipSlow: "the policy ran out of time",
	}[s.Reason]
	if s.Detail != "" {
		words += ": " + s.Detail
	}
	return words
}

func replayText(s *policy.ReplaySummary) string {
	var b strings.Builder
	for i, alarm := range s.Alarms {
		if i == 0 {
			fmt.Fprintf(&b, "ALARM: %s not reproduced by the policy that made them\n", count(s.NotReproduced, "decision"))
		}
		for _, d := range alarm.Differences {
			fmt.Fprintf(&b, "  record %s, policy %s: the %s is recorded as %q, and comes to %q\n", alarm.Record, short(alarm.Policy), d.What, d.Recorded, d.Now)
		}
	}
	if n := s.NotReproduced - uint64(len(s.Alarms)); n > 0 {
		fmt.Fprintf(&b, "  and %s more\n", grouped(n))
	}
	fmt.Fprintln(&b, replayHeadline(s))
	if line := replayReviews(s); line != "" {
		fmt.Fprintln(&b, line)
	}
	for _, k := range replayKinds {
		shown, more := replayGroups(s, k.kind)
		if len(shown) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s\n", k.title)
		for _, g := range shown {
			fmt.Fprintf(&b, "  %s on %s: %s\n      %s; record %s\n", count(g.Decisions, "decision"), orNone(g.Environment), replayChange(g), replayPeople(g), g.FirstRecord)
		}
		if more > 0 {
			fmt.Fprintf(&b, "  and %s more\n", grouped(more))
		}
	}
	if s.MoreChanges > 0 {
		fmt.Fprintf(&b, "\nand %s more that change in other ways\n", grouped(s.MoreChanges))
	}
	for i, skip := range s.Skipped {
		if i == 0 {
			fmt.Fprintf(&b, "\nnot compared\n")
		}
		if i == maxReplayGroups {
			fmt.Fprintf(&b, "  and %d more reasons\n", len(s.Skipped)-i)
			break
		}
		fmt.Fprintf(&b, "  %s: %s; record %s\n", count(skip.Decisions, "decision"), replaySkip(skip), skip.FirstRecord)
	}
	return b.String()
}

func replayMarkdown(s *policy.ReplaySummary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Policy replay\n\n")
	if s.NotReproduced > 0 {
		fmt.Fprintf(&b, "> [!CAUTION]\n> **%s not reproduced by the policy that made them**: a mistake in a program, or somebody changed the log.\n\n",
			count(s.NotReproduced, "decision"))
		fmt.Fprintf(&b, "| record | policy | what | recorded | now |\n|---|---|---|---|---|\n")
		for _, alarm := range s.Alarms {
			for _, d := range alarm.Differences {
				row(&b, alarm.Record, short(alarm.Policy), d.What, d.Recorded, d.Now)
			}
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "%s\n", markdownCell(replayHeadline(s)))
	if line := replayReviews(s); line != "" {
		fmt.Fprintf(&b, "\n%s\n", markdownCell(line))
	}
	for _, k := range replayKinds {
		shown, more := replayGroups(s, k.kind)
		if len(shown) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n**%s %s**\n\n| decisions | environment | change | who | record |\n|---:|---|---|---|---:|\n", grouped(k.count(s)), k.title)
		for _, g := range shown {
			row(&b, grouped(g.Decisions), orNone(g.Environment), replayChange(g), replayPeople(g), g.FirstRecord)
		}
		if more > 0 {
			fmt.Fprintf(&b, "\nand %s more\n", grouped(more))
		}
	}
	if s.MoreChanges > 0 {
		fmt.Fprintf(&b, "\nand %s more that change in other ways\n", grouped(s.MoreChanges))
	}
	if len(s.Skipped) > 0 {
		fmt.Fprintf(&b, "\n<details><summary>%s not compared</summary>\n\n| decisions | why | record |\n|---:|---|---:|\n", count(s.SkippedDecisions(), "decision"))
		for _, skip := range s.Skipped[:min(len(s.Skipped), maxReplayGroups)] {
			row(&b, grouped(skip.Decisions), replaySkip(skip), skip.FirstRecord)
		}
		fmt.Fprintf(&b, "\n</details>\n")
	}
	return b.String()
}

// row writes a row of a Markdown table.
func row(b *strings.Builder, cells ...string) {
	for i := range cells {
		cells[i] = markdownCell(cells[i])
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// cell makes text harmless in Markdown: a name must not become a link, a mention or a tag.
func markdownCell(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case slices.Contains([]rune("\\`*_[]<>|#~!"), r):
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '@':
			b.WriteString("&#64;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '\n' || r == '\r':
			b.WriteRune(' ')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
