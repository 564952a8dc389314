// Package version knows which build of Hallpass this is.
package version

import "runtime/debug"

// Version is what `git describe` said about the tree that was built. The linker sets it; empty in builds without the Makefile.
var Version string

// String returns the version of the running program: the linker's, else the module version that `go install` recorded, else the
// commit, else "dev". It is never empty.
func String() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	return fromBuildInfo(info)
}

func fromBuildInfo(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && s.Value != "" {
			return s.Value
		}
	}
	return "dev"
}
