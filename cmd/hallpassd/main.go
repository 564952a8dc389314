// Command hallpassd is the Hallpass SSH certificate authority.
package main

import (
	"os"

	"github.com/hallpass-ssh/hallpass/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr))
}
