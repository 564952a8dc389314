package verify

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"
)

// puller reads the stored hashes in step with the records.
type puller struct {
	next func() ([]byte, error, bool)
	stop func()
}

func newPuller(hashes iter.Seq2[[]byte, error]) *puller {
	next, stop := iter.Pull2(hashes)
	return &puller{next, stop}
}

// hash wants the next stored hash to be h.
func (p *puller) hash(h tlog.Hash, wrong string) error {
	stored, err, ok := p.next()
	switch {
	case !ok:
		return errors.New("its hash is missing")
	case err != nil:
		return fmt.Errorf("read its hash: %w", err)
	case !bytes.Equal(stored, h[:]):
		return errors.New(wrong)
	}
	return nil
}

// end wants no more hashes.
func (p *puller) end() error {
	_, err, ok := p.next()
	if !ok {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the hashes of the tree: %w", err)
	}
	return errors.New("there are more hashes than the records have")
}
