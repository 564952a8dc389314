//go:build !linux

package daemon

import "time"

// uptime returns a clock of the time since now. It may stand while the machine sleeps.
func uptime() func() time.Duration {
	begin := time.Now()
	return func() time.Duration { return time.Since(begin) }
}
