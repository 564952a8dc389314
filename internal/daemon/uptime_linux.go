package daemon

import (
	"time"

	"golang.org/x/sys/unix"
)

// uptime returns a clock of the time since the machine was started. Unlike the one that time.Since reads, it goes on while the
// machine sleeps.
func uptime() func() time.Duration {
	begin := time.Now()
	return func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil { // since Linux 2.6.39, but a sandbox may forbid it
			return time.Since(begin)
		}
		return time.Duration(t.Nano())
	}
}
