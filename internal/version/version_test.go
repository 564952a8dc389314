package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuildInfo(t *testing.T) {
	revision := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "4a66b3d"}}
	for _, tt := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"a module version beats the commit", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: revision}, "v1.2.3"},
		{"a development build names its commit", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: revision}, "4a66b3d"},
		{"a build that knows nothing says dev", debug.BuildInfo{}, "dev"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fromBuildInfo(&tt.info); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestStringPrefersTheLinkersVersion(t *testing.T) {
	old := Version
	t.Cleanup(func() { Version = old })
	Version = ""
	if String() == "" {
		t.Error("a build without a version says nothing")
	}
	Version = "v9.9.9"
	if got := String(); got != "v9.9.9" {
		t.Errorf("got %q, want the linker's version", got)
	}
}
