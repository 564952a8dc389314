package policy_test

import (
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
)

func TestCalendars(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	local := func(zone *time.Location, s string) time.Time {
		at, err := time.ParseInLocation("2006-01-02T15:04:05", s, zone)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	utc := func(s string) time.Time { return local(time.UTC, s) }
	for _, tt := range []struct {
		name     string
		calendar string
		now      time.Time
		want     bool
	}{
		{"the first instant of a day", "{windows: [{from: 2026-12-20, to: 2027-01-02}]}", utc("2026-12-20T00:00:00"), true},
		{"the instant before", "{windows: [{from: 2026-12-20, to: 2027-01-02}]}", utc("2026-12-19T23:59:59"), false},
		{"the last second of the last day", "{windows: [{from: 2026-12-20, to: 2027-01-02}]}", utc("2027-01-02T23:59:59"), true},
		{"the day after the last", "{windows: [{from: 2026-12-20, to: 2027-01-02}]}", utc("2027-01-03T00:00:00"), false},
		{"one day", "{windows: [{from: 2026-12-20, to: 2026-12-20}]}", utc("2026-12-20T12:00:00"), true},
		{"days of a zone, before UTC gets there", "{zone: Europe/Berlin, windows: [{from: 2026-12-20, to: 2026-12-20}]}", utc("2026-12-19T23:30:00"), true},
		{"days of a zone, when they are over there", "{zone: Europe/Berlin, windows: [{from: 2026-12-20, to: 2026-12-20}]}", utc("2026-12-20T23:30:00"), false},
		{"a time at which a window ends", "{windows: [{from: '2026-12-20T18:00', to: '2026-12-20T20:00'}]}", utc("2026-12-20T20:00:00"), false},
		{"a second before a window ends", "{windows: [{from: 2026-12-20T18:00, to: 2026-12-20T20:00}]}", utc("2026-12-20T19:59:59"), true},
		{"one of two windows", "{windows: [{from: 2026-12-20, to: 2026-12-20}, {from: 2026-12-31, to: 2026-12-31}]}", utc("2026-12-31T12:00:00"), true},
		{"between two windows", "{windows: [{from: 2026-12-20, to: 2026-12-20}, {from: 2026-12-31, to: 2026-12-31}]}", utc("2026-12-25T12:00:00"), false},
		{"a leap day", "{windows: [{from: 2028-02-29, to: 2028-02-29}]}", utc("2028-02-29T12:00:00"), true},
		{"Sunday in a span over the weekend", "{days: [fri-mon]}", utc("2026-11-22T12:00:00"), true},
		{"Tuesday outside of it", "{days: fri-mon}", utc("2026-11-24T12:00:00"), false},
		{"hours up to midnight", "{hours: [22:00-24:00, 00:00-06:00]}", utc("2026-11-24T23:59:59"), true},
		{"hours from midnight", "{hours: [22:00-24:00, 00:00-06:00]}", utc("2026-11-24T00:00:00"), true},
		{"the end of the night", "{hours: [22:00-24:00, 00:00-06:00]}", utc("2026-11-24T06:00:00"), false},
		{"an hour that happens twice, first", "{zone: Europe/Berlin, hours: 02:00-03:00}", utc("2026-10-25T00:30:00"), true},
		{"an hour that happens twice, again", "{zone: Europe/Berlin, hours: 02:00-03:00}", utc("2026-10-25T01:30:00"), true},
		{"the hour after", "{zone: Europe/Berlin, hours: 02:00-03:00}", utc("2026-10-25T02:00:00"), false},
		{"an hour that does not happen", "{zone: Europe/Berlin, hours: 02:00-03:00}", utc("2026-03-29T01:00:00"), false},
		{"a window that begins in an hour that does not happen", "{zone: Europe/Berlin, windows: [{from: 2026-03-29T02:30, to: 2026-03-29T12:00}]}", utc("2026-03-29T01:00:00"), true},
		{"08:00 the day after summer time ends", "{zone: Europe/Berlin, hours: 08:00-18:00}", local(berlin, "2026-10-26T08:00:00"), true},
		{"08:00 the day after summer time begins", "{zone: America/New_York, hours: 08:00-18:00}", local(newYork, "2026-03-09T08:00:00"), true},
		{"days, hours and windows together", "{days: mon-fri, hours: 08:00-18:00, windows: [{from: 2026-11-01, to: 2026-11-30}]}", utc("2026-11-23T12:00:00"), true},
		{"the right hours on the wrong day", "{days: mon-fri, hours: 08:00-18:00, windows: [{from: 2026-11-01, to: 2026-11-30}]}", utc("2026-11-22T12:00:00"), false},
		{"the right hours and day in another month", "{days: mon-fri, hours: 08:00-18:00, windows: [{from: 2026-11-01, to: 2026-11-30}]}", utc("2026-12-01T12:00:00"), false},
		{"a zone that is half an hour off", "{zone: Asia/Kolkata, hours: 09:30-10:00}", utc("2026-11-23T04:00:00"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, "version: 1\nenvironments: {staging: {hosts: ['*.staging.example.com']}}\ncalendars: {it: "+tt.calendar+"}\n"+
				"allow:\n- name: a\n  when: calendars.it\n  grant: {logins: [deploy], ttl: 1h}\n")
			q := question(t)
			q.Now = tt.now
			if got := decide(p, q).Outcome == ca.Allow; got != tt.want {
				t.Errorf("at %s: %v", tt.now, got)
			}
		})
	}
}
