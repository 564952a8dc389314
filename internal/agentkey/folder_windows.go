package agentkey

import "os"

// CheckFolder refuses nothing: Windows has neither owners nor modes in the sense of Unix, and the folders are in the user's profile.
func CheckFolder(string) error { return nil }

func makeRuntime(path string) error { return os.MkdirAll(path, 0o700) }
