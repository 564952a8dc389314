package policy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// calendar says when something is so: in its windows, on its days, in its hours, as the clock on the wall shows them in its
// zone. What it does not have does not restrict it.
type calendar struct {
	name    string // with the prefix calendars.
	zone    *time.Location
	days    [7]bool // by time.Weekday; all false for every day
	hours   []hours
	windows []window
}

// hours are part of each day, in minutes since midnight: the first is in, the last is not.
type hours struct{ from, to int }

// window is a span of time. Both ends are what the clock on the wall shows: the first instant is in, the last is not. So a change
// to summer time or back moves neither.
type window struct{ from, to time.Time }

// Bounds of calendars.
const (
	maxCalendars = 100
	maxWindows   = 100 // and hours, of one
)

// contains says whether an instant is in the calendar.
func (c *calendar) contains(t time.Time) bool {
	wall := c.wall(t)
	if c.days != [7]bool{} && !c.days[wall.Weekday()] {
		return false
	}
	minute := wall.Hour()*60 + wall.Minute()
	if len(c.hours) > 0 && !slices.ContainsFunc(c.hours, func(h hours) bool { return h.from <= minute && minute < h.to }) {
		return false
	}
	return len(c.windows) == 0 || slices.ContainsFunc(c.windows, func(w window) bool { return !wall.Before(w.from) && wall.Before(w.to) })
}

// wall is what the clock on the wall shows, as if that were UTC, so that it can be compared.
func (c *calendar) wall(t time.Time) time.Time {
	t = t.In(c.zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

type calendarDraft struct {
	calendar
	at item
}

func (c *compiler) calendars(it item) {
	c.pairs(it, "calendars", func(name string, key, value item) {
		d := &calendarDraft{calendar: calendar{name: "calendars." + name, zone: time.UTC}, at: key}
		said := false
		when := func(key string, read func(it item)) field {
			return field{key: key, read: func(it item) { said = true; c.oneOrMore(it, key, read) }}
		}
		isMapping := c.mapping(value, "the calendar "+name, []field{
			{key: "zone", read: func(it item) { d.zone = c.zone(it) }},
			when("days", func(it item) { c.daysOf(it, &d.calendar) }),
			when("hours", func(it item) { c.hoursOf(it, &d.calendar) }),
			when("windows", func(it item) { c.windowOf(it, &d.calendar) }),
		})
		other, twice := c.draft.calendars[name]
		switch {
		case !c.named(key, name, "a calendar"):
		case twice:
			c.errorf(key, "the calendar %s is declared twice: also in %s, line %d", name, other.at.src.name, other.at.node.Line)
		case isMapping && !said:
			c.errorf(key, "the calendar %s has no days, hours or windows, and would always hold", name)
		case len(d.hours) > maxWindows || len(d.windows) > maxWindows:
			c.errorf(key, "the calendar %s has more than %d hours or windows", name, maxWindows)
		case len(c.draft.calendars) == maxCalendars:
			c.errorf(key, "the policy has more than %d calendars", maxCalendars)
		default:
			c.draft.calendars[name] = d
		}
	})
}

// oneOrMore reads a value, or a list of such.
func (c *compiler) oneOrMore(it item, what string, read func(item)) {
	switch {
	case it.node.Kind == yaml.ScalarNode:
		read(it)
	case it.node.Kind == yaml.SequenceNode && len(it.node.Content) == 0:
		c.errorf(it, "%s is empty: leave it out, or say which", what)
	default:
		c.list(it, what, read)
	}
}

func (c *compiler) zone(it item) *time.Location {
	s, ok := c.text(it, "zone")
	if !ok {
		return time.UTC
	}
	if zone, err := time.LoadLocation(s); err == nil && isZone(s) {
		return zone
	}
	c.errorf(it, "no such time zone %q: write one such as Europe/Berlin", s)
	return time.UTC
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // by time.Weekday

// daysOf reads a day such as sat, or a span such as mon-fri.
func (c *compiler) daysOf(it item, to *calendar) {
	s, ok := c.text(it, "an entry of days")
	if !ok {
		return
	}
	first, last, span := strings.Cut(s, "-")
	if !span {
		last = first
	}
	from, end := slices.Index(dayNames, first), slices.Index(dayNames, last)
	if from < 0 || end < 0 {
		c.errorf(it, "days are mon, tue, wed, thu, fri, sat, sun, or spans such as mon-fri, not %q", s)
		return
	}
	for d := from; ; d = (d + 1) % 7 {
		to.days[d] = true
		if d == end {
			return
		}
	}
}

var hoursForm = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)$`)

// hoursOf reads a part of a day such as 08:00-18:00.
func (c *compiler) hoursOf(it item, to *calendar) {
	s, ok := c.text(it, "an entry of hours")
	if !ok {
		return
	}
	m := hoursForm.FindStringSubmatch(s)
	if m == nil {
		c.errorf(it, "hours are written as 08:00-18:00, the last minute not in, up to 24:00, not %q", s)
		return
	}
	minutes := func(hour, minute string) int {
		h, _ := strconv.Atoi(hour)
		m, _ := strconv.Atoi(minute)
		return h*60 + m
	}
	h := hours{minutes(m[1], m[2]), 24 * 60}
	if m[3] != "" {
		h.to = minutes(m[3], m[4])
	}
	if h.from >= h.to {
		c.errorf(it, "the hours %s end before they begin: past midnight, write two, such as [22:00-24:00, 00:00-06:00]", s)
		return
	}
	to.hours = append(to.hours, h)
}

func (c *compiler) windowOf(it item, of *calendar) {
	var w window
	var from, to bool
	isMapping := c.mapping(it, "a window", []field{
		{key: "from", read: func(it item) { from = true; w.from, _ = c.wallTime(it, "from") }},
		{key: "to", read: func(it item) {
			day := false
			to = true
			if w.to, day = c.wallTime(it, "to"); day {
				w.to = w.to.AddDate(0, 0, 1) // through that day
			}
		}},
	})
	switch {
	case !isMapping:
	case !from || !to:
		c.errorf(it, "a window has from and to, each a day such as 2026-12-20 or a time such as 2026-12-20T18:00")
	case w.from.IsZero() || w.to.IsZero(): // a mistake of its own
	case !w.from.Before(w.to):
		c.errorf(it, "the window ends before it begins")
	default:
		of.windows = append(of.windows, w)
	}
}

// wallTime reads a day or a time without a zone, which is that of the calendar. It says whether it is a day.
func (c *compiler) wallTime(it item, what string) (t time.Time, day bool) {
	s, ok := c.scalar(it, what, "a day such as 2026-12-20, or a time such as 2026-12-20T18:00", "!!timestamp", "!!str")
	if !ok {
		return t, false
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, true
	}
	t, err := time.Parse("2006-01-02T15:04", s)
	if err != nil {
		c.errorf(it, "%s must be a day such as 2026-12-20, or a time such as 2026-12-20T18:00, which is of the calendar's zone, not %q", what, s)
	}
	return t, false
}
