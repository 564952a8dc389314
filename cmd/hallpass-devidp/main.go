// Command hallpass-devidp is an OpenID Connect provider for development.
package main

import (
	"fmt"
	"os"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
)

func main() {
	if err := devidp.Command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "hallpass-devidp:", err)
		os.Exit(1)
	}
}
