package server

// ToStatus is toStatus, for tests of what leaves the daemon.
var ToStatus = toStatus

// Allowed returns the table of methods in words: for each that is served, who may call it.
func Allowed() map[string][]string {
	words := map[string][]string{}
	for name, m := range methods {
		if m.callers == nobody {
			continue
		}
		words[name] = []string{}
		for _, c := range []struct {
			bit  callers
			word string
		}{{anybody, "anybody"}, {person, "person"}, {workload, "workload"}, {auditor, "auditor"}, {admin, "admin"}} {
			if m.callers&c.bit != 0 {
				words[name] = append(words[name], c.word)
			}
		}
	}
	return words
}
