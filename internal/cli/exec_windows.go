package cli

import (
	"os"
	"os/exec"
)

// replace runs another program to its end in place of this one, which Windows cannot become.
func replace(program string, args []string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
