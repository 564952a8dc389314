package bolt_test

import "os"

// rounds is how often something is tried: few times, or many with HALLPASS_LONG, as in make e2e.
func rounds(few, many int) int {
	if os.Getenv("HALLPASS_LONG") != "" {
		return many
	}
	return few
}
