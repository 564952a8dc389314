package ca

import "io/fs"

// checkOwner refuses nothing: Windows has no owners in the sense of Unix.
func checkOwner(string, fs.FileInfo) error { return nil }
