//go:build unix

package agentkey

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

func dialAgent(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", socket)
}

// checkOwner refuses an agent that belongs to somebody else: whoever runs it could sign with what we give it.
func checkOwner(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("find the agent: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("the agent at %s belongs to another user", path)
	}
	return nil
}
