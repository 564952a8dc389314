package agentkey

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// writePrivate writes a new file that only the user can read, into a folder that is private. It never follows or reuses what is
// there.
func writePrivate(path string, block *pem.Block) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace private key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write private key: %w", err)
	}
	if err := errors.Join(pem.Encode(file, block), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("write private key: %w", err), os.Remove(path))
	}
	return nil
}
