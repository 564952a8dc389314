package daemon_test

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

func TestMain(m *testing.M) {
	// What is parallel here mostly waits: for a daemon that looks again in a second, or tries again in ten.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil { // unless the command line says otherwise
		panic(err)
	}
	os.Exit(m.Run())
}
