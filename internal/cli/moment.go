package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseMoment reads a time, a date (its first moment, UTC), or how long ago it was: 30d, 2w, or a duration such as 24h.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	if ago, err := parseAgo(s); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("%q: want a time such as 2026-11-01T00:00:00Z, a date such as 2026-11-01, or how long ago: 30d, 24h", s)
}

// parseAgo reads a duration, which may be in days or weeks.
func parseAgo(s string) (time.Duration, error) {
	for unit, long := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		digits, ok := strings.CutSuffix(s, unit)
		if n, err := strconv.ParseUint(digits, 10, 32); ok && err == nil && time.Duration(n) <= (1<<62)/long {
			return time.Duration(n) * long, nil
		}
	}
	return time.ParseDuration(s)
}

// parseBetween reads A..B, of which one may be empty.
func parseBetween(s string, now time.Time) (since, until time.Time, err error) {
	first, second, ok := strings.Cut(s, "..")
	if !ok || first == "" && second == "" {
		return since, until, fmt.Errorf("%q: want two times with .. between them, such as 2026-11-01..2026-11-15", s)
	}
	if first != "" {
		if since, err = parseMoment(first, now); err != nil {
			return since, until, err
		}
	}
	if second != "" {
		if until, err = parseMoment(second, now); err != nil {
			return since, until, err
		}
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return since, until, fmt.Errorf("%q: the first time is not before the second", s)
	}
	return since, until, nil
}
