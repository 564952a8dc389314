// Command hallpass is everybody's tool: it signs in, gets certificates, and makes ssh use them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hallpass-ssh/hallpass/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
