package agentkey

import (
	"context"
	"io"
	"os"
)

// dialAgent opens the named pipe of the OpenSSH agent service. Windows guards it by its access list.
func dialAgent(_ context.Context, pipe string) (io.ReadWriteCloser, error) {
	return os.OpenFile(pipe, os.O_RDWR, 0)
}

func checkOwner(string) error { return nil }
