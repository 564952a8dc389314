//go:build unix

package cli

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// replace becomes another program. It returns only if that cannot be started.
func replace(program string, args []string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("find %s: %w", program, err)
	}
	return fmt.Errorf("start %s: %w", path, syscall.Exec(path, append([]string{program}, args...), os.Environ()))
}
