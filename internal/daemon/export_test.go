package daemon

import (
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/server"
)

// Observers are those of a daemon whose calls are not traced.
func Observers() (ca.Observer, server.Observer) {
	return (&daemon{metrics: newMetrics()}).observers(nil)
}
