//go:build !unix

package bolt

// checkSpace counts every file system as roomy: a copy ends when the disk is full.
func checkSpace(string, int64) error { return nil }

// freeSpace cannot tell.
func freeSpace(string) (int64, bool) { return 0, false }
